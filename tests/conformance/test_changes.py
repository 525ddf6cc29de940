"""What an EventLog promises about changes: every process hears of them within a second, and knows when it may not have.

`api` and `keeper` are two processes' logs; in the embedded profile they are one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis.asyncio

from broker.events import memory
from broker.events import redis as on_redis
from broker.interfaces import EventLog
from shared.errors import Unavailable
from tests.servers import Redis


class Ear:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, subject: str) -> None:
        self.heard.append(subject)
        self._more.set()

    async def until(self, subject: str, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while subject not in self.heard:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def logs(backend: str, namespace: str) -> AsyncIterator[tuple[EventLog, EventLog]]:
    async with AsyncExitStack() as stack:
        if backend == "memory://":
            log = await stack.enter_async_context(memory.connect())
            yield log, log
            return
        api = await stack.enter_async_context(on_redis.connect(backend, namespace=namespace))
        yield api, await stack.enter_async_context(on_redis.connect(backend, namespace=namespace))


async def test_every_process_hears_of_a_change_within_a_second(logs: tuple[EventLog, EventLog]) -> None:
    api, keeper = logs
    here, there, second = Ear(), Ear(), Ear()
    api.on_change(here)
    keeper.on_change(there)
    keeper.on_change(second)

    await api.announce_change("key:0123")
    await keeper.announce_change("team:red/ä")

    for ear in (here, there, second):
        await ear.until("key:0123", 1.0)
        await ear.until("team:red/ä", 1.0)


async def test_who_announces_has_heard_of_it_when_the_call_returns(logs: tuple[EventLog, EventLog]) -> None:
    api, _ = logs
    ear = Ear()
    api.on_change(ear)

    await api.announce_change("user:u")

    assert "user:u" in ear.heard


async def test_after_a_reconnect_everybody_hears_that_changes_may_have_been_missed() -> None:
    async with Redis() as server, redis.asyncio.from_url(server.url) as admin, on_redis.connect(server.url) as log:
        ear = Ear()
        log.on_change(ear)

        await admin.client_kill_filter(_type="pubsub")

        await ear.until("", 60.0)


async def test_who_cannot_tell_the_others_has_heard_of_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.redis_pipe.PATIENCE", 0.5)
    async with Redis() as server, on_redis.connect(server.url) as log:
        ear = Ear()
        log.on_change(ear)
        await server.kill()

        with pytest.raises(Unavailable):
            await log.announce_change("key:0123")

        assert "key:0123" in ear.heard
