"""Requests for later and requests that run once, in front of a fake provider, in both profiles."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.gauges import all_accepted
from tests.e2e.ledger import ledger_rows
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASYNC = {"Prefer": "respond-async"}
_PATIENCE = 60.0  # seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    config = write_config(folder, upstream)
    async with deployed(config, servers, folder, apis=2 if servers.distributed else 1) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_before(upstream: FakeUpstream) -> None:
    upstream.reset()
    upstream.latency = 0.0
    upstream.gate.set()


@pytest_asyncio.fixture(loop_scope="module")
async def http(headrace: Headrace) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headrace.url, headers={"Authorization": f"Bearer {MASTER_KEY}"}) as session:
        yield session


async def ask(http: aiohttp.ClientSession, headers: dict[str, str], **body: Any) -> tuple[int, Any, Any]:
    """Status, JSON and headers of a chat request."""
    request = {"model": "priced", "messages": [{"role": "user", "content": "What is a headrace?"}], **body}
    async with http.post("/v1/chat/completions", json=request, headers=headers) as answer:
        text = await answer.text()
        return answer.status, text if body.get("stream") else json.loads(text), answer.headers


async def job(http: aiohttp.ClientSession, job_id: str) -> Any:
    async with http.get(f"/v1/jobs/{job_id}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def ended(http: aiohttp.ClientSession, job_id: str) -> Any:
    """The job, as soon as it has ended."""
    async with asyncio.timeout(_PATIENCE):
        while (found := await job(http, job_id))["finished_at"] is None:
            await asyncio.sleep(0.05)
    return found


async def test_a_job_for_later_ends_with_its_answer_and_its_bill(
    headrace: Headrace, http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    status, accepted, headers = await ask(http, ASYNC)
    found = await ended(http, accepted["id"])

    assert (status, headers["Location"]) == (202, f"/v1/jobs/{accepted['id']}")
    assert found["status"] == "completed"
    assert found["result"]["choices"][0]["message"]["content"] == ANSWER
    assert found["started_at"] >= found["created_at"]
    [row] = await ledger_rows(headrace, accepted["id"])
    assert row["spend"] > 0
    assert len(upstream.requests) == 1


async def test_a_streams_chunks_come_back_as_one_completion(http: aiohttp.ClientSession) -> None:
    status, text, headers = await ask(http, ASYNC, stream=True)

    found = await ended(http, json.loads(text)["id"])

    assert (status, headers["Preference-Applied"]) == (202, "respond-async")
    assert found["result"]["object"] == "chat.completion"
    assert found["result"]["choices"][0]["message"]["content"] == ANSWER


async def test_a_wait_that_is_too_short_ends_in_202_and_the_job_goes_on(
    http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    asked = time.time()

    status, accepted, headers = await ask(http, {"Prefer": "wait=1"})
    await asyncio.wait_for(upstream.arrived(1), _PATIENCE)
    upstream.gate.set()
    found = await ended(http, accepted["id"])

    assert (status, headers["Preference-Applied"]) == (202, "wait=1")
    assert accepted["status"] == "in_progress" or upstream.requests[0].at > asked + 0.8
    assert (found["status"], len(upstream.requests)) == ("completed", 1)


async def test_a_wait_that_is_long_enough_ends_in_the_answer(http: aiohttp.ClientSession) -> None:
    status, answer, _ = await ask(http, {"Prefer": "wait=30"})

    assert (status, answer["object"]) == (200, "chat.completion")


async def test_a_job_asked_to_continue_outlives_its_client(http: aiohttp.ClientSession, upstream: FakeUpstream) -> None:
    upstream.latency = 1.0
    name = uuid4().hex
    asking = asyncio.create_task(ask(http, {"x-headrace-on-disconnect": "continue"}, user=name))
    await asyncio.wait_for(upstream.arrived(1), _PATIENCE)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    async with http.get("/v1/jobs", params={"search": name}) as answer:
        [listed] = (await answer.json())["data"]
    assert (await ended(http, listed["id"]))["status"] == "completed"


async def test_a_hundred_requests_under_one_key_are_one_call_and_one_bill(
    headrace: Headrace, http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    upstream.latency = 0.5
    headers = {"Idempotency-Key": uuid4().hex}

    answers = await asyncio.gather(*(ask(http, headers) for _ in range(100)))
    later = await ask(http, headers)

    assert {status for status, _, _ in answers} == {200}
    assert {answer["id"] for _, answer, _ in [*answers, later]} == {later[1]["id"]}
    assert sum("x-headrace-idempotent-replayed" in headers for _, _, headers in answers) == 99
    assert len(upstream.requests) == 1
    assert len(await ledger_rows(headrace, later[2]["x-headrace-job-id"])) == 1


async def test_a_stream_under_a_key_is_replayed_to_the_byte(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": uuid4().hex}

    first, second = [await ask(http, headers, stream=True) for _ in range(2)]
    await ended(http, first[2]["x-headrace-job-id"])
    third = await ask(http, headers, stream=True)

    assert first[1].endswith("data: [DONE]\n\n")
    assert first[1] == second[1] == third[1]


async def test_another_body_under_a_key_is_a_422(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    await ask(http, headers)

    status, answer, _ = await ask(http, headers, temperature=1)

    assert (status, answer["error"]["param"]) == (422, "idempotency-key")


async def test_an_error_is_replayed_as_it_was(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first = await ask(http, headers, model="fault/jobs/fb-s400")
    await ended(http, first[2]["x-headrace-job-id"])

    second = await ask(http, headers, model="fault/jobs/fb-s400")

    assert first[:2] == second[:2]
    assert first[0] >= 400


async def test_identical_requests_in_flight_share_one_call(
    headrace: Headrace, http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    upstream.latency = 0.5  # in which all have found the first one's job
    body = {"user": uuid4().hex}

    asking = [asyncio.create_task(ask(http, {"x-headrace-dedupe": "body"}, **body)) for _ in range(10)]
    await all_accepted(headrace, asking)
    upstream.gate.set()
    together = await asyncio.gather(*asking)
    calls = len(upstream.requests)
    again = await ask(http, {"x-headrace-dedupe": "body"}, **body)

    assert ({status for status, _, _ in together}, calls) == ({200}, 1)
    assert len({headers["x-headrace-job-id"] for _, _, headers in together}) == 1
    assert (again[0], len(upstream.requests)) == (200, 2)


async def test_a_running_job_is_cancelled_and_its_provider_hung_up_on(
    http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    upstream.latency = 30.0
    _, accepted, _ = await ask(http, ASYNC)
    await asyncio.wait_for(upstream.arrived(1), _PATIENCE)

    async with http.delete(f"/v1/jobs/{accepted['id']}") as answer:
        cancelled = await answer.json()

    assert cancelled["status"] == "cancelled"
    await asyncio.wait_for(upstream.ended(upstream.requests[0]), _PATIENCE)
    assert (await job(http, accepted["id"]))["status"] == "cancelled"


async def test_a_failed_job_is_retried_as_a_new_one(http: aiohttp.ClientSession) -> None:
    _, accepted, _ = await ask(http, ASYNC, model="fault/retry/fb-s400")
    failed = await ended(http, accepted["id"])

    async with http.post(f"/v1/jobs/{accepted['id']}/retry") as answer:
        retried = await answer.json()

    assert (failed["status"], failed["error"]["type"]) == ("failed", "invalid_request_error")
    assert (answer.status, retried["retry_of"]) == (202, accepted["id"])
    assert (await ended(http, retried["id"]))["status"] == "failed"


async def test_tenants_do_not_see_each_others_jobs(headrace: Headrace, http: aiohttp.ClientSession) -> None:
    keys = []
    for _ in range(2):
        async with http.post("/key/generate", json={}) as answer:
            keys.append((await answer.json())["key"])
    _, accepted, _ = await ask(http, {**ASYNC, "Authorization": f"Bearer {keys[0]}"})

    statuses = []
    for key in keys:
        async with http.get(f"/v1/jobs/{accepted['id']}", headers={"Authorization": f"Bearer {key}"}) as answer:
            statuses.append(answer.status)

    assert statuses == [200, 404]


async def test_the_official_client_asks_once_and_later(headrace: Headrace, upstream: FakeUpstream) -> None:
    async with openai.AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        key = uuid4().hex
        answers = [
            await client.chat.completions.create(
                model="gpt", messages=[{"role": "user", "content": "hi"}], extra_headers={"Idempotency-Key": key}
            )
            for _ in range(2)
        ]

    assert answers[0] == answers[1]
    assert len(upstream.requests) == 1
