"""From a provider's results to the answers of lines, their rows in the ledger, and lines that must run live after all.

The attempt at a provider's batch has the number 0 in the ledger: live attempts begin with 1, and a line may have both,
and be billed for both, when it was pulled back while the provider was working on it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import structlog

from broker.records import ProviderBatch
from broker.store_interfaces import Store
from shared import metrics
from shared.catalog import Catalog, Deployment
from shared.clock import Clock
from shared.errors import InvalidRequest, UpstreamError
from shared.jobs import Ending, Job, JobState, Outcome, Status
from shared.pricing import PriceBook
from workers.attempt import Attempt
from workers.charges import Charges
from workers.provider_batches import lines
from workers.provider_batches.base import NOT_RUN, Result
from workers.provider_batches.policy import ends_here
from workers.providers import registry
from workers.reports import Reports

ATTEMPT = 0
TAG = "provider_batch"
"""In the ledger's rows, so that the bill says where the attempt ran."""

_PAGE = 200  # lines recorded in one transaction
_PAGE_BYTES = 8 * 1024 * 1024  # of answers, likewise; one may be larger
_BODIES = 20  # requests read from the store at a time; each may have 10 MB

log = structlog.get_logger(__name__)

Release = Callable[[ProviderBatch, Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result means for its line."""

    outcome: Outcome | None = None
    """None when the provider did not run it."""
    ending: Ending | None = None
    """None when it must run live."""


@dataclass(slots=True)
class _Page:
    outcomes: list[Outcome] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    """Ids of jobs."""


class Judge:
    """Decides about results. Values only."""

    def __init__(self, catalog: Catalog, clock: Clock, *, prompts: bool = False) -> None:
        self._catalog = catalog
        self._clock = clock
        self._reports = Reports(clock, prompts=prompts)
        self._prices = PriceBook()

    def verdict(self, record: ProviderBatch, deployment: Deployment, job: Job, result: Result) -> Verdict:
        if result.status == NOT_RUN:
            return Verdict()
        attempt = Attempt(
            job=replace(job, attempt=ATTEMPT),
            deployment=deployment,
            queue_wait=max(record.created_at - job.accepted_at, 0.0),
            started=self._clock.monotonic(),
            started_at=record.created_at,
            dispatched=True,
        )
        try:
            return self._completed(attempt, job, result)
        except UpstreamError as error:
            return self._failed(attempt, job, error)

    def _completed(self, attempt: Attempt, job: Job, result: Result) -> Verdict:
        adapter = registry.adapter(attempt.deployment.provider)
        if result.status >= 300:
            raise adapter.error(result.status, {}, result.body)
        completion = adapter.completion(lines.call(job, attempt.deployment, self._clock.now()), result.body)
        attempt.usage = completion.usage
        attempt.response_id = completion.id
        attempt.characters = len(completion.body)  # for an estimate, should the usage be missing
        outcome = self._reports.outcome(attempt, Status.SUCCESS, answer=completion.body)
        outcome = self._booked(outcome, attempt.deployment)
        event = self._reports.completed(attempt, outcome, completion.body)
        return Verdict(outcome, replace(self._reports.ending(attempt.job, event, None), attempts=1))

    def _failed(self, attempt: Attempt, job: Job, error: UpstreamError) -> Verdict:
        last = ends_here(error, job, self._catalog)
        outcome = self._booked(self._reports.outcome(attempt, Status.FAILURE, error, last=last), attempt.deployment)
        if not last:
            return Verdict(outcome)
        event = self._reports.failed(attempt.job, error, attempt, outcome, 1)
        return Verdict(outcome, replace(self._reports.ending(attempt.job, event, None), attempts=1))

    def _booked(self, outcome: Outcome, deployment: Deployment) -> Outcome:
        cost = self._prices.batch_cost(deployment, outcome.usage)
        return replace(outcome, cost=cost, tags=(*outcome.tags, TAG))


class Results:
    """Takes results in, in bounded memory. Doing it again from the start, after a crash, changes nothing more."""

    def __init__(
        self, store: Store, catalog: Catalog, clock: Clock, *,
        charges: Charges | None = None, keep_ledger: bool = True, keep_prompts: bool = False,
    ) -> None:  # fmt: skip
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._charges = charges
        self._keep_ledger = keep_ledger
        self._keep_prompts = keep_prompts

    @cached_property
    def _judge(self) -> Judge:
        """Made when there is something to judge: its price list takes half a second to load."""
        return Judge(self._catalog, self._clock, prompts=self._keep_prompts)

    async def take_in(
        self, record: ProviderBatch, deployment: Deployment, results: AsyncIterator[Result], release: Release
    ) -> None:
        """Record results as they come, and `release` lines that must run live, once what is known of them is safe.
        Raises `UpstreamError` from `results`, and `Unavailable`."""
        page: list[Result] = []
        size = 0
        async for result in results:
            page.append(result)
            size += len(result.body)
            if len(page) >= _PAGE or size >= _PAGE_BYTES:
                await release(record, await self._take_in(record, deployment, page))
                page, size = [], 0
        if page:
            await release(record, await self._take_in(record, deployment, page))

    async def _take_in(self, record: ProviderBatch, deployment: Deployment, results: list[Result]) -> list[str]:
        page = _Page()
        for begin in range(0, len(results), _BODIES):
            some = {result.custom_id: result for result in results[begin : begin + _BODIES]}
            for found in await self._store.batches.lines(record.batch_id, list(some)):
                verdict = self._judge.verdict(record, deployment, found.job, some[found.job.id])
                _put(page, found.job.id, verdict)
            await asyncio.sleep(0)  # a client's stream may be waiting for the event loop
        await self._record(page)
        answered = sum(ending.state is JobState.COMPLETED for ending in page.endings)
        metrics.note_provider_batch(
            record.provider,
            page.outcomes,
            answered=answered,
            failed=len(page.endings) - answered,
            live=len(page.live),
        )
        return page.live

    async def _record(self, page: _Page) -> None:
        outcomes = page.outcomes if self._keep_ledger else []
        try:
            await self._commit(outcomes, page.endings)
        except InvalidRequest:
            await self._record_singly(outcomes, page.endings)

    async def _commit(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> None:
        await self._store.record(outcomes, endings)
        if self._charges is not None:
            await self._charges.charge(outcomes)

    async def _record_singly(self, outcomes: list[Outcome], endings: list[Ending]) -> None:
        """The store refuses one of them; its line stays consigned, and runs live with all that have no result."""
        rows = {outcome.job_id: outcome for outcome in outcomes}
        for ending in endings:
            row = rows.pop(ending.job_id, None)
            try:
                await self._commit([row] if row else [], [ending])
            except InvalidRequest as error:
                log.error("batch_result_refused", job=ending.job_id, reason=error.message)
        for row in rows.values():
            with suppress(InvalidRequest):
                await self._commit([row])


def _put(page: _Page, job_id: str, verdict: Verdict) -> None:
    if verdict.outcome is not None:
        page.outcomes.append(verdict.outcome)
    if verdict.ending is not None:
        page.endings.append(verdict.ending)
    else:
        page.live.append(job_id)
