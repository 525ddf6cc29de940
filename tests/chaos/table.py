"""The kill matrix as a table in the documentation."""

from collections.abc import Sequence
from pathlib import Path

from tests.chaos.cell import Result

_BEGIN, _END = "<!-- kill matrix: written by `make chaos` -->", "<!-- end of the kill matrix -->"
_COLUMNS = (
    "killed", "while jobs are", "accepted", "finished", "calls", "rows", "rows of dead workers", "unseen",
    "resumed streams", "in-band errors", "seconds", "violations",
)  # fmt: skip


def markdown(results: Sequence[Result]) -> str:
    rows = [
        (
            each.victim, each.phase, each.accepted, each.finished, each.calls, each.rows, each.unknown, each.unseen,
            each.resumed, each.in_band, f"{each.seconds:.1f}", len(each.violations),
        )
        for each in results
    ]  # fmt: skip
    numbers = ("accepted", "finished", "calls", "rows", "unknown", "unseen", "resumed", "in_band")
    sums = [sum(getattr(each, name) for each in results) for name in numbers]
    slowest = max((each.seconds for each in results), default=0.0)
    total = ("all", "", *sums, f"at most {slowest:.1f}", sum(len(each.violations) for each in results))
    return "\n".join(_row(row) for row in (_COLUMNS, ["---"] * len(_COLUMNS), *rows, total))


def write(path: Path, results: Sequence[Result]) -> None:
    """Replace what stands between the marks."""
    text = path.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, f"{path}: no marks to put the table between"
    path.write_text(f"{before}{begin}\n{markdown(results)}\n{end}{after}")


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
