"""What workers say of themselves, in every EventLog. `api` and `worker` are two processes' logs, or one in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import from_url

from broker.events import memory, redis
from broker.events.presence import MAX_REPORT, MAX_REPORTS
from broker.interfaces import EventLog

Connect = Callable[[], memory.MemoryEventLog | redis.RedisEventLog]


@pytest.fixture
def connect(backend: str, namespace: str) -> Connect:
    """Opens the log of another process."""
    if backend == "memory://":
        log = memory.connect()
        return lambda: log
    return lambda: redis.connect(backend, namespace=namespace)


@pytest.fixture
async def api(connect: Connect) -> AsyncIterator[EventLog]:
    async with connect() as log:
        yield log


@pytest.fixture
async def worker(connect: Connect, api: EventLog) -> AsyncIterator[EventLog]:
    async with AsyncExitStack() as stack:
        log = connect()
        yield log if log is api else await stack.enter_async_context(log)


async def test_there_are_no_reports_before_a_worker_gives_one(api: EventLog, worker: EventLog) -> None:
    await worker.announce("silent", 60)

    assert await api.reports() == []
    assert await api.present("silent")


async def test_each_worker_has_its_newest_report(api: EventLog, worker: EventLog) -> None:
    await worker.announce("one", 60, b"old")
    await worker.announce("two", 60, b"\x00\xff")
    await worker.announce("one", 60, b"new")

    assert sorted(await api.reports()) == [b"\x00\xff", b"new"]


async def test_a_report_ends_with_its_announcement(api: EventLog, worker: EventLog) -> None:
    await worker.announce("brief", 0.1, b"brief")
    await worker.announce("withdrawn", 60, b"withdrawn")
    await worker.announce("lasting", 60, b"lasting")

    await worker.announce("withdrawn", 0, b"ignored")
    async with asyncio.timeout(60):
        while await api.present("brief"):
            await asyncio.sleep(0.02)

    assert await api.reports() == [b"lasting"]


async def test_a_report_of_the_largest_size_arrives_and_a_larger_one_is_refused(
    api: EventLog, worker: EventLog
) -> None:
    await worker.announce("one", 60, b"x" * MAX_REPORT)

    with pytest.raises(ValueError, match="65537 bytes"):
        await worker.announce("one", 60, b"x" * (MAX_REPORT + 1))

    assert [len(report) for report in await api.reports()] == [MAX_REPORT]


async def test_no_more_than_so_many_reports_are_read(api: EventLog, worker: EventLog) -> None:
    await asyncio.gather(*(worker.announce(f"worker-{n}", 60, b"here") for n in range(MAX_REPORTS + 1)))

    assert len(await api.reports()) == MAX_REPORTS


async def test_redis_forgets_the_workers_of_long_ago(redis_url: str, namespace: str) -> None:
    key = f"{namespace}:workers"
    async with redis.connect(redis_url, namespace=namespace) as log, from_url(redis_url) as server:
        now_ms = int(time.time() * 1000)
        await server.zadd(key, {"long-ago": now_ms - 301_000, "lately": now_ms - 299_000})

        await log.announce("one", 60, b"here")

        assert await server.zrange(key, 0, -1) == [b"lately", b"one"]
        assert await log.reports() == [b"here"]


async def test_a_worker_whose_clock_is_behind_is_still_read(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis.connect(redis_url, namespace=namespace) as log:
        real = time.time
        with monkeypatch.context() as patch:
            patch.setattr(redis.time, "time", lambda: real() - 120)
            await log.announce("behind", 60, b"behind")

        await log.announce("right", 60, b"right")

        assert sorted(await log.reports()) == [b"behind", b"right"]
