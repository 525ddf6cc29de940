"""How the lanes stand: known without waiting wherever there is traffic, for admission and for answers that say so."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import field, replace
from typing import NamedTuple, Self

from api import lane_pace
from api.lane_pace import LanePace, Pace
from api.watch import Watch
from broker.interfaces import LaneStats
from shared.jobs import FIRST, Job, Lane
from shared.lane_reports import lane_id
from shared.values import value

_PATIENCE = 0.5  # seconds that an answer waits to be able to say it
_MOST = 1000  # lanes


@value(frozen=True, slots=True)
class Outlook:
    """What a job that joins a lane now has to expect. Made once a second, so that thousands may look."""

    lane: LaneStats | None = None
    """None while the queue cannot say. Its `drain_rate` is the pace."""
    position: int = 0
    """Jobs before it."""
    pace: Pace = lane_pace.UNKNOWN
    wait: float | None = None
    """Seconds until its turn; None when nobody can say: a paused lane, or one that nothing drains."""
    certain_wait: float = 0.0
    """`wait` where it is measured, so that a job may be refused for it; else 0."""
    headers: Mapping[str, str] = field(default_factory=dict)


UNKNOWN = Outlook()

LaneKey = tuple[str, Lane]
"""Provider and lane."""


class _Outlooks(NamedTuple):
    usual: Outlook
    """At the end of the lane. Precise for jobs of the lowest precedence, and for all while there is one tenant."""
    first: Outlook
    """For interactive jobs of precedence `FIRST`."""


class LaneBoard:
    """The depths are about a second old at most, and as old are the workers' reports behind the pace."""

    def __init__(self, read: Callable[[Collection[str]], Awaitable[list[LaneStats]]]) -> None:
        """`read` asks the queue and the workers about lanes with these ids."""
        self._ask = read
        self._paces: dict[LaneKey, LanePace] = {}  # as many as the config has lanes
        self._watch: Watch[LaneKey, _Outlooks] = Watch(
            self._read, unknown=_Outlooks(UNKNOWN, UNKNOWN), most=_MOST, name="lane board"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._watch.close()

    def outlook(self, job: Job) -> Outlook:
        """Unknown at the first look after a while without traffic: nobody waits for it."""
        usual, first = self._watch.look((job.provider, job.lane))
        return first if job.precedence == FIRST and job.lane is Lane.INTERACTIVE else usual

    async def lane(self, provider: str, lane: Lane) -> LaneStats | None:
        """The lane as it was within the last second; None while the queue cannot say."""
        return (await self._watch.wait((provider, lane), _PATIENCE)).usual.lane

    async def _read(self, keys: Collection[LaneKey]) -> dict[LaneKey, _Outlooks]:
        found = await self._ask({lane_id(*key) for key in keys})
        now = time.monotonic()
        return {(lane.provider, lane.lane): self._outlooks(lane, now) for lane in found}

    def _outlooks(self, lane: LaneStats, now: float) -> _Outlooks:
        key = (lane.provider, lane.lane)
        if (known := self._paces.get(key)) is None:
            known = self._paces[key] = LanePace()
        pace = known.observe(lane, now)
        return _Outlooks(outlook(lane, pace, lane.depth), outlook(lane, pace, lane.first))


def outlook(lane: LaneStats, pace: Pace, position: int) -> Outlook:
    """Behind so many jobs, at this pace."""
    wait = None
    if not lane.paused:
        wait = 0.0 if position == 0 else position / pace.rate if pace.rate > 0 else None
    headers = {"x-headrace-queue-position": str(position), "x-headrace-queue-depth": str(lane.depth)}
    if wait is not None:
        headers["x-headrace-estimated-wait-ms"] = str(round(wait * 1000))
    measured = wait if wait is not None and pace.measured else 0.0
    return Outlook(replace(lane, drain_rate=pace.rate), position, pace, wait, measured, headers)
