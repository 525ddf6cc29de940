"""Time that stands still until a test moves it."""

_NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z


class FakeClock:
    """A `shared.clock.Clock`."""

    def __init__(self, now: float = _NOON) -> None:
        self._now = now
        self._monotonic = 1_000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass for both clocks."""
        if seconds < 0:
            raise ValueError("time does not run backwards; step() sets the wall clock")
        self._now += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does; the monotonic clock does not notice."""
        self._now += seconds
