"""Takes every batch at a provider a step on: created, polled, taken in, or pulled back to the live API.

What can be billed twice, and how it is avoided:

- A creation whose answer was lost. `submitting` is in the store before anything is sent, so a restart knows that there
  may be a batch, and looks for it by the name that it gave it. Anthropic's batches have no name: their lines run live
  at once, and the lost batch, if there is one, is billed as well, once.
- Lines that the provider had begun when they were pulled back. The batch is cancelled first, and gets some minutes to
  stop and to hand over what it finished, which is taken in; only what it never finished runs again.
- A provider that does not answer until the very end. Its lines go back unasked, because the deadline counts more.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog

from broker.records import BatchRecord, BatchStatus, ProviderBatch
from broker.store_interfaces import Store
from shared.catalog import Catalog, Deployment
from shared.clock import Clock
from shared.errors import Cancelled, InvalidRequest, UpstreamError
from shared.jobs import Ending, Job, JobState
from workers.provider_batches import lines, registry
from workers.provider_batches.base import BatchApi, State
from workers.provider_batches.policy import POLICY, perhaps_created
from workers.provider_batches.results import Results
from workers.provider_batches.spool import Spool
from workers.upstream import Upstream

PAUSE = 5.0  # seconds between looks at which batches are due
_AT_A_TIME = 4  # batches that are attended to
_CONFLICT = 409  # OpenAI's answer when a batch that is over is to be cancelled
_TURN = 20  # lines after which the event loop has its turn
_LIVE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pace:
    next_at: float = float("-inf")
    """Seconds since the epoch."""
    failures: int = 0
    """In a row."""


@dataclass(slots=True)
class _Errand:
    """One look at a batch, with what it needs."""

    record: ProviderBatch
    """As it was saved last."""
    batch: BatchRecord | None
    deployment: Deployment
    api: BatchApi

    def wanted(self, now: float) -> bool:
        """Whether the provider should go on with it."""
        live = self.batch is not None and self.batch.status in _LIVE
        return live and now < self.record.pull_back_at


class ProviderBatches:
    """Run by one process at a time."""

    def __init__(
        self, store: Store, catalog: Catalog, clock: Clock, upstream: Upstream, *,
        results: Results | None = None, held: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        """`held` tells whether this is still the one process."""
        self._jobs = store.jobs
        self._batches = store.batches
        self._catalog = catalog
        self._clock = clock
        self._upstream = upstream
        self._held = held
        self._results = results or Results(store, catalog, clock)
        self._paces: dict[str, _Pace] = {}

    async def round(self) -> float:
        """Attend to the batches that are due. Returns the seconds until more may be. Raises `Unavailable`."""
        records = await self._batches.provider_batches()
        self._paces = {each.id: self._paces.get(each.id) or _Pace() for each in records}
        gate = asyncio.Semaphore(_AT_A_TIME)

        async def visit(record: ProviderBatch) -> None:
            async with gate:
                if self._held():
                    await self._visit(record)

        due = [each for each in records if self._clock.now() >= self._paces[each.id].next_at]
        for failure in await asyncio.gather(*map(visit, due), return_exceptions=True):
            if isinstance(failure, BaseException):
                raise failure
        return PAUSE

    # --- One look ---------------------------------------------------------------------------------------------------

    async def _visit(self, record: ProviderBatch) -> None:
        pace = self._paces[record.id]
        pace.next_at = self._clock.now() + POLICY.poll
        retry_after = None
        try:
            deployment = self._catalog.deployment(record.deployment)
            api = registry.connect(self._upstream, deployment)
        except KeyError:
            log.error("provider_batch_without_deployment", provider_batch=record.id, deployment=record.deployment)
            await self._release_all(record)
            await self._batches.save_provider_batch(replace(record, state=State.PULLED_BACK))
            return
        errand = _Errand(record, await self._batches.get(record.batch_id), deployment, api)
        try:
            await self._step(errand)
            pace.failures = 0
        except UpstreamError as error:
            pace.failures += 1
            retry_after = error.retry_after
            await self._failed(errand, error)
        pace.next_at = self._next_look(errand.record, pace.failures, retry_after)

    def _next_look(self, record: ProviderBatch, failures: int, retry_after: float | None) -> float:
        now = self._clock.now()
        pause = POLICY.pause(failures, random.random(), retry_after)
        moments = (record.pull_back_at, self._last_moment(record), now + pause)
        return min(moment for moment in moments if moment > now)

    async def _step(self, errand: _Errand) -> None:
        match errand.record.state:
            case State.CREATING:
                await self._create(errand)
            case State.SUBMITTING:
                await self._look_for_it(errand)
            case State.RUNNING | State.CANCELLING:
                await self._poll(errand)
            case State.ENDED:
                await self._take_in(errand)

    async def _failed(self, errand: _Errand, error: UpstreamError) -> None:
        record = errand.record
        log.warning(
            "provider_batch_call_failed", provider_batch=record.id, state=str(record.state), code=error.code,
            status=error.status, reason=error.message,
        )  # fmt: skip
        if not error.retryable:
            await self._give_up(errand, "the provider refuses the request")
        elif self._clock.now() >= self._last_moment(record):
            await self._give_up(errand, "the provider does not answer")

    def _last_moment(self, record: ProviderBatch) -> float:
        """When lines go back even if the provider does not say what became of them."""
        return record.pull_back_at + POLICY.stop_patience

    # --- Creating ---------------------------------------------------------------------------------------------------

    async def _create(self, errand: _Errand) -> None:
        if errand.batch is not None and errand.batch.status is BatchStatus.VALIDATING:
            return  # its lines may not run yet
        if not errand.wanted(self._clock.now()):
            await self._give_up(errand, "no time is left for it, or nobody wants it")
            return
        with Spool(errand.api.frame, errand.api.limits.bytes) as content:
            await self._write(errand, content)
            if content.lines:
                await self._submit(errand, content)
            else:
                await self._save(errand, state=State.DONE, lines=0)

    async def _write(self, errand: _Errand, content: Spool) -> None:
        """All lines that can go; the others run live."""
        after = 0
        while page := await self._batches.consigned(errand.record.id, after):
            after = page[-1].line
            unfit = []
            for count, each in enumerate(page, 1):
                line = self._line(errand, each.job)
                if line is None or not content.add(line):
                    unfit.append(each.job.id)
                if count % _TURN == 0:
                    await asyncio.sleep(0)
            await self._release(errand.record, unfit)

    def _line(self, errand: _Errand, job: Job) -> bytes | None:
        try:
            return errand.api.line(job.id, lines.line(job, errand.deployment, self._clock.now()).request)
        except InvalidRequest:
            return None

    async def _submit(self, errand: _Errand, content: Spool) -> None:
        api = errand.api
        if errand.record.remote_files:  # what an earlier try had uploaded
            await self._clean_up(errand)
        files = await api.upload(errand.record.id, content)
        if not self._held():  # an upload takes minutes, in which another process may have taken over
            await api.clean_up("", files)
            return
        now = self._clock.now()
        await self._save(errand, state=State.SUBMITTING, remote_files=files, lines=content.lines, checked_at=now)
        try:
            remote_id = await api.create(errand.record.id, files, content)
        except UpstreamError as error:
            if not perhaps_created(error):
                await self._save(errand, state=State.CREATING)
            raise
        await self._save(errand, state=State.RUNNING, remote_id=remote_id)
        log.info(
            "provider_batch_created", provider_batch=errand.record.id, provider=errand.record.provider,
            remote=remote_id, lines=content.lines,
        )  # fmt: skip

    async def _look_for_it(self, errand: _Errand) -> None:
        """Its creation was sent, and the answer did not come."""
        remote_id = await errand.api.find(errand.record.id)
        if remote_id is not None:
            await self._save(errand, state=State.RUNNING, remote_id=remote_id)
        elif not errand.api.findable:
            await self._give_up(errand, "whether the provider has it is not known")
        elif self._clock.now() >= errand.record.checked_at + POLICY.lost_patience:
            await self._save(errand, state=State.CREATING)

    # --- Running ----------------------------------------------------------------------------------------------------

    async def _poll(self, errand: _Errand) -> None:
        now = self._clock.now()
        remote = await errand.api.poll(errand.record.remote_id)
        await self._save(errand, remote_files={**errand.record.remote_files, **remote.files}, checked_at=now)
        if remote.finished:
            log.info(
                "provider_batch_ended", provider_batch=errand.record.id, word=remote.word, reason=remote.reason[:500]
            )
            await self._save(errand, state=State.ENDED)
            await self._take_in(errand)
        elif now >= self._last_moment(errand.record):
            await self._give_up(errand, "the provider does not stop it")
        elif errand.record.state == State.RUNNING and not errand.wanted(now):
            await self._cancel(errand)

    async def _cancel(self, errand: _Errand) -> None:
        try:
            await errand.api.cancel(errand.record.remote_id)
        except UpstreamError as error:
            if error.retryable and error.status != _CONFLICT:
                raise
            # It has ended just now, as the next look will show.
        pull_back_at = min(errand.record.pull_back_at, self._clock.now())
        await self._save(errand, state=State.CANCELLING, pull_back_at=pull_back_at)

    async def _take_in(self, errand: _Errand) -> None:
        record = errand.record
        async with aclosing(errand.api.results(record.remote_id, record.remote_files)) as results:
            await self._results.take_in(record, errand.deployment, results, self._release)
        left = await self._release_all(record)
        await self._clean_up(errand)
        await self._save(errand, state=State.DONE)
        log.info("provider_batch_done", provider_batch=record.id, provider=record.provider, without_result=left)

    # --- Coming back ------------------------------------------------------------------------------------------------

    async def _give_up(self, errand: _Errand, why: str) -> None:
        """All its lines run live. What it costs at the provider is not in the ledger then."""
        record = errand.record
        left = await self._release_all(record)
        if record.remote_id:
            try:
                await errand.api.cancel(record.remote_id)
            except UpstreamError as error:
                log.info("provider_batch_not_cancelled", provider_batch=record.id, reason=error.message)
        else:
            await self._clean_up(errand)
        await self._save(errand, state=State.PULLED_BACK)
        log.warning(
            "provider_batch_pulled_back", provider_batch=record.id, provider=record.provider,
            remote=record.remote_id or None, lines=left, why=why,
        )  # fmt: skip

    async def _release_all(self, record: ProviderBatch) -> int:
        """How many were still consigned."""
        released = 0
        while page := await self._batches.consigned(record.id):
            await self._release(record, [each.job.id for each in page])
            released += len(page)
        return released

    async def _release(self, record: ProviderBatch, job_ids: Sequence[str]) -> None:
        """Consigned lines wait for the live API; those of a cancelled batch end."""
        if not job_ids:
            return
        now = self._clock.now()
        batch = await self._batches.get(record.batch_id)
        if batch is not None and BatchStatus.CANCELLING in batch.stamps:
            error = Cancelled("The batch was cancelled.").to_wire()
            await self._jobs.end([Ending(id, JobState.CANCELLED, now, attempts=0, error=error) for id in job_ids])
        else:
            await self._jobs.move(job_ids, JobState.QUEUED, now, expected=JobState.CONSIGNED)

    async def _clean_up(self, errand: _Errand) -> None:
        record = errand.record
        try:
            await errand.api.clean_up(record.remote_id, record.remote_files)
        except UpstreamError as error:  # OpenAI and Gemini delete files themselves after days
            log.info("provider_batch_not_cleaned_up", provider_batch=record.id, reason=error.message)

    async def _save(self, errand: _Errand, **changes: Any) -> None:
        errand.record = replace(errand.record, **changes)
        await self._batches.save_provider_batch(errand.record)
