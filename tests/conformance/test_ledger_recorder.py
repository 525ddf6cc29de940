"""The ledger under a running recorder."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from broker.interfaces import OutcomeBatch
from broker.records import SpendSummary
from broker.store.database import connect
from shared.jobs import Ending, Outcome
from tests.conformance.ledgers import an_outcome
from tests.conftest import IN_CI
from tests.servers import Postgres
from workers.recorder import Recorder


class Outcomes:
    """A queue of outcome messages that says which were acked."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Outcome] = asyncio.Queue()
        self.acked = 0

    @asynccontextmanager
    async def outcomes(self, prefetch: int) -> AsyncIterator[AsyncIterator[OutcomeBatch]]:
        async def deliver() -> AsyncGenerator[OutcomeBatch]:
            while True:
                yield Message(self, [await self.waiting.get()])

        async with aclosing(deliver()) as deliveries:
            yield deliveries


@dataclass
class Message:
    queue: Outcomes
    outcomes: Sequence[Outcome]
    endings: Sequence[Ending] = ()

    async def ack(self) -> None:
        self.queue.acked += 1


async def test_a_restart_of_postgres_under_recorders_loses_nothing_and_doubles_nothing() -> None:
    if not Postgres.installed():
        (pytest.fail if IN_CI else pytest.skip)("PostgreSQL is not installed")
    queue = Outcomes()
    async with Postgres() as server, connect(server.url) as store:
        await store.migrate()
        recorders = [asyncio.create_task(Recorder(queue, store, linger=0.01).run()) for _ in range(2)]  # type: ignore[arg-type]
        for number in range(900):
            if number == 300:
                await server.stop()
            if number == 600:
                await server.start()
            queue.waiting.put_nowait(an_outcome(f"job-{number}"))
            queue.waiting.put_nowait(an_outcome(f"job-{number}"))
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while queue.acked < 1_800:
                await asyncio.sleep(0.05)
        for recorder in recorders:
            recorder.cancel()
        await asyncio.gather(*recorders, return_exceptions=True)

        assert await store.summary() == SpendSummary(900_000, 900, {"gpt-4o-2024-08-06": 900_000})
