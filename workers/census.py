"""How many jobs of each lane a worker has in hand, and how fast they leave it: what it reports with each heartbeat."""

from broker.queues.drain_rate import DrainRate
from shared.clock import Clock
from shared.jobs import Job
from shared.lane_reports import LaneReport, lane_id, to_wire


class _Lane:
    __slots__ = ("drain_rate", "drained", "in_flight")

    def __init__(self, now: float) -> None:
        self.in_flight = 0
        self.drained = 0
        self.drain_rate = DrainRate(now)


class Census:
    """Counts by lane, from the worker's own tasks: no server is asked. As many lanes as its providers have.

    A job counts as drained however its delivery ended, so also when it was published again, as in `LaneStats`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}

    def taken(self, job: Job) -> None:
        self._lane(job).in_flight += 1

    def ended(self, job: Job) -> None:
        """`taken` came before."""
        lane = self._lane(job)
        lane.in_flight -= 1
        lane.drained += 1
        lane.drain_rate.add(1, self._clock.monotonic())

    def report(self) -> bytes:
        now = self._clock.monotonic()
        return to_wire(
            {
                id: LaneReport(lane.in_flight, round(lane.drain_rate.per_second(now), 3), lane.drained)
                for id, lane in self._lanes.items()
            }
        )

    def _lane(self, job: Job) -> _Lane:
        id = lane_id(job.provider, job.lane)
        lane = self._lanes.get(id)
        if lane is None:
            lane = self._lanes[id] = _Lane(self._clock.monotonic())
        return lane
