"""The reaper: has durable jobs run that were accepted and that nobody has, and ends those that are too late.

A job that is `dispatched` is on its lane, on a delay level or in a worker's hands, and only the event log tells which:
a worker leaves a note there before each attempt. So a job is not taken for lost because it is slow, only because it was
silent for longer than its lane explains; and a second copy is marked `suspect`, so that it does no harm.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from broker.backends import Backends
from broker.records import JobRecord
from shared import lane_reports, metrics
from shared.clock import Clock
from shared.errors import AppError, DeadlineExceeded
from shared.events import Event, Kind
from shared.jobs import Ending, Job, JobState
from shared.lane_reports import lane_id
from workers.checkout import Checkout
from workers.dispatch import Dispatch

PAUSE = 3.0  # seconds between rounds
_DISPATCHING_PATIENCE = 5.0  # seconds; publishing takes milliseconds
_DISPATCHED_PATIENCE = 60.0  # seconds, doubled with each dispatch
_LONGEST_PATIENCE = 600.0
_LANE_SLACK = 2.0  # times the wait that the lane's depth explains
_DEADLINE_GRACE = 5.0  # seconds; a worker sees the deadline itself, and knows more of the attempt
_PAGE = 200
_MOST_PAGES = 10  # of one kind in a round
_AT_A_TIME = 16  # logs that are read, or jobs that are cancelled
_RELEASED = (JobState.DISPATCHING, JobState.DISPATCHED)
_MOST_MISSED = 20_000  # jobs that are remembered as missing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A living worker has it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It is done; its ending is on its way to the store."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Nobody is known to have it."""

    attempt: int
    """The number with which it should go on."""


def patience(dispatches: int) -> float:
    """Seconds of silence after which a job that was put on its lane so often is put there again."""
    return min(_DISPATCHED_PATIENCE * 2.0 ** min(max(dispatches - 1, 0), 10), _LONGEST_PATIENCE)


