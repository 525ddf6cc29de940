"""How many jobs should stand ready on a batch lane, and when to look again. Pure.

A job on a lane is out of the store's hands: it goes in the order in which it was put there, whoever comes later with
more right to go, and a cancelled one is still delivered. So a lane should hold little. But a worker that finds it empty
stands idle until the feeder looks again. A quarter of a second's worth is five looks of the feeder, and the wait that a
newcomer cannot avoid. Workers take their fill beforehand (a prefetch of 256, say), so what is counted here comes on top
of what they hold.

A lane that was emptied between two looks drains faster than anybody can tell, because it was the feeder that kept it
short. Then what stands ready is doubled until the lane is no longer found empty, and halved when it is too much, and
the next look comes sooner: so workers are filled up within a quarter of a second of an idle time, and a slow feeder
releases more at a time.
"""

import math

WINDOW = 0.25  # seconds of the lane's drain rate that should stand ready
FEWEST = 32  # jobs ready in any case: a slow lane's rate is known only roughly
MOST = 2_000

HURRY = 0.02  # seconds between two looks at a lane that was emptied
SHORTEST_WAIT = 0.05  # at one that drains
LONGEST_WAIT = 0.5

_TIME_CONSTANT = 0.5  # seconds; workers report an average over 30, too slow to start with
_LOW_WATER = 0.75  # of the target; a lane that has more is left alone, for a few jobs cost a round trip like many
_EMPTY = 1 / 8  # of what stood ready; with less left the lane was as good as empty


class Pace:
    """Of one lane. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._looked_at: float | None = None
        self._stood = 0
        self._boost = 0
        self._wait = SHORTEST_WAIT

    def room(self, depth: int, reported_rate: float, bound: int, now: float) -> int:
        """How many jobs to put on a lane that has `depth` jobs waiting now, may have `bound`, and loses `reported_rate`
        jobs a second according to its workers. 0 while it has enough."""
        drained = max(self._stood - depth, 0)
        self._learn(drained, now)
        most = max(min(MOST, bound // 2), 1)  # the rest of the lane is for jobs that come without a feeder
        emptied = self._stood > 0 and depth <= self._stood * _EMPTY
        if emptied:
            self._boost = min(self._stood * 2, most)
        elif depth > self._boost / 2:
            self._boost //= 2
        self._stood = depth
        target = min(max(self._wanted(reported_rate), self._boost), most)
        if emptied:
            self._wait = HURRY
        elif depth == 0 or drained >= target / 4:
            self._wait = SHORTEST_WAIT
        else:
            self._wait = min(max(self._wait, SHORTEST_WAIT) * 2, LONGEST_WAIT)
        return target - depth if depth <= target * _LOW_WATER else 0

    def put(self, jobs: int) -> None:
        """So many were put on the lane since `room`."""
        self._stood += jobs

    @property
    def rate(self) -> float:
        """Jobs a second that left the lane of late."""
        return self._rate

    @property
    def wait(self) -> float:
        """Seconds until the next look."""
        return self._wait

    def _wanted(self, reported_rate: float) -> int:
        return max(math.ceil(max(self._rate, reported_rate) * WINDOW), FEWEST)

    def _learn(self, drained: int, now: float) -> None:
        if self._looked_at is not None and now > self._looked_at:
            seconds = now - self._looked_at
            share = -math.expm1(-seconds / _TIME_CONSTANT)
            self._rate += (drained / seconds - self._rate) * share
        self._looked_at = now
