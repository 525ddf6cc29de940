"""The intake: reads a batch's file, line by line in bounded memory, and makes a queued job of each good line.

A bad line is a failed job with its number; it never fails the batch. How far the file was read is committed together
with the lines, so that an intake that dies goes on where it was. What was taken in runs while the rest is being read.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import structlog

from broker.policies import PolicyCache
from broker.records import BatchQuery, BatchRecord, BatchStatus, JobRecord, Progress
from broker.store_interfaces import Store
from shared import metrics
from shared.batch_rules import LONGEST_LINE, MOST_LINES
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import InvalidKey, InvalidRequest, ModelNotAllowed, NotFound, UnknownModel
from shared.ids import uuid7
from shared.job_plan import ENDPOINTS, Caller, JobPlanner, weight
from shared.jobs import Ending, Job, JobState, Lane
from workers import batch_line
from workers.batch_line import BadLine
from workers.json_lines import Line, LineCutter
from workers.provider_batches.consigner import Consigner

IDLE = 0.2  # seconds between looks for a new batch
_CHUNK_LINES = 200  # in one transaction
_CHUNK_BYTES = 4 * 1024 * 1024  # likewise; one line may be longer
_TURN = 20  # lines after which the event loop has its turn: a client's stream may be waiting for it
_AT_A_TIME = 3  # batches, so that a small one need not wait for a large one
_PAGE = 100
_BEGINNING = Progress(0, 0)
_MOST_WAITING = 1_000  # batches that are looked at in a round; the oldest of them go first

log = structlog.get_logger(__name__)


class BatchIntake:
    """Run by one process at a time; a second one would find its lines taken in already."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        on_ready: Callable[[], None] = lambda: None,
        consigner: Consigner | None = None,
        policies: PolicyCache | None = None,
    ) -> None:
        """`on_ready` is called when lines may be released. `policies` say which models the batch's key may call;
        without them, all."""
        self._batches = store.batches
        self._files = store.files
        self._catalog = catalog
        self._clock = clock
        self._on_ready = on_ready
        self._consigner = consigner
        self._policies = policies
        self._planner = JobPlanner(catalog, random.Random(), reply_to="", timeout=0.0)

    async def round(self) -> float:
        """Take in the batches that wait. Returns the seconds until the next look. Raises `Unavailable`."""
        waiting = sorted(await self._waiting(), key=lambda batch: (batch.created_at, batch.id))
        gate = asyncio.Semaphore(_AT_A_TIME)

        async def take_in(batch: BatchRecord) -> None:
            async with gate:
                await self.take_in(batch)

        results = await asyncio.gather(*map(take_in, waiting), return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure
        return IDLE

    async def take_in(self, batch: BatchRecord) -> None:
        """Read the rest of the batch's file. Lines may run as they come, unless the consigner has to see all first."""
        try:
            problem = None if batch.bytes_read else await self._survey(batch)
            if problem is not None:
                await self._fail(batch, problem)
                return
            if not await self._read(batch):
                return  # cancelled meanwhile, or taken over
        except NotFound:
            message = f"The input file {batch.input_file_id} is gone."
            await self._fail(batch, _problem("file_not_found", message, "input_file_id"))
            return
        if self._consigner is not None:
            await self._consigner.consign(batch)
        moved = await self._batches.move(
            batch.id, BatchStatus.IN_PROGRESS, self._clock.now(), expected=[BatchStatus.VALIDATING]
        )
        if moved is not None:
            log.info("batch_in_progress", batch=batch.id, lines=moved.total, failed=moved.failed)
            self._on_ready()

    async def _waiting(self) -> list[BatchRecord]:
        found: list[BatchRecord] = []
        after = None
        while len(found) < _MOST_WAITING:
            query = BatchQuery(statuses=(BatchStatus.VALIDATING,), after=after, limit=_PAGE)
            page = await self._batches.find(query)
            found += page
            if len(page) < _PAGE:
                break
            after = page[-1].id
        metrics.BATCHES.labels(BatchStatus.VALIDATING.value).set(len(found))
        return found

    async def _survey(self, batch: BatchRecord) -> dict[str, object] | None:
        """What makes the file useless as a whole, found before any of its lines is taken in."""
        lines = 0
        usable = False
        async for line in self._lines(batch):
            if line.text == b"":
                continue
            lines += 1
            usable = usable or batch_line.is_json_object(line.text)
            if lines > MOST_LINES:
                return _problem("too_many_tasks", f"The batch has too many lines: at most {MOST_LINES:,} are allowed.")
        if not lines:
            return _problem("empty_file", "The input file is empty. Send a line of JSON for each request.")
        if not usable:
            message = "No line of the input file is a JSON object: send JSON lines in UTF-8."
            return _problem("invalid_json_line", message, line=1)
        return None

    async def _read(self, batch: BatchRecord) -> bool:
        """Take in the lines that are not yet. False when the batch is no longer to be taken in, at least not here."""
        chunk: list[Line] = []
        size = 0
        progress = Progress(batch.lines_read, batch.bytes_read)
        async for line in self._lines(batch, progress):
            progress = Progress(line.number, line.end)
            if line.text != b"":
                chunk.append(line)
                size += len(line.text or b"")
            if len(chunk) >= _CHUNK_LINES or size >= _CHUNK_BYTES:
                if not await self._put(batch, chunk, progress):
                    return False
                chunk, size = [], 0
        return not chunk or await self._put(batch, chunk, progress)

    async def _lines(self, batch: BatchRecord, progress: Progress = _BEGINNING) -> AsyncIterator[Line]:
        cutter = LineCutter(LONGEST_LINE, number=progress.lines_read, offset=progress.bytes_read)
        async for data in self._files.read(batch.input_file_id, progress.bytes_read):
            for line in cutter.feed(data):
                yield line
            await asyncio.sleep(0)  # a megabyte of lines is milliseconds of work: others have their turn
        last = cutter.close()
        if last is not None:
            yield last

    async def _put(self, batch: BatchRecord, chunk: Sequence[Line], progress: Progress) -> bool:
        records = await self._records(batch, chunk)
        try:
            taken = await self._add(batch, records, progress)
        except InvalidRequest as error:
            log.warning("batch_lines_refused", batch=batch.id, reason=error.message)
            taken = await self._put_singly(batch, chunk, records)
        if taken:
            self._on_ready()
        return taken

    async def _put_singly(self, batch: BatchRecord, chunk: Sequence[Line], records: Sequence[JobRecord]) -> bool:
        """The store refuses one of the lines: that one becomes a bad line."""
        for line, record in zip(chunk, records, strict=True):
            progress = Progress(line.number, line.end)
            try:
                taken = await self._add(batch, [record], progress)
            except InvalidRequest as error:
                bad = self._bad(batch, line, BadLine("invalid_request", error))
                taken = await self._add(batch, [bad], progress)
            if not taken:
                return False
        return True

    async def _add(self, batch: BatchRecord, records: Sequence[JobRecord], progress: Progress) -> bool:
        held = self._consigner is not None and self._consigner.interested(batch)
        return await self._batches.take_in(batch.id, records, progress, held=held)

    async def _records(self, batch: BatchRecord, chunk: Sequence[Line]) -> list[JobRecord]:
        records = []
        owner = await self._owner(batch)
        for count, line in enumerate(chunk, 1):
            records.append(self._record(batch, line, owner))
            if count % _TURN == 0:
                await asyncio.sleep(0)
        ids = [record.custom_id for record in records if record.custom_id]
        known = await self._batches.known_custom_ids(batch.id, ids)
        for index, (line, record) in enumerate(zip(chunk, records, strict=True)):
            if record.custom_id in known:
                records[index] = self._bad(batch, line, _duplicate(record.custom_id))
            elif record.custom_id:
                known.add(record.custom_id)
        return records

    async def _owner(self, batch: BatchRecord) -> Caller:
        owner = Caller(key=batch.owner, team=_team(batch), user=batch.user)
        if self._policies is None:
            return owner
        try:
            policy = await self._policies.look_up(batch.owner)
        except InvalidKey:
            return owner  # when its lines are released, the feeder says of each why it cannot run
        return replace(owner, tags=policy.tags, access=policy.access)

    def _record(self, batch: BatchRecord, line: Line, owner: Caller) -> JobRecord:
        try:
            request = batch_line.parse(line.text, batch.endpoint)
            job = self._planner.job(request.envelope, request.body, owner, self._clock.now())
        except BadLine as bad:
            return self._bad(batch, line, bad)
        except UnknownModel as error:
            return self._bad(batch, line, BadLine("model_not_found", error, request.custom_id))
        except ModelNotAllowed as error:
            return self._bad(batch, line, BadLine(error.code, error, request.custom_id))
        except InvalidRequest as error:  # fallbacks that name no model
            return self._bad(batch, line, BadLine("invalid_request", error, request.custom_id))
        return JobRecord(
            job=replace(job, lane=Lane.BATCH, durable=True, deadline=batch.expires_at, stream=False),
            state=JobState.QUEUED,
            weight=weight(request.envelope, request.body),
            priority=batch.priority,
            batch_id=batch.id,
            line=line.number,
            custom_id=request.custom_id,
            moved_at=job.accepted_at,
        )

    def _bad(self, batch: BatchRecord, line: Line, bad: BadLine) -> JobRecord:
        now = self._clock.now()
        job = Job(
            id=uuid7(), endpoint=ENDPOINTS.get(batch.endpoint, ""), model="", route=(), body=b"", reply_to="",
            accepted_at=now, deadline=batch.expires_at, lane=Lane.BATCH, key=batch.owner, team=_team(batch),
            durable=True,
        )  # fmt: skip
        return JobRecord(
            job=job,
            state=JobState.FAILED,
            batch_id=batch.id,
            line=line.number,
            custom_id=bad.custom_id,
            moved_at=now,
            ending=Ending(job.id, JobState.FAILED, now, attempts=0, error=bad.to_wire()),
        )

    async def _fail(self, batch: BatchRecord, problem: dict[str, object]) -> None:
        moved = await self._batches.move(
            batch.id, BatchStatus.FAILED, self._clock.now(), expected=[BatchStatus.VALIDATING], errors=[problem]
        )
        if moved is None:
            return
        if batch.bytes_read:
            await self._batches.cancel_lines(batch.id, JobState.CANCELLED, self._clock.now())
        metrics.BATCHES_ENDED.labels(BatchStatus.FAILED.value).inc()
        log.info("batch_failed", batch=batch.id, code=problem["code"], reason=problem["message"])


def _team(batch: BatchRecord) -> str:
    """A tenant is a team or, for a caller without one, the key itself."""
    return batch.tenant if batch.tenant != batch.owner else ""


def _duplicate(custom_id: str) -> BadLine:
    message = "The custom_id of this request was used by a line before: it must be unique within a batch."
    return BadLine("duplicate_custom_id", InvalidRequest(message, param="custom_id"), custom_id)


def _problem(code: str, message: str, param: str | None = None, line: int | None = None) -> dict[str, object]:
    """OpenAI's form of an error of a batch as a whole."""
    return {"code": code, "message": message, "param": param, "line": line}