class Reaper:
    """Run by one process at a time."""

    def __init__(self, backends: Backends, clock: Clock) -> None:
        self._jobs = backends.store.jobs
        self._queue = backends.queue
        self._log = backends.log
        self._clock = clock
        self._dispatch = Dispatch(backends.store, backends.queue, clock)
        self._checkout = Checkout(backends.accounts)
        self._missed: OrderedDict[str, float] = OrderedDict()
        """Since when (seconds since the epoch) a job is missing. Looking at a row moves it to the end of the line, or
        the same ones would be looked at again and again; so the row itself does not tell."""

    async def round(self) -> float:
        """Look once. Returns the seconds until the next look. Raises `Unavailable`."""
        await self._resume_dispatching()
        await self._doubt_dispatched()
        await self._expire()
        return PAUSE

    async def put_back(self, before: float) -> None:
        """The queue was lost with the process that ended `before` (seconds since the epoch): what was on it, or on its
        way, waits again. The feeder releases it, without flooding the lanes. Raises `Unavailable`."""
        for state in (JobState.DISPATCHING, JobState.DISPATCHED):
            while True:
                ids = [record.job.id for record in await self._jobs.unfinished(state, before, _PAGE)]
                moved = await self._jobs.move(ids, JobState.QUEUED, self._clock.now(), expected=state) if ids else []
                if not moved:
                    break
                metrics.JOBS_REAPED.labels("put_back").inc(len(moved))
                log.info("jobs_put_back", jobs=len(moved), state=state.value)

    async def _resume_dispatching(self) -> None:
        """Whoever published them died before the confirm, or before noting it."""
        for _ in range(_MOST_PAGES):
            before = self._clock.now() - _DISPATCHING_PATIENCE
            records = await self._jobs.unfinished(JobState.DISPATCHING, before, _PAGE)
            verdicts = await self._verdicts(records)
            known = [record for record, verdict in verdicts if not isinstance(verdict, Missing)]
            await self._touch(known, JobState.DISPATCHING)
            await self._publish_again(verdicts, JobState.DISPATCHING)
            if len(records) < _PAGE:
                return

    async def _doubt_dispatched(self) -> None:
        waits: _LaneWaits | None = None
        for _ in range(_MOST_PAGES):
            before = self._clock.now() - _DISPATCHED_PATIENCE
            records = await self._jobs.unfinished(JobState.DISPATCHED, before, _PAGE)
            if records and waits is None:
                waits = await self._lane_waits()
            lost: list[tuple[JobRecord, Verdict]] = []
            for record, verdict in await self._verdicts(records):
                assert waits is not None, "there are records"
                if self._lost(record, verdict, waits):
                    lost.append((record, verdict))
            gone = {record.job.id for record, _ in lost}
            await self._touch([each for each in records if each.job.id not in gone], JobState.DISPATCHED)
            await self._publish_again(lost, JobState.DISPATCHED)
            if len(records) < _PAGE:
                return

    def _lost(self, record: JobRecord, verdict: "Verdict", waits: "_LaneWaits") -> bool:
        """Whether the job has been missing for longer than can be explained."""
        id = record.job.id
        if isinstance(verdict, Running):
            self._missed.pop(id, None)
            return False
        since = self._missed.setdefault(id, record.moved_at)
        if len(self._missed) > _MOST_MISSED:
            self._missed.popitem(last=False)
        missing = self._clock.now() - since
        if missing < patience(record.dispatches):
            return False
        if isinstance(verdict, Ended):
            return waits.recorded
        wait = waits.of(record.job)
        return wait is not None and missing >= wait * _LANE_SLACK

    async def _verdicts(self, records: Sequence[JobRecord]) -> list[tuple[JobRecord, "Verdict"]]:
        verdicts: list[tuple[JobRecord, Verdict]] = []
        for begin in range(0, len(records), _AT_A_TIME):
            some = records[begin : begin + _AT_A_TIME]
            verdicts += zip(some, await asyncio.gather(*(self._verdict(record.job) for record in some)), strict=True)
        return verdicts

    async def _verdict(self, job: Job) -> "Verdict":
        history = await self._log.replay(job.id)
        if any(event.last for event in history):
            return Ended()
        notes = [event.meta for event in history if event.kind is Kind.STARTED]
        if not notes:
            return Missing(job.attempt)
        last = notes[-1]
        if last.get("moved"):  # by a worker, to its next attempt: a copy of this number would find that it was moved
            return Missing(max(last["attempt"] + 1, job.attempt))
        if await self._log.present(last["worker"]):
            return Running()
        return Missing(job.attempt)

    async def _touch(self, records: Sequence[JobRecord], state: JobState) -> None:
        """Looked at just now."""
        ids = [record.job.id for record in records]
        if ids:
            await self._jobs.move(ids, JobState.DISPATCHED, self._clock.now(), expected=state)

    async def _publish_again(self, verdicts: Sequence[tuple[JobRecord, "Verdict"]], state: JobState) -> None:
        """The missing ones, and those that ended without the store's hearing of it: a worker records them again."""
        again = [
            replace(record, job=replace(record.job, attempt=verdict.attempt))
            if isinstance(verdict, Missing)
            else record
            for record, verdict in verdicts
            if isinstance(verdict, Missing) or state is JobState.DISPATCHED
        ]
        taken = await self._dispatch.take(again, state)
        if not taken:
            return
        for record in taken:
            self._missed.pop(record.job.id, None)
        done = await self._dispatch.publish(taken, suspect=True)
        metrics.JOBS_REAPED.labels("published_again").inc(len(taken))
        log.warning("jobs_published_again", jobs=len(taken), confirmed=done.confirmed, state=state.value)

    async def _lane_waits(self) -> "_LaneWaits":
        paused = await self._log.paused_lanes()
        reports = lane_reports.total(await self._log.reports())
        waits: dict[str, float] = {}
        for lane in await self._queue.stats():
            id = lane_id(lane.provider, lane.lane)
            if lane.local and id in reports:
                lane = replace(lane, drain_rate=reports[id].drain_rate)
            if id not in paused and (lane.depth == 0 or lane.drain_rate > 0):
                waits[id] = lane.estimated_wait
        return _LaneWaits(waits, await self._queue.outcomes_waiting() == 0)

    async def _expire(self) -> None:
        for _ in range(_MOST_PAGES):
            now = self._clock.now()
            records = await self._jobs.overdue(now - _DEADLINE_GRACE, _PAGE)
            ended = set(await self._jobs.end([_expired(record.job, now) for record in records])) if records else set()
            late = [each for each in records if each.job.id in ended]
            for begin in range(0, len(late), _AT_A_TIME):
                await asyncio.gather(*map(self._tell, late[begin : begin + _AT_A_TIME]))
            await self._checkout.all_abandoned([each.job for each in late if each.state in _RELEASED])
            if ended:
                metrics.JOBS_REAPED.labels("expired").inc(len(ended))
                log.info("jobs_expired", jobs=len(ended))
            if len(records) < _PAGE or not ended:
                return

    async def _tell(self, record: JobRecord) -> None:
        """Stop the worker that has it, and tell whoever follows it; nobody follows a line."""
        job = record.job
        if record.state in _RELEASED:
            await self._log.cancel(job.id)
        if record.batch_id:
            return
        history = await self._log.replay(job.id)
        if not any(event.last for event in history):
            seq = max((event.seq for event in history), default=0) + 1
            error = _too_late(job).to_wire()
            await self._log.emit(job.reply_to, [Event(job.id, seq, Kind.FAILED, meta={"error": error})])


Verdict = Running | Ended | Missing


@dataclass(frozen=True, slots=True)
class _LaneWaits:
    """How long jobs of each lane wait, as far as can be told."""

    seconds: dict[str, float]
    recorded: bool
    """No outcome waits for the recorder."""

    def of(self, job: Job) -> float | None:
        """None for a lane that stands still: its jobs are there."""
        return self.seconds.get(lane_id(job.provider, job.lane))


def _expired(job: Job, now: float) -> Ending:
    return Ending(job.id, JobState.EXPIRED, now, attempts=0, error=_too_late(job).to_wire())


def _too_late(job: Job) -> AppError:
    return DeadlineExceeded(
        f"The job's time ran out: {job.deadline - job.accepted_at:.0f} s after it was accepted it was not finished."
    )
