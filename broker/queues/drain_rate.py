"""How fast a lane empties, as one process sees it: the truth behind `Retry-After`."""

import math

from shared.errors import QueueFull
from shared.jobs import Lane

TIME_CONSTANT = 30.0  # seconds; a job settled this long ago weighs 1/e of one settled now


class DrainRate:
    """Jobs per second, an exponentially weighted moving average. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._updated = now
        self._rate = 0.0

    def add(self, jobs: int, now: float) -> None:
        self._decay(now)
        self._rate += jobs / TIME_CONSTANT

    def per_second(self, now: float) -> float:
        self._decay(now)
        # A young average has not seen a whole time constant: divide by the weight of what it has seen. A second is
        # the least, or one job settled in the first millisecond would count as a thousand a second.
        return self._rate / -math.expm1(-max(now - self._since, 1.0) / TIME_CONSTANT)

    def _decay(self, now: float) -> None:
        self._rate *= math.exp((self._updated - now) / TIME_CONSTANT)
        self._updated = now


class LaneMeter:
    """Drain rate of one lane from what this process knows.

    A worker sees jobs settled. An api settles nothing, but it knows how many jobs it put in and how deep the lane was
    before and after: what went in and is not there any more has drained. Other publishers make that an underestimate,
    hence a `Retry-After` that is too long rather than too short.
    """

    def __init__(self, now: float, depth: int = 0) -> None:
        self._settled = DrainRate(now)
        self._inferred = DrainRate(now)
        self._accepted = 0
        self._depth = depth

    def settled(self, now: float) -> None:
        self._settled.add(1, now)

    def accepted(self) -> None:
        self._accepted += 1

    def observe_depth(self, depth: int, now: float) -> None:
        drained = self._accepted - (depth - self._depth)
        self._inferred.add(max(drained, 0), now)
        self._accepted = 0
        self._depth = depth

    def per_second(self, now: float) -> float:
        return max(self._settled.per_second(now), self._inferred.per_second(now))


def queue_full(provider: str, lane: Lane, depth: int, drain_rate: float) -> QueueFull:
    seconds = depth / drain_rate if drain_rate > 0 else float(depth)
    return QueueFull(
        f"the {lane.value} lane of {provider} is full with {depth} jobs waiting",
        provider=provider,
        retry_after=min(max(seconds, 1.0), 3600.0),
    )
