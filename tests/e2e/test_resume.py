"""Streams that break off and go on: on any api process, for any number of viewers, without a gap or a repeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import redis.asyncio

from tests.e2e.conftest import write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.reader import Reader
from tests.e2e.servers import real_servers
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}
GO_ON = {"x-headrace-on-disconnect": "continue"}
REQUEST = {"model": "gpt", "messages": [{"role": "user", "content": "What is a headrace?"}], "stream": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    """Slow enough to break off in the middle: about 2 s for an answer."""
    async with FakeUpstream(pace=0.03) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    config = write_config(folder, upstream)
    async with deployed(config, servers, folder, apis=2 if servers.distributed else 1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=AUTHORIZED, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def addresses(headrace: Headrace) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in headrace.ports]


async def resume(session: aiohttp.ClientSession, url: str, reader: Reader, most: int | None = None) -> None:
    """Go on where the reader is; from the beginning, if it has nothing."""
    headers = {"Last-Event-ID": reader.last_id} if reader.last_id else {}
    async with session.get(f"{url}/v1/jobs/{reader.job_id}/events", headers=headers) as response:
        await reader.read(response, most)
        if most is not None:
            response.close()


@pytest.mark.parametrize("frames", [1, 10])
async def test_a_client_that_is_cut_off_again_and_again_reads_the_exact_text(
    headrace: Headrace, session: aiohttp.ClientSession, frames: int
) -> None:
    reader = Reader()
    async with session.post(f"{headrace.url}/v1/chat/completions", json=REQUEST, headers=GO_ON) as response:
        await reader.read(response, most=frames)
        response.close()

    cuts = 0
    for url in cycle(reversed(addresses(headrace))):
        await resume(session, url, reader, most=frames)
        cuts += 1
        if reader.done:
            break

    assert reader.text == ANSWER
    assert reader.gapless
    assert cuts >= len(reader.numbers) // frames


async def test_viewers_of_one_stream_see_the_same_on_every_api(
    headrace: Headrace, session: aiohttp.ClientSession
) -> None:
    first = Reader()
    async with session.post(f"{headrace.url}/v1/chat/completions", json=REQUEST) as response:
        await first.read(response, most=5)
        viewers = [Reader(first.job_id, first.last_id if number % 2 else "") for number in range(10)]
        urls = cycle(addresses(headrace))
        async with asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(resume(session, next(urls), viewer))
            group.create_task(first.read(response))

    assert (first.text, first.done, first.gapless) == (ANSWER, True, True)
    assert [viewer.done for viewer in viewers] == [True] * 10
    assert [viewer.numbers for viewer in viewers] == [first.numbers, first.numbers[5:]] * 5
    assert {viewer.text for viewer in viewers[::2]} == {ANSWER}


async def test_a_finished_stream_can_be_read_again_from_any_point(
    headrace: Headrace, session: aiohttp.ClientSession
) -> None:
    first = Reader()
    async with session.post(f"{headrace.url}/v1/chat/completions", json=REQUEST, headers=GO_ON) as response:
        await first.read(response)

    again = Reader(first.job_id)
    await resume(session, addresses(headrace)[-1], again)
    rest = Reader(first.job_id, f"{first.job_id}:40")
    await resume(session, headrace.url, rest)
    async with session.get(f"{headrace.url}/v1/jobs/{first.job_id}/events?starting_after=1000") as response:
        refused = (response.status, (await response.json())["error"]["param"])

    assert (again.text, again.numbers) == (ANSWER, first.numbers)
    assert rest.numbers == first.numbers[40:]
    assert refused == (400, "starting_after")


# --- What needs several processes -------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(upstream: FakeUpstream, worker_number: int, tmp_path: Path) -> AsyncIterator[Headrace]:
    """Two apis and a worker, for one test to do with as it likes."""
    async with (
        real_servers(worker_number) as servers,
        deployed(write_config(tmp_path, upstream), servers, tmp_path, apis=2) as running,
    ):
        yield running


async def test_a_stream_outlives_its_api(fleet: Headrace, session: aiohttp.ClientSession) -> None:
    reader = Reader()
    async with session.post(f"{fleet.url}/v1/chat/completions", json=REQUEST) as response:
        await reader.read(response, most=15)
        fleet.apis[0].kill()
        with contextlib.suppress(aiohttp.ClientError):
            await reader.read(response)
    assert not reader.done

    await resume(session, addresses(fleet)[1], reader)

    assert (reader.text, reader.done, reader.gapless) == (ANSWER, True, True)


async def test_an_answer_outlives_its_log(fleet: Headrace, session: aiohttp.ClientSession) -> None:
    first = Reader()
    async with session.post(f"{fleet.url}/v1/chat/completions", json=REQUEST, headers=GO_ON) as response:
        await first.read(response)
    await ended(session, fleet.url, first.job_id)
    assert fleet.servers.redis is not None
    async with redis.asyncio.from_url(fleet.servers.redis) as server:
        await server.flushdb()

    again, rest = Reader(first.job_id), Reader(first.job_id, f"{first.job_id}:30")
    await resume(session, addresses(fleet)[1], again)
    await resume(session, addresses(fleet)[0], rest)

    assert (again.text, again.numbers, again.done) == (ANSWER, first.numbers, True)
    assert rest.numbers == first.numbers[30:]


async def ended(session: aiohttp.ClientSession, url: str, job_id: str) -> None:
    """Wait until the store has the job's end."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{url}/v1/jobs/{job_id}") as response:
                if (await response.json()).get("expires_at"):
                    return
            await asyncio.sleep(0.05)
