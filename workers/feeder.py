"""The feeder: releases queued jobs to their batch lanes, a bounded window at a time, fairly between tenants."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

import structlog

from broker.backends import Backends
from broker.interfaces import LaneStats
from broker.records import Flow, JobRecord
from shared import lane_reports, metrics
from shared.clock import Clock
from shared.errors import Unavailable
from shared.jobs import JobState, Lane
from shared.lane_reports import LaneReport, lane_id
from workers.dispatch import Dispatch, Dispatched
from workers.lane_feed import LaneFeed
from workers.lease import Lease
from workers.line_gate import LineGate

IDLE = 0.5  # seconds between looks while nothing is queued, or nothing may go
_FLOWS_AGE = 0.25  # seconds after which the store is asked again who has jobs
_REPORTS_AGE = 1.0  # seconds, likewise for workers' reports and paused lanes; workers report once a second
_CHUNK = 200  # jobs in one step
_STEPS = 2  # under way at a time
_LAST_PUBLISH = 5.0  # seconds that a stopping process waits for confirms

log = structlog.get_logger(__name__)

_Steps = deque[tuple[LaneFeed, int, asyncio.Task[Dispatched]]]
"""So many jobs of a lane that are on their way to the queue and back, oldest first."""


class Feeder:
    """Run by one process at a time, the one that has the lease."""

    def __init__(self, backends: Backends, clock: Clock, lease: Lease, gate: LineGate | None = None) -> None:
        """Without a `gate` nobody has limits."""
        self._jobs = backends.store.jobs
        self._queue = backends.queue
        self._log = backends.log
        self._clock = clock
        self._lease = lease
        self._gate = gate
        self._dispatch = Dispatch(backends.store, backends.queue, clock)
        self._lanes: dict[str, LaneFeed] = {}
        self._flows_at = float("-inf")
        self._reports: dict[str, LaneReport] = {}
        self._paused: frozenset[str] = frozenset()
        self._reports_at = float("-inf")
        self._unknown: set[str] = set()

    async def round(self) -> float:
        """Fill up the lanes that have room, for as long as that takes. Returns the seconds until they may need more.
        Raises `Unavailable`."""
        steps: _Steps = deque()
        try:
            while (pause := await self._look(steps)) <= 0 and self._lease.held:
                pass
            refused = await self._settle(steps, 0)
            return IDLE if refused else pause
        finally:
            await _finish([step for _, _, step in steps])

    async def _look(self, steps: _Steps) -> float:
        """Fill the lanes for a while: other tenants may come meanwhile, and other lanes wait. Steps that are still on
        their way go on beside the next look. Returns the seconds until then."""
        now = self._clock.monotonic()
        if not self._lanes or now - self._flows_at >= _FLOWS_AGE:
            self._sort(await self._jobs.flows())
            self._flows_at = now
        if not self._lanes:
            return IDLE
        if now - self._reports_at >= _REPORTS_AGE:
            self._paused = await self._log.paused_lanes()
            self._reports = lane_reports.total(await self._log.reports())
            self._reports_at = now
        lanes = [each for each in await self._queue.stats() if each.lane is Lane.BATCH and each.provider in self._lanes]
        self._complain(self._lanes.keys() - {lane.provider for lane in lanes})
        return min([await self._feed(lane, steps) for lane in lanes], default=IDLE)

    def _sort(self, flows: Sequence[Flow]) -> None:
        tenants: dict[str, set[str]] = {}
        for flow in flows:
            if flow.jobs > 0:
                tenants.setdefault(flow.provider, set()).add(flow.tenant)
        self._lanes = {
            provider: self._lanes.get(provider) or LaneFeed(provider, self._jobs, self._clock) for provider in tenants
        }
        for provider, names in tenants.items():
            self._lanes[provider].waiting(names)

    async def _feed(self, stats: LaneStats, steps: _Steps) -> float:
        """Fill the lane up to what its pace says. Returns the seconds until the next look at it."""
        lane = self._lanes[stats.provider]
        id = lane_id(stats.provider, Lane.BATCH)
        if id in self._paused:
            return IDLE
        report = self._reports.get(id)
        rate = report.drain_rate if report else 0.0
        room = lane.pace.room(stats.depth, rate, stats.bound, self._clock.monotonic())
        coming = sum(jobs for each, jobs, _ in steps if each is lane)
        left, refused = await self._fill(lane, room - coming, steps)
        if refused:
            return IDLE
        return 0.0 if left > 0 else lane.wait

    async def _fill(self, lane: LaneFeed, room: int, steps: _Steps) -> tuple[int, int]:
        """Release that many jobs, or all there are. While a step is on its way to the queue and back, the next one is
        read and taken. Returns how many are left for want of time, and how many the queue refused."""
        refused = 0
        until = self._clock.monotonic() + _FLOWS_AGE
        while room > 0 and not refused and self._lease.held and self._clock.monotonic() < until:
            chosen = await lane.choose(min(room, _CHUNK))
            if not chosen:
                return 0, refused
            taken = await self._take(await self._admit(lane, chosen))
            room -= len(taken)
            steps.append((lane, len(taken), asyncio.create_task(self._publish(taken), name="publish")))
            await lane.read_ahead()
            refused += await self._settle(steps, _STEPS - 1)
        return room, refused

    async def _settle(self, steps: _Steps, most: int) -> int:
        """Wait until no more than `most` steps are under way. Returns how many jobs the queue refused."""
        refused = 0
        while len(steps) > most:
            lane, _, step = steps[0]
            done = await asyncio.shield(step)
            steps.popleft()
            lane.pace.put(done.confirmed)
            metrics.LINES_RELEASED.labels(lane.provider).inc(done.confirmed)
            if done.refused:
                lane.forget()
                refused += len(done.refused)
        return refused

    async def _admit(self, lane: LaneFeed, chosen: Sequence[JobRecord]) -> list[JobRecord]:
        """Those that their keys let go now, as they should go."""
        if self._gate is None:
            return list(chosen)
        try:
            found = await self._gate.sort(chosen)
        except Unavailable:
            lane.dropped(chosen)
            lane.forget()
            raise
        lane.dropped(found.ended)
        for tenant, held in found.held.items():
            lane.hold(tenant, held.records, held.seconds)
        return found.go

    async def _take(self, admitted: Sequence[JobRecord]) -> list[JobRecord]:
        taken: list[JobRecord] = []
        try:
            taken = await self._dispatch.take(admitted, JobState.QUEUED)
        finally:
            if len(taken) < len(admitted):  # they were cancelled meanwhile, or the store is away
                went = {record.job.id for record in taken}
                await self._give_back([record for record in admitted if record.job.id not in went])
        return taken

    async def _publish(self, taken: Sequence[JobRecord]) -> Dispatched:
        step = await self._dispatch.publish(taken)
        if step.refused:
            await self._give_back([record for record in taken if record.job.id in step.refused])
        return step

    async def _give_back(self, records: Sequence[JobRecord]) -> None:
        if self._gate is not None:
            await self._gate.leave(records)

    def _complain(self, providers: Collection[str]) -> None:
        for provider in set(providers) - self._unknown:
            self._unknown.add(provider)  # as many as the store's jobs have ever had
            log.warning("jobs_of_an_unknown_provider_wait", provider=provider, do="put it back into the config")


async def _finish(steps: Collection["asyncio.Task[Dispatched]"]) -> None:
    """A step that was begun is done: half a release would be the reaper's work."""
    if not steps:
        return
    done, late = await asyncio.wait(steps, timeout=_LAST_PUBLISH)
    for step in late:
        step.cancel()
    for step in done:
        if not step.cancelled() and (error := step.exception()) is not None:
            log.warning("release_not_finished", reason=repr(error))
