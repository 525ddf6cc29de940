"""A server goes away under load and comes back: nobody's request fails for it where the design says so, none hangs."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.books import TPM, UpstreamProcess, balanced_books, resting_buckets, upstream_process, write_config
from tests.e2e.deployment import Servers, deployed
from tests.e2e.load import End, Load, chats, failures, slowest, tally
from tests.e2e.servers import real_servers
from tests.servers import Postgres, RabbitMQ, Redis

_OUTAGE = float(os.environ.get("HEADRACE_TEST_OUTAGE_SECONDS", "10"))
_DEADLINE = 90.0  # seconds
_LATE = 10.0  # seconds over its deadline after which a request hangs
_CONCURRENCY = 16

pytestmark = pytest.mark.timeout(300 + _OUTAGE)


@pytest_asyncio.fixture
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


@pytest_asyncio.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamProcess]:
    async with upstream_process(tmp_path, latency=0.05, pace=0.002) as running:
        yield running


async def test_no_request_fails_and_no_row_is_missing_after_postgresql_was_away(
    servers: Servers, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    async with Postgres() as postgres:
        own = replace(servers, database=postgres.url)
        async with deployed(write_config(tmp_path, upstream), own, tmp_path, workers=2) as headrace:
            load = Load([headrace.url], _CONCURRENCY, pause=0.05)

            async with under_load(load):
                await postgres.stop()
                await asyncio.sleep(_OUTAGE)
                before = len(load.answers)
                await postgres.start()
            books = await balanced_books(upstream, own)

    print(f"\npostgresql away for {_OUTAGE:.0f} s: {len(load.answers)} requests, {before} of them before its return, "
          f"{tally(load.answers)}, slowest {slowest(load.answers):.1f} s; {books}")  # fmt: skip
    assert tally(load.answers)[End.OK] == len(load.answers), failures(load.answers)
    assert books.balanced, books
    assert books.rows == len(load.answers)


async def test_requests_wait_for_rabbitmq_and_are_answered(
    servers: Servers, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    async with RabbitMQ() as rabbitmq:
        own = replace(servers, rabbitmq=rabbitmq.url)
        settings = {"HEADRACE_REQUEST_TIMEOUT": str(_DEADLINE)}
        async with deployed(write_config(tmp_path, upstream), own, tmp_path, workers=2, extra=settings) as headrace:
            load = Load([headrace.url], _CONCURRENCY)

            async with under_load(load):
                await rabbitmq.stop()
                await rabbitmq.start()
                await answered(load, len(load.answers) + 5 * _CONCURRENCY)
            books = await balanced_books(upstream, own)
            buckets = await resting_buckets(headrace.config, own)

    print(f"\nrabbitmq restarted: {len(load.answers)} requests, {tally(load.answers)}, "
          f"slowest {slowest(load.answers):.1f} s; {books}; {buckets}")  # fmt: skip
    assert tally(load.answers)[End.OK] == len(load.answers), failures(load.answers)
    assert books.balanced, books
    assert [bucket.in_flight for bucket in buckets] == [0]


@pytest.mark.parametrize("away", [0.0, 3.0])
async def test_nothing_hangs_when_redis_loses_everything_and_new_requests_work_at_once(
    servers: Servers, upstream: UpstreamProcess, tmp_path: Path, away: float
) -> None:
    async with Redis() as redis:
        own = replace(servers, redis=redis.url)
        settings = {"HEADRACE_REQUEST_TIMEOUT": "20"}
        async with deployed(write_config(tmp_path, upstream), own, tmp_path, workers=2, extra=settings) as headrace:
            load = Load([headrace.url], _CONCURRENCY)

            async with under_load(load):
                await redis.kill()
                await asyncio.sleep(away)
                await redis.start()
                await answered(load, len(load.answers) + 5 * _CONCURRENCY)
            afterwards = Load([headrace.url], _CONCURRENCY)
            await afterwards.run(chats(100))
            books = await balanced_books(upstream, own)
            buckets = await resting_buckets(headrace.config, own)

    print(f"\nredis away for {away:.0f} s, all keys lost: {len(load.answers)} requests, {tally(load.answers)}, "
          f"{dict(failures(load.answers))}, slowest {slowest(load.answers):.1f} s; {books}; {buckets}")  # fmt: skip
    assert tally(load.answers)[End.DROPPED] == 0, failures(load.answers)
    assert slowest(load.answers) < 20 + _LATE
    assert tally(afterwards.answers)[End.OK] == 100, failures(afterwards.answers)
    assert slowest(afterwards.answers) < 20 / 2  # half a deadline: none of them waited for it
    assert books.balanced, books
    assert [bucket.in_flight for bucket in buckets] == [0]
    assert all(bucket.tokens is None or bucket.tokens <= TPM for bucket in buckets)


@contextlib.asynccontextmanager
async def under_load(load: Load) -> AsyncIterator[None]:
    """Load before, while inside, and for a while after."""
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(chats(None)))
        await answered(load, 5 * _CONCURRENCY)
        yield
        await answered(load, len(load.answers) + 5 * _CONCURRENCY)
        load.stop()


async def answered(load: Load, count: int) -> None:
    """Wait until so many requests have ended, in whichever way."""
    async with asyncio.timeout(_DEADLINE + _LATE):
        while len(load.answers) < count:
            await asyncio.sleep(0.05)
