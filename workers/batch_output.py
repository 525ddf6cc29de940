"""The output: winds a batch up when its lines are done, its window has passed or somebody cancelled it, and writes its
files."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from broker.backends import Backends
from broker.records import BatchQuery, BatchRecord, BatchStatus, FileRecord, JobQuery
from broker.store_interfaces import Files
from shared import batch_lines, metrics
from shared.batch_rules import DEFAULT_EXPIRY
from shared.clock import Clock
from shared.errors import AppError, Cancelled, DeadlineExceeded
from shared.jobs import Ending, JobState
from workers.checkout import Checkout

IDLE = 1.0  # seconds between looks while no batch is unfinished
BUSY = 0.5
SOON = 0.1  # while a batch has few lines left: its author waits for nothing else
_FEW = 1_000  # lines
PER_BATCH = 0.005  # for each unfinished batch, twenty times what a look at it costs: with thousands looks are rarer
LONGEST = 5.0
_PAGE = 100
_FILE_CHUNK = 512 * 1024  # bytes
_CANCELS_AT_A_TIME = 100
_RESOLVE = 1.0  # seconds between two looks at the lines of a batch that is being wound up
_REMIND = 30.0  # seconds between two cancellations of a line
_CANCEL_PATIENCE = 120.0  # seconds that running lines get to end by themselves
_CONSIGNED_PATIENCE = 900.0  # likewise lines at a provider's batch, which takes minutes to stop
_EXPIRY_PATIENCE = 10.0  # seconds; a worker sees its own deadline

_OPEN = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _WindingUp:
    """Since when, and when its lines were last looked at and cancelled. Monotonic seconds."""

    since: float
    looked_at: float = float("-inf")
    reminded_at: float = float("-inf")


class BatchOutput:
    """Run by one process at a time. What it was doing when it died is done again from the start, with the same ids."""

    def __init__(self, backends: Backends, clock: Clock) -> None:
        self._batches = backends.store.batches
        self._jobs = backends.store.jobs
        self._files = backends.store.files
        self._log = backends.log
        self._clock = clock
        self._checkout = Checkout(backends.accounts)
        self._winding_up: dict[str, _WindingUp] = {}

    async def round(self) -> float:
        """Take every unfinished batch a step on. Returns the seconds until the next look. Raises `Unavailable`."""
        counts = dict.fromkeys(_OPEN, 0)
        seen: set[str] = set()
        pause = BUSY
        after = None
        while True:
            page = await self._batches.find(BatchQuery(statuses=_OPEN[1:], after=after, limit=_PAGE))
            for batch in page:
                counts[batch.status] += 1
                seen.add(batch.id)
                if batch.status is BatchStatus.IN_PROGRESS and batch.total - batch.completed - batch.failed <= _FEW:
                    pause = SOON
                await self._step(batch)
            if len(page) < _PAGE:
                break
            after = page[-1].id
        self._winding_up = {id: state for id, state in self._winding_up.items() if id in seen}
        for status in _OPEN[1:]:
            metrics.BATCHES.labels(status.value).set(counts[status])
        if not seen:
            return IDLE
        return min(max(pause, len(seen) * PER_BATCH), LONGEST)

    async def _step(self, batch: BatchRecord) -> None:
        done = batch.completed + batch.failed >= batch.total
        match batch.status:
            case BatchStatus.FINALIZING:
                await self._finish(batch)
            case BatchStatus.CANCELLING if done and not await self._batches.unfinished_lines(batch.id):
                await self._finish(batch)
            case BatchStatus.CANCELLING:
                await self._wind_up(batch, JobState.CANCELLED)
            case BatchStatus.IN_PROGRESS if done:
                moved = await self._batches.move(
                    batch.id, BatchStatus.FINALIZING, self._clock.now(), expected=[BatchStatus.IN_PROGRESS]
                )
                if moved is not None:
                    await self._finish(moved)
            case BatchStatus.IN_PROGRESS if self._clock.now() >= batch.expires_at:
                await self._wind_up(batch, JobState.EXPIRED)

    # --- Winding up -------------------------------------------------------------------------------------------------

    async def _wind_up(self, batch: BatchRecord, state: JobState) -> None:
        """End what is queued at once; what runs is told to stop, and ended from here if it does not."""
        now = self._clock.monotonic()
        progress = self._winding_up.setdefault(batch.id, _WindingUp(now))
        if now - progress.looked_at < _RESOLVE:
            return
        progress.looked_at = now
        # Again and again: a line that its lane refused may come back to the queue.
        await self._batches.cancel_lines(batch.id, state, self._clock.now())
        waited = now - progress.since
        if waited >= (_EXPIRY_PATIENCE if state is JobState.EXPIRED else _CANCEL_PATIENCE):
            await self._end_lines(batch, state, JobState.DISPATCHING, JobState.DISPATCHED)
        elif state is JobState.CANCELLED and now - progress.reminded_at >= _REMIND:
            progress.reminded_at = now
            await self._cancel_running(batch)
        if waited >= (_EXPIRY_PATIENCE if state is JobState.EXPIRED else _CONSIGNED_PATIENCE):
            await self._end_lines(batch, state, JobState.CONSIGNED)

    async def _cancel_running(self, batch: BatchRecord) -> None:
        after, ids = 0, [""]
        while ids:
            ids = await self._batches.dispatched_lines(batch.id, after, _PAGE)
            await self._tell_workers(ids)
            record = await self._jobs.get(ids[-1]) if ids else None
            if record is None or len(ids) < _PAGE:
                return
            after = record.line

    async def _end_lines(self, batch: BatchRecord, state: JobState, *states: JobState) -> None:
        """End lines in the store; a worker's own ending, should it still come, no longer counts."""
        while True:
            query = JobQuery(batch_id=batch.id, states=states, limit=_PAGE)
            jobs = [record.job for record in await self._jobs.find(query)]
            ids = [job.id for job in jobs]
            now = self._clock.now()
            ended = await self._jobs.end([_ending(id, state, now) for id in ids]) if ids else []
            await self._tell_workers(ids)
            await self._checkout.all_abandoned(jobs)
            if len(ids) < _PAGE or not ended:
                return

    async def _tell_workers(self, job_ids: Sequence[str]) -> None:
        for begin in range(0, len(job_ids), _CANCELS_AT_A_TIME):
            await asyncio.gather(*map(self._log.cancel, job_ids[begin : begin + _CANCELS_AT_A_TIME]))

    # --- Finishing --------------------------------------------------------------------------------------------------

    async def _finish(self, batch: BatchRecord) -> None:
        output, _ = await self._write(batch, completed=True)
        errors, expired = await self._write(batch, completed=False)
        status = BatchStatus.COMPLETED
        if BatchStatus.CANCELLING in batch.stamps:
            status = BatchStatus.CANCELLED
        elif expired:
            status = BatchStatus.EXPIRED
        moved = await self._batches.move(
            batch.id, status, self._clock.now(), expected=[BatchStatus.FINALIZING, BatchStatus.CANCELLING],
            output_file_id=output, error_file_id=errors,
        )  # fmt: skip
        if moved is not None:
            metrics.BATCHES_ENDED.labels(status.value).inc()
            log.info("batch_ended", batch=batch.id, status=status.value, completed=moved.completed, failed=moved.failed)

    async def _write(self, batch: BatchRecord, *, completed: bool) -> tuple[str, bool]:
        """The file with these lines, empty for none, and whether a line expired."""
        kind = "output" if completed else "errors"
        file = _FileWriter(self._files, self._file_record(batch, kind))
        expired = False
        async for page in self._batches.endings(batch.id, completed=completed):
            for each in page:
                expired = expired or each.ending.state is JobState.EXPIRED
                await file.add(batch_lines.output_line(each.custom_id, each.line, each.ending))
        return await file.close(), expired

    def _file_record(self, batch: BatchRecord, kind: str) -> FileRecord:
        now = self._clock.now()
        lifetime = DEFAULT_EXPIRY if batch.output_expires_after is None else batch.output_expires_after
        return FileRecord(
            id="file-" + hashlib.sha256(f"{batch.id}/{kind}".encode()).hexdigest()[:32],
            owner=batch.owner,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            created_at=now,
            expires_at=now + lifetime,
        )


