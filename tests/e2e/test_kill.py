"""Workers die at any moment; every request is answered all the same, and the books balance."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.books import at_rest, balanced_books, resting_buckets, upstream_process, write_config
from tests.e2e.deployment import Headrace, Process, Servers, deployed
from tests.e2e.load import End, Load, chats, failures, slowest, tally
from tests.e2e.servers import real_servers
from tests.fakes.upstream import ANSWER

_REQUESTS = int(os.environ.get("HEADRACE_TEST_KILL_REQUESTS", "5000"))
_CONCURRENCY = 64
_BETWEEN_KILLS = 2.0  # seconds
_WORKERS = 3
_CRASHES = 3  # after which a job is quarantined
_MOST_UNLUCKY = _REQUESTS // 1000
_DEADLINE = 90  # seconds; what waits so long was lost

pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


@dataclass
class Reaper:
    """Kills a random worker every two seconds, and starts a new one for each."""

    headrace: Headrace
    rng: random.Random = field(default_factory=random.Random)
    kills: int = 0

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While inside. On leaving, all replacements are ready."""
        ready = list(self.headrace.workers)
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(self._kill_and_replace(ready, group))
            yield
            killing.cancel()

    async def _kill_and_replace(self, ready: list[Process], group: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(_BETWEEN_KILLS)
            # The last one is spared: on a busy machine a replacement takes longer to start than its predecessor lived,
            # and without any worker there is nothing to test.
            if len(ready) > 1:
                victim = ready.pop(self.rng.randrange(len(ready)))
                victim.kill()
                self.kills += 1
                group.create_task(self._replace(ready))

    async def _replace(self, ready: list[Process]) -> None:
        ready.append(await self.headrace.start_worker())


async def test_no_request_is_lost_or_booked_twice_while_workers_are_killed(servers: Servers, tmp_path: Path) -> None:
    async with (
        upstream_process(tmp_path, latency=0.05, pace=0.001) as upstream,
        deployed(
            write_config(tmp_path, upstream),
            servers,
            tmp_path,
            apis=2,
            workers=_WORKERS,
            extra={"HEADRACE_REQUEST_TIMEOUT": str(_DEADLINE)},
        ) as headrace,
    ):
        reaper = Reaper(headrace)
        load = Load([f"http://127.0.0.1:{port}" for port in headrace.ports], _CONCURRENCY)
        started = time.monotonic()

        async with reaper.at_work():
            answers = await load.run(chats(_REQUESTS))
            seconds = time.monotonic() - started
        books = await balanced_books(upstream, servers)
        buckets = await resting_buckets(headrace.config, servers)

    print(f"\nkill: {len(answers)} requests in {seconds:.0f} s, {reaper.kills} kills, {tally(answers)}, "
          f"slowest {slowest(answers):.1f} s; {books}; {buckets}")  # fmt: skip
    assert len(answers) == _REQUESTS
    assert tally(answers)[End.DROPPED] == 0, failures(answers)
    # A request may have the bad luck to be in the hands of three workers that are killed, and is told so.
    unlucky = [answer for answer in answers if f"crashed {_CRASHES} workers" in answer.detail]
    assert len(unlucky) <= _MOST_UNLUCKY, failures(answers)
    assert all(answer in unlucky for answer in answers if answer.end is End.REFUSED), failures(answers)
    assert all(answer.detail == ANSWER for answer in answers if answer.end is End.OK)
    assert books.balanced, books
    assert all(at_rest(bucket) for bucket in buckets), buckets


async def test_a_job_that_kills_its_workers_is_set_aside_and_its_client_told(servers: Servers, tmp_path: Path) -> None:
    async with (
        upstream_process(tmp_path, latency=60.0) as upstream,
        deployed(write_config(tmp_path, upstream, ["chat", "poison"]), servers, tmp_path) as headrace,
    ):
        load = Load([headrace.url], concurrency=1)
        asking = asyncio.create_task(load.run(chats(1, model="poison", stream_every=1)))
        for crash in range(1, _CRASHES + 1):
            await upstream.arrived(crash, "poison")
            headrace.workers[-1].kill()
            await headrace.start_worker()

        (answer,) = await asking
        books = await balanced_books(upstream, servers)
        buckets = await resting_buckets(headrace.config, servers)

    print(f"\npoison: {answer.detail}; {books}")
    assert answer.end is End.IN_BAND
    assert f"crashed {_CRASHES} workers" in answer.detail
    assert books.balanced, books
    assert books.statuses == {"unknown": _CRASHES}
    assert len(upstream.attempts("poison")) == _CRASHES
    assert [bucket.in_flight for bucket in buckets] == [0, 0]
