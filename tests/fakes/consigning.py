"""Batches on their way to a provider's batch API: a store in memory, a fake provider, and what drives them."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from broker.backends import Backends
from broker.records import BatchRecord, BatchStatus, JobQuery, JobRecord, ProviderBatch, SpendQuery
from shared.catalog import Catalog, Deployment, Prices
from shared.jobs import JobState, Outcome
from tests.fakes.batch_api import KEY, BatchApiServer, batch_api
from tests.fakes.batching import Desk, a_line, json_lines, memory_backends
from tests.fakes.clock import FakeClock
from workers.batch_intake import BatchIntake
from workers.batch_output import BatchOutput
from workers.provider_batches.consigner import Consigner
from workers.provider_batches.driver import ProviderBatches
from workers.upstream import Upstream

HOUR = 3600.0
MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
PRICES = Prices(input=0.000002, output=0.00001)
LIVE_COST = 3_000_000  # nano-dollars of 1,000 tokens in and 100 out


def a_deployment(provider: str, base: str, **fields: Any) -> Deployment:
    model = MODELS[provider]
    address = base + {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}[provider]
    deployment = Deployment(
        id=f"d-{provider}", group="m", provider=provider, model=model, api_key=KEY, api_base=address,
        credential="c", bucket="b", provider_batch=True, prices=PRICES,
    )  # fmt: skip
    return replace(deployment, **fields)


@dataclass
class World:
    api: BatchApiServer
    backends: Backends
    catalog: Catalog
    clock: FakeClock
    driver: ProviderBatches
    upstream: Upstream
    batch_id: str = ""

    async def release(self, lines: int = 12, rows: Sequence[dict[str, Any]] | None = None, **fields: Any) -> None:
        """A batch is taken in and released."""
        content = json_lines(rows or [a_line(number, body={"model": "m"}) for number in range(lines)])
        window = fields.pop("window", 24 * HOUR)
        batch = await self.desk.batch(content, expires_at=self.clock.now() + window, **fields)
        self.batch_id = batch.id
        consigner = Consigner(self.backends.store, self.catalog, self.clock)
        intake = BatchIntake(self.backends.store, self.catalog, self.clock, consigner=consigner)
        await intake.take_in(batch)

    async def round(self, *, after: float = 0.0) -> None:
        """Time passes, and the driver looks at what is due."""
        self.clock.advance(after)
        await self.driver.round()

    async def submitted(self, lines: int = 12, **fields: Any) -> None:
        """A batch that the provider runs."""
        await self.release(lines, **fields)
        await self.round()

    def restart(self) -> None:
        """Another process goes on."""
        self.driver = ProviderBatches(self.backends.store, self.catalog, self.clock, self.upstream)

    async def wind_up(self) -> None:
        """The batch's files are written, if all of it is done."""
        output = BatchOutput(self.backends, self.clock)
        await output.round()
        await output.round()

    @property
    def desk(self) -> Desk:
        return Desk(self.backends, self.clock)

    async def batch(self) -> BatchRecord:
        return await self.desk.batch_of(self.batch_id)

    async def lines(self, state: JobState) -> list[JobRecord]:
        return await self.backends.store.jobs.find(JobQuery(batch_id=self.batch_id, states=(state,), limit=100))

    async def states(self) -> dict[str, int]:
        """How many lines are in which state."""
        counts = {state.value: len(await self.lines(state)) for state in JobState}
        return {state: count for state, count in counts.items() if count}

    async def open(self) -> list[ProviderBatch]:
        return await self.backends.store.batches.provider_batches()

    async def only(self) -> ProviderBatch:
        (record,) = await self.open()
        return record

    async def set(self, **changes: Any) -> None:
        """What a crash left in the store."""
        await self.backends.store.batches.save_provider_batch(replace(await self.only(), **changes))

    async def ledger(self) -> list[Outcome]:
        return await self.backends.store.spend(SpendQuery())

    async def cancel(self) -> None:
        await self.backends.store.batches.move(
            self.batch_id, BatchStatus.CANCELLING, self.clock.now(), expected=[BatchStatus.IN_PROGRESS]
        )


@asynccontextmanager
async def world(provider: str = "openai", *others: Deployment, **fields: Any) -> AsyncIterator[World]:
    """With one deployment of the provider, of model group `m`."""
    clock = FakeClock(time.time())  # files expire by the real time
    async with batch_api() as api, memory_backends(clock) as backends, Upstream() as upstream:
        catalog = Catalog([a_deployment(provider, api.base, **fields), *others])
        yield World(api, backends, catalog, clock, ProviderBatches(backends.store, catalog, clock, upstream), upstream)
