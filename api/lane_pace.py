"""How fast a lane drains while jobs wait on it. Pure.

A lane's drain rate is its workers' speed only while they have no want of jobs: of an idle lane it is as low as the
demand, and a burst that the workers would finish in a second seems to take minutes. So speed is measured from counts of
drained jobs, and only between looks that all found jobs waiting.
"""

from collections import deque
from dataclasses import dataclass

from broker.interfaces import LaneStats

_WINDOW = 30.0  # seconds that a measurement looks back
_GAP = 3.0  # seconds between two looks in which the lane may have been empty
_SETTLING = 1.0  # seconds until all reports are of the time since jobs began to wait
_LEAST = (3.0, 8)  # seconds and jobs of a measurement that is worth something: reports are up to a second old ...
_LEAST_SLOW = (10.0, 1)  # ... or these: long jobs end rarely
_MOST_LOOKS = 64


@dataclass(frozen=True, slots=True)
class Pace:
    rate: float
    """Jobs per second; 0 when nobody can say."""
    measured: bool
    """Whether this is the speed of the lane's workers. Else it is the best guess, and rather too slow."""


UNKNOWN = Pace(0.0, measured=False)


class LanePace:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=_MOST_LOOKS)  # when, and how many had been drained
        self._since: float | None = None  # when jobs began to wait
        self._looked = 0.0
        self._last = 0.0  # jobs per second, as measured last

    def observe(self, lane: LaneStats, now: float) -> Pace:
        """The pace, given that the lane looks like this now."""
        if lane.paused or lane.depth == 0 or lane.drained is None:
            self._since = None
            return UNKNOWN if lane.paused else self._guess(lane)
        self._look(lane.drained, now)
        if not self._looks:
            return self._guess(lane)
        began, drained = self._looks[0]
        seconds, jobs = now - began, lane.drained - drained
        if any(seconds >= long and jobs >= many for long, many in (_LEAST, _LEAST_SLOW)):
            self._last = jobs / seconds
            return Pace(self._last, measured=True)
        if seconds >= _LEAST_SLOW[0]:
            return UNKNOWN  # it stands still
        return self._guess(lane)

    def _look(self, drained: int, now: float) -> None:
        looks = self._looks
        a_worker_left = bool(looks) and drained < looks[-1][1]  # and took its count along
        if self._since is None or now - self._looked > _GAP or a_worker_left:
            self._since = now
            looks.clear()
        self._looked = now
        if now - self._since >= _SETTLING:
            looks.append((now, drained))
        while looks and now - looks[0][0] > _WINDOW:
            looks.popleft()

    def _guess(self, lane: LaneStats) -> Pace:
        return Pace(max(self._last, lane.drain_rate), measured=False)
