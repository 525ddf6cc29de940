"""SIGTERM: what runs is finished or handed over, what waits goes elsewhere, and the books balance."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.e2e.books import balanced_books, resting_buckets, upstream_process, write_config
from tests.e2e.deployment import Servers, deployed
from tests.e2e.load import Answer, End, Load, chats, failures, tally
from tests.e2e.servers import real_servers

_PLAIN = 1_000_000  # a stream every so many requests: none


@pytest_asyncio.fixture
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


async def test_a_worker_that_is_told_to_stop_finishes_its_jobs_and_leaves_the_queued_ones(
    servers: Servers, tmp_path: Path
) -> None:
    narrow = {"HEADRACE_CONCURRENCY": "4"}
    async with (
        upstream_process(tmp_path, latency=1.0) as upstream,
        deployed(write_config(tmp_path, upstream), servers, tmp_path, extra=narrow) as headrace,
    ):
        load = Load([headrace.url], concurrency=24)
        running = asyncio.create_task(load.run(chats(24)))
        await upstream.arrived(4)
        await headrace.start_worker()

        code = await headrace.workers[0].stop()
        answers = await running
        books = await balanced_books(upstream, servers)
        buckets = await resting_buckets(headrace.config, servers)

    print(f"\na worker drained: exit code {code}, {tally(answers)}; {books}; {buckets}")
    assert code == 0
    assert tally(answers)[End.OK] == 24, failures(answers)
    assert books.balanced, books
    assert books.statuses == {"success": 24}
    assert [bucket.in_flight for bucket in buckets] == [0]


async def test_an_api_that_is_told_to_stop_answers_what_it_has_accepted(servers: Servers, tmp_path: Path) -> None:
    async with (
        upstream_process(tmp_path, latency=1.0, pace=0.02) as upstream,
        deployed(write_config(tmp_path, upstream), servers, tmp_path, apis=2) as headrace,
    ):
        load = Load([headrace.url], concurrency=16)
        running = asyncio.create_task(load.run(chats(16)))
        await upstream.arrived(16)

        code = await headrace.apis[0].stop()
        answers = await running
        others = await Load([f"http://127.0.0.1:{headrace.ports[1]}"], 4).run(chats(4))
        books = await balanced_books(upstream, servers)

    print(f"\nan api drained: exit code {code}, {tally(answers)}; {books}")
    assert code == 0
    assert tally(answers)[End.OK] == 16, failures(answers)
    assert tally(others)[End.OK] == 4, failures(others)
    assert books.balanced, books
    assert books.statuses == {"success": 20}


async def test_what_outlasts_the_grace_period_is_handed_over_or_ends_in_band(servers: Servers, tmp_path: Path) -> None:
    async with (
        upstream_process(tmp_path, latency=3.0, pace=1.0) as upstream,
        deployed(
            write_config(tmp_path, upstream), servers, tmp_path, extra={"HEADRACE_GRACE_SECONDS": "1"}
        ) as headrace,
    ):
        streams = Load([headrace.url], concurrency=2)
        streaming = asyncio.create_task(streams.run(chats(2, stream_every=1)))
        await upstream.arrived(2)
        await headrace.start_worker()
        first, _ = headrace.workers
        plain = Load([headrace.url], concurrency=8)
        answering = asyncio.create_task(plain.run(chats(8, stream_every=_PLAIN)))
        await upstream.arrived(10)
        await streams.opened.wait()

        code = await first.stop()
        answers: list[Answer] = [*await streaming, *await answering]
        books = await balanced_books(upstream, servers)
        buckets = await resting_buckets(headrace.config, servers)

    print(f"\na worker stopped after its grace: exit code {code}, {tally(answers)}; {books}; {buckets}")
    assert code == 0
    assert [answer.end for answer in streams.answers] == [End.IN_BAND] * 2, failures(streams.answers)
    assert tally(plain.answers)[End.OK] == 8, failures(plain.answers)
    assert books.balanced, books
    assert books.statuses["success"] == 8
    assert [bucket.in_flight for bucket in buckets] == [0]