class _FileWriter:
    """Lines on their way into a file, which is made when the first comes, in the place of what a crash left of it."""

    def __init__(self, files: Files, record: FileRecord) -> None:
        self._files = files
        self._record = record
        self._buffer = bytearray()
        self._chunks = 0
        self._size = 0

    async def add(self, line: bytes) -> None:
        if not self._size:
            await self._files.abandon(self._record.id)
            await self._files.delete(self._record.id)
            await self._files.create(self._record)
        self._buffer += line
        self._size += len(line)
        while len(self._buffer) >= _FILE_CHUNK:
            await self._flush()

    async def close(self) -> str:
        """The file's id; empty when there was no line."""
        if not self._size:
            return ""
        if self._buffer:
            await self._flush()
        await self._files.seal(self._record.id, self._size)
        return self._record.id

    async def _flush(self) -> None:
        data = bytes(self._buffer[:_FILE_CHUNK])
        del self._buffer[:_FILE_CHUNK]
        await self._files.write(self._record.id, self._chunks, data)
        self._chunks += 1


def _ending(job_id: str, state: JobState, now: float) -> Ending:
    error: AppError = Cancelled("The batch was cancelled.")
    if state is JobState.EXPIRED:
        error = DeadlineExceeded("The batch's completion window has passed.")
    return Ending(job_id, state, now, attempts=0, error=error.to_wire())
