"""A receiver of webhooks on loopback, what is owed to it, and a sender at work."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from broker.records import WebhookDelivery
from shared.errors import Unavailable
from tests.fakes.clock import FakeClock
from tests.fakes.wire import Exchange, Request, Server
from workers.webhooks import WebhookSender

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PAYLOAD = '{"type": "job.completed", "data": {"id": "job-1", "name": "ü"}}'.encode()


@dataclass
class Deliveries:
    """A `broker.store_interfaces.Webhooks` with what the sender needs of it."""

    owed: dict[str, WebhookDelivery] = field(default_factory=dict)
    away: bool = False
    asked: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)
    noted: "asyncio.Queue[WebhookDelivery]" = field(default_factory=asyncio.Queue)

    def owe(self, url: str, now: float, *ids: str) -> None:
        for each in ids or ("msg_1",):
            self.owed[each] = WebhookDelivery(each, "alice", url, "job.completed", "job-1", PAYLOAD, now, now)

    async def due(self, now: float, hold: float, limit: int) -> list[WebhookDelivery]:
        self.asked.put_nowait(limit)
        if self.away:
            raise Unavailable("the database is away")
        due = [each for each in self.owed.values() if each.next_at is not None and each.next_at <= now][:limit]
        self.owed |= {each.id: replace(each, next_at=now + hold) for each in due}
        return due

    async def attempted(
        self, delivery_id: str, now: float, *, status: int | None, error: str, next_at: float | None
    ) -> None:
        if self.away:
            raise Unavailable("the database is away")
        before = self.owed[delivery_id]
        after = replace(before, attempts=before.attempts + 1, status=status, error=error, next_at=next_at)
        self.owed[delivery_id] = after
        self.noted.put_nowait(after)


@dataclass
class World:
    deliveries: Deliveries
    clock: FakeClock
    requests: list[Request]
    port: int
    answer: Callable[[Exchange], Awaitable[None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=1"

    async def noted(self) -> WebhookDelivery:
        async with asyncio.timeout(60):
            return await self.deliveries.noted.get()


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200, b"", {})


@asynccontextmanager
async def receiver() -> AsyncIterator[World]:
    """A receiver on loopback. The clock stands at the real time, because receivers compare it with theirs."""

    async def handle(exchange: Exchange) -> None:
        it.requests.append(exchange.request)
        await it.answer(exchange)

    server = Server(handle)
    it = World(Deliveries(), FakeClock(float(int(time.time()))), [], await server.start(), ok)
    yield it
    await server.stop()


@asynccontextmanager
async def sending(it: World, **options: Any) -> AsyncIterator[None]:
    store: Any = SimpleNamespace(webhooks=it.deliveries)
    sender = WebhookSender(store, it.clock, **{"secret": SECRET, "allow_private": True, "poll": 0.005, **options})
    running = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
