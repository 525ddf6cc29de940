"""Which lines of a batch go to a provider's batch API, decided once, right before the batch's lines are released.

That moment matters: a moment later the feeder would have put them on their lanes, which is why no line of a batch that
may go runs before all are in the store. And lines that come back from a provider find it passed, so that none goes
there twice. Nothing is sent from here: `driver` does that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from broker.records import BatchRecord, JobRecord, ProviderBatch
from broker.store_interfaces import Store
from shared.catalog import Catalog, Deployment
from shared.clock import Clock
from shared.ids import uuid7
from shared.jobs import Job
from workers.provider_batches import registry
from workers.provider_batches.policy import POLICY

_PAGE = 500  # lines
_OVERHEAD = 512  # bytes that a request grows by when it is translated, by a generous guess

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Chunk:
    """Lines for one batch at the provider."""

    deployment: Deployment
    bytes: int = 0
    job_ids: list[str] = field(default_factory=list)
    follows: bool = False
    """There was another for the same deployment."""


class Consigner:
    """Any process may consign the lines of a batch; what one began and did not finish, another one does."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        self._batches = store.batches
        self._jobs = store.jobs
        self._catalog = catalog
        self._clock = clock

    def interested(self, batch: BatchRecord) -> bool:
        """Whether any line of the batch may go."""
        return bool(self._providers()) and POLICY.has_slack(self._clock.now(), batch.expires_at)

    async def consign(self, batch: BatchRecord) -> None:
        """Take those of the batch's queued lines out of the queue that are to go. Raises `Unavailable`."""
        if self.interested(batch):
            for provider in sorted(self._providers()):
                await self._consign(batch, provider)

    def _providers(self) -> set[str]:
        return {each.provider for each in self._catalog.connections() if each.provider_batch}

    async def _consign(self, batch: BatchRecord, provider: str) -> None:
        limits = registry.limits(provider)
        chunks: dict[str, _Chunk] = {}
        after = 0
        while page := await self._batches.queued_lines(batch.id, provider, after, _PAGE):
            after = page[-1].line
            for record, deployment in self._chosen(page, provider):
                size = len(record.job.body) + _OVERHEAD
                chunk = chunks.setdefault(deployment.id, _Chunk(deployment))
                if len(chunk.job_ids) >= limits.lines or chunk.bytes + size > limits.bytes:
                    await self._send_off(batch, chunk)
                    chunk = chunks[deployment.id] = _Chunk(deployment, follows=True)
                chunk.job_ids.append(record.job.id)
                chunk.bytes += size
        for chunk in chunks.values():
            if chunk.follows or len(chunk.job_ids) >= POLICY.min_lines:
                await self._send_off(batch, chunk)

    def _chosen(self, page: Iterable[JobRecord], provider: str) -> Iterable[tuple[JobRecord, Deployment]]:
        for record in page:
            deployment = self._first(record.job)
            if deployment is not None and deployment.provider == provider:
                yield record, deployment

    def _first(self, job: Job) -> Deployment | None:
        """The deployment whose batch API the job may go to: of those that would be tried first, one that has it on."""
        try:
            leg = [self._catalog.deployment(id) for id in job.current.deployments]
        except KeyError:
            return None
        return next((each for each in leg if each.provider_batch and each.order == leg[0].order), None)

    async def _send_off(self, batch: BatchRecord, chunk: _Chunk) -> None:
        """The row comes first: lines are never consigned to a batch that nobody knows of."""
        now = self._clock.now()
        record = ProviderBatch(
            id=f"pb_{uuid7().replace('-', '')}",
            batch_id=batch.id,
            deployment=chunk.deployment.id,
            provider=chunk.deployment.provider,
            created_at=now,
            pull_back_at=POLICY.pull_back_at(now, batch.expires_at),
            lines=len(chunk.job_ids),
        )
        await self._batches.add_provider_batch(record)
        for begin in range(0, len(chunk.job_ids), _PAGE):
            await self._jobs.consign(chunk.job_ids[begin : begin + _PAGE], record.id, now)
        log.info(
            "lines_consigned", batch=batch.id, provider_batch=record.id, provider=record.provider, lines=record.lines
        )
