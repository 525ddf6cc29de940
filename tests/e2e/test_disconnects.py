"""A client that leaves takes its request with it: the provider is hung up on, or never called."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import PRICES, model, write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.gauges import all_accepted, few_left
from tests.e2e.ledger import ledger_rows
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}
QUESTION = [{"role": "user", "content": "What is a headrace?"}]
PROMPT = 1.0  # seconds in which a provider is hung up on
PACE = 0.1  # seconds between two words
_PATIENCE = 30.0  # seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    """Slow enough to leave in the middle: 6 s for an answer."""
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    narrow = model(
        "narrow", "openai/narrow", f"{upstream.url}/v1", max_parallel_requests=1, api_key="sk-narrow", **PRICES
    )
    settings = {"HEADRACE_KEEPALIVE_SECONDS": "0.3"}
    async with deployed(write_config(folder, upstream, narrow), servers, folder, workers=2, extra=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_before(upstream: FakeUpstream) -> None:
    upstream.reset()
    upstream.latency, upstream.pace = 0.0, PACE
    upstream.gate.set()


async def test_leaving_a_stream_hangs_up_on_the_provider(headrace: Headrace, upstream: FakeUpstream) -> None:
    async with chatting(headrace, "priced", stream=True) as answer:
        await lines(answer, "data: ", 5)
    left = time.time()

    attempt = upstream.requests[0]
    await asyncio.wait_for(upstream.ended(attempt), PROMPT + 4)
    assert attempt.hung_up_at is not None
    assert attempt.hung_up_at - left < PROMPT


async def test_a_stream_that_was_left_is_billed_for_what_it_used(headrace: Headrace, upstream: FakeUpstream) -> None:
    async with chatting(headrace, "priced", stream=True) as answer:
        await lines(answer, "data: ", 8)

    [row] = await ledger_rows(headrace, upstream.requests[0].job_id)
    assert row["metadata"]["status"] == "cancelled"
    assert row["prompt_tokens"] > 0
    assert 0 < row["completion_tokens"] < 60
    assert row["metadata"]["usage_estimated"]
    assert row["spend"] == pytest.approx(row["prompt_tokens"] * 1e-6 + row["completion_tokens"] * 2e-6)


async def test_leaving_a_plain_request_hangs_up_on_the_provider(headrace: Headrace, upstream: FakeUpstream) -> None:
    upstream.latency = 6.0
    waiting = asyncio.create_task(chat(headrace, "priced"))
    await asyncio.wait_for(upstream.arrived(1), _PATIENCE)

    waiting.cancel()
    left = time.time()

    attempt = upstream.requests[0]
    await asyncio.wait_for(upstream.ended(attempt), PROMPT + 4)
    assert attempt.hung_up_at is not None
    assert attempt.hung_up_at - left < PROMPT
    [row] = await ledger_rows(headrace, attempt.job_id)
    assert row["metadata"]["status"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_queued_never_calls_the_provider(
    headrace: Headrace, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.gate.clear()  # the first keeps the key until the others have left
    upstream.pace = 0.0
    async with chatting(headrace, "narrow", stream=True) as first:
        await asyncio.wait_for(upstream.arrived(1), _PATIENCE)
        async with chatting(headrace, "narrow", stream=True) as queued:
            await lines(queued, ": keep-alive", 2)
            if not stream:
                plain = asyncio.create_task(chat(headrace, "narrow", "This one leaves."))
                await all_accepted(headrace, [plain], before=2)
                plain.cancel()
        await few_left(headrace, 1)
        await asyncio.sleep(PROMPT)  # by then nobody calls for the others any more
        upstream.gate.set()
        left_behind = await first.text()

    assert await chat(headrace, "narrow", "This one stays.") == 200
    assert "[DONE]" in left_behind
    assert [attempt.body["messages"][0]["content"] for attempt in upstream.requests] == [
        QUESTION[0]["content"],
        "This one stays.",
    ]


async def test_a_key_that_was_in_use_is_free_at_once_when_the_client_leaves(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    async with chatting(headrace, "narrow", stream=True) as first:
        await lines(first, "data: ", 1)
    left = time.time()

    async with chatting(headrace, "narrow", stream=True) as second:
        await lines(second, "data: ", 1)

    assert upstream.requests[1].at - left < PROMPT + 1


@asynccontextmanager
async def chatting(
    headrace: Headrace, model: str, *, stream: bool, content: str = ""
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer that is being read; leaving closes the connection, whatever is still to come."""
    messages = [{"role": "user", "content": content}] if content else QUESTION
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": stream}
    async with (
        aiohttp.ClientSession(headers=AUTHORIZED) as session,
        session.post(f"{headrace.url}/v1/chat/completions", json=body) as answer,
    ):
        yield answer


async def chat(headrace: Headrace, model: str, content: str = "") -> int:
    async with chatting(headrace, model, stream=False, content=content) as answer:
        await answer.read()
        return answer.status


async def lines(answer: aiohttp.ClientResponse, start: str, count: int) -> None:
    """Read until so many lines that start like this have come."""
    async for line in answer.content:
        count -= line.decode().startswith(start)
        if count == 0:
            return
    raise AssertionError(f"the answer ended before its lines {start!r} had come")
