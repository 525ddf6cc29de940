"""A quiet tenant beside another's flood of batch lines and requests: it goes first, wherever the flood has to wait."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import model, write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.gauges import all_accepted
from tests.e2e.servers import real_servers
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS, LINES = 240, 240
"""Of the flood."""
UNDER_WAY = 16
"""Requests of the flood that are at the provider when the quiet tenant comes, and stay there until it is heard: how
fast the machine takes in a flood is not the question."""
ASKED = 6
"""Requests of the quiet tenant."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    narrow = model("narrow", "openai/narrow", f"{upstream.url}/v1", api_key="sk-narrow", max_parallel_requests=16)
    config = write_config(folder, upstream, narrow)
    async with deployed(config, servers, folder, extra={"HEADRACE_CONCURRENCY": "64"}) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "latency"), [("gpt", 0.4), ("narrow", 0.1)], ids=["the worker's slots", "the key's parallel requests"]
)
async def test_a_quiet_tenant_does_not_wait_for_anothers_flood(
    headrace: Headrace, upstream: FakeUpstream, name: str, latency: float
) -> None:
    upstream.reset()
    upstream.latency = latency
    upstream.gate.clear()
    async with await tenant(headrace, "loud") as loud, await tenant(headrace, "quiet") as quiet:
        batch = await submit(loud, [prompt(name, "line") for _ in range(LINES)])
        flood = [asyncio.create_task(ask(loud, prompt(name, "loud"))) for _ in range(REQUESTS)]
        async with asyncio.timeout(60):
            await upstream.arrived(UNDER_WAY)
        await all_accepted(headrace, flood)

        late = [asyncio.create_task(ask(quiet, prompt(name, "quiet"))) for _ in range(ASKED)]
        await all_accepted(headrace, late, before=REQUESTS)
        upstream.gate.set()
        quiet_waits = await asyncio.gather(*late)

        upstream.latency = 0.0
        loud_waits = await asyncio.gather(*flood)
        completed = await finished(loud, batch)

    order = [attempt.body["messages"][0]["content"] for attempt in upstream.requests]
    after = order[len(order) - order[::-1].index("quiet") :]
    assert (order.count("quiet"), order.count("loud"), order.count("line")) == (ASKED, REQUESTS, LINES)
    assert completed == LINES
    assert len(after) > LINES
    assert max(quiet_waits) < max(loud_waits) / 2


async def test_interactive_work_overtakes_a_batch_that_waits_for_a_key(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    upstream.reset()
    upstream.latency = 0.1
    upstream.gate.clear()
    async with await tenant(headrace, "same") as same:
        batch = await submit(same, [prompt("narrow", "line") for _ in range(LINES)])
        async with asyncio.timeout(60):
            await upstream.arrived(UNDER_WAY)

        requests = [asyncio.create_task(ask(same, prompt("narrow", "request"))) for _ in range(40)]
        await all_accepted(headrace, requests)
        upstream.gate.set()
        await asyncio.gather(*requests)

        upstream.latency = 0.0
        completed = await finished(same, batch)

    order = [attempt.body["messages"][0]["content"] for attempt in upstream.requests]
    after = order[len(order) - order[::-1].index("request") :]
    assert completed == LINES
    assert len(after) > LINES / 2


async def tenant(headrace: Headrace, name: str) -> aiohttp.ClientSession:
    """A session with a virtual key of its own."""
    admin = {"Authorization": f"Bearer {MASTER_KEY}"}
    async with (
        aiohttp.ClientSession(headrace.url, headers=admin) as session,
        session.post("/key/generate", json={"user_id": name}) as response,
    ):
        key = (await response.json())["key"]
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(headrace.url, headers={"Authorization": f"Bearer {key}"}, connector=connector)


def prompt(model: str, content: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 100}


async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> float:
    """Milliseconds that the request waited for its turn."""
    async with session.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return float(response.headers["x-headrace-queue-wait-ms"])


async def submit(session: aiohttp.ClientSession, bodies: list[dict[str, Any]]) -> str:
    url = "/v1/chat/completions"
    lines = [{"custom_id": f"{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", "\n".join(map(json.dumps, lines)), filename="lines.jsonl")
    async with session.post("/v1/files", data=form) as response:
        file = await response.json()
    order = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
    async with session.post("/v1/batches", json=order) as response:
        return str((await response.json())["id"])


async def finished(session: aiohttp.ClientSession, batch: str) -> int:
    """Lines that were completed, once all are over."""
    async with asyncio.timeout(100):
        while True:
            async with session.get(f"/v1/batches/{batch}") as response:
                found = await response.json()
            if found["status"] not in ("validating", "in_progress", "finalizing"):
                return int(found["request_counts"]["completed"])
            await asyncio.sleep(0.1)
