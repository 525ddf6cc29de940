"""The bounds of what workers say of themselves, the same in every event log."""

MAX_REPORT = 64 * 1024  # bytes
MAX_REPORTS = 1_000  # that one reading returns


def checked(report: bytes) -> bytes:
    if len(report) > MAX_REPORT:
        raise ValueError(f"a worker's report of {len(report)} bytes: {MAX_REPORT} are the most")
    return report
