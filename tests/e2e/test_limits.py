"""Waiting replaces failing: what is over a limit waits its turn, and the provider never has to refuse it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import model, write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.gauges import all_accepted
from tests.e2e.ledger import get, ledger_rows
from tests.fakes.quota import Quota
from tests.fakes.scene import Timings
from tests.fakes.upstream import Attempt, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}
QUESTION = [{"role": "user", "content": "hi"}]
BUSY = 10.0  # seconds that a busy machine may add
_PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str
    seconds: float

    @property
    def job_id(self) -> str:
        return self.headers["x-headrace-job-id"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(timings=Timings(retry_after=2)) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    """Two workers, where there are workers: a limit is the key's, not the process's."""
    folder = tmp_path_factory.mktemp("headrace")
    base = f"{upstream.url}/v1"
    config = write_config(
        folder,
        upstream,
        model("brisk", "openai/brisk", base, rpm=300, api_key="sk-brisk"),
        model("slow", "openai/slow", base, rpm=30, api_key="sk-slow"),
        *(model(name, f"openai/{name}", base, rpm=6, api_key=f"sk-{name}") for name in ("slowest", "slowest-stream")),
        model("narrow", "openai/narrow", base, max_parallel_requests=1, api_key="sk-narrow"),
        model("taught", "openai/taught", base, api_key="sk-taught"),
    )
    settings = {"HEADRACE_KEEPALIVE_SECONDS": "0.3"}
    async with deployed(config, servers, folder, workers=2, extra=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_before(upstream: FakeUpstream) -> None:
    upstream.reset()
    upstream.quotas.clear()
    upstream.dead_keys.clear()
    upstream.latency = upstream.pace = 0.0
    upstream.gate.set()


async def test_a_burst_over_the_limit_waits_and_the_provider_refuses_none(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    """300 a minute: five at once and then one every 0.2 s. The provider counts what comes in any 2 s, and forgives a
    worker that has no turn for as long."""
    quota = upstream.quotas["sk-brisk"] = Quota(25, period=2.0, kind="sliding")
    began = time.time()

    answers = await asyncio.gather(*(chat(headrace, "brisk") for _ in range(50)))

    assert [answer.status for answer in answers] == [200] * 50
    assert (quota.allowed, quota.refused) == (50, 0)
    assert 9.0 <= max(attempt.at for attempt in upstream.requests) - began < 9.1 + BUSY


async def test_a_stream_hears_that_it_is_waiting(headrace: Headrace, upstream: FakeUpstream) -> None:
    """30 a minute: 3 at once, and the fourth 2 s later."""
    began = time.time()

    answers = await asyncio.gather(*(chat(headrace, "slow", stream=True) for _ in range(4)))

    attempt = max(upstream.requests, key=lambda each: each.at)
    [last] = [answer for answer in answers if answer.job_id == attempt.job_id]
    assert [answer.status for answer in answers] == [200] * 4
    assert attempt.at - began > 1.5
    first, second, _ = last.text.split("\n", 2)
    assert first == f"id: {last.headers['x-headrace-job-id']}:0"
    assert second == ": keep-alive"
    assert last.text.endswith("data: [DONE]\n\n")


async def test_the_official_client_reads_a_stream_that_pauses(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    """It used to fail at a keep-alive that came between two events."""
    upstream.text, whole = "three slow words", upstream.text
    upstream.pace = 0.8

    stream = await client.chat.completions.create(model="gpt", messages=QUESTION, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    upstream.text = whole

    assert text == "three slow words"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_beyond_the_deadline_is_refused_at_once_with_the_true_wait(
    headrace: Headrace, upstream: FakeUpstream, stream: bool
) -> None:
    """6 a minute: one at once, and the next 10 s later."""
    name = "slowest-stream" if stream else "slowest"
    await chat(headrace, name)

    refused = await chat(headrace, name, stream=stream, headers={"x-litellm-timeout": "4"})

    assert refused.status == 429
    assert refused.seconds < 4.0
    assert 5 <= int(refused.headers["retry-after"]) <= 11
    assert name in refused.text


async def test_one_at_a_time_is_never_two(headrace: Headrace, upstream: FakeUpstream) -> None:
    upstream.latency = 0.1

    answers = await asyncio.gather(*(chat(headrace, "narrow") for _ in range(8)))

    assert [answer.status for answer in answers] == [200] * 8
    assert most_at_once(upstream.requests) == 1


async def test_a_refusal_of_the_provider_rests_the_key_for_everybody(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    first = asyncio.create_task(chat(headrace, "fault/rest/fb-s01"))
    await asyncio.wait_for(upstream.arrived(1), _PATIENCE)
    refused = upstream.requests[0]
    await ledger_rows(headrace, refused.job_id)  # by now the key rests

    others = await asyncio.gather(*(chat(headrace, "fault/rest/fb-s01") for _ in range(6)))

    assert [answer.status for answer in (await first, *others)] == [200] * 7
    assert refused.ended_at is not None
    assert min(each.at for each in upstream.requests[1:]) - refused.ended_at > 1.9
    assert len(upstream.requests) == 8


async def test_a_dead_key_is_used_once_and_every_request_is_answered(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    upstream.dead_keys = {"sk-dead"}

    answers = [await chat(headrace, "two-keys") for _ in range(12)]

    keys = [attempt.key for attempt in upstream.requests]
    assert [answer.status for answer in answers] == [200] * 12
    assert keys.count("sk-alive") == 12
    assert keys.count("sk-dead") <= 1


async def test_limits_are_learnt_from_the_providers_headers(headrace: Headrace, upstream: FakeUpstream) -> None:
    """The config gives none; the provider says 30 a minute, so 4 go at once and the fifth comes 2 s after the first,
    however long this program itself took between them."""
    quota = upstream.quotas["sk-taught"] = Quota(30)
    await chat(headrace, "taught")

    answers = await asyncio.gather(*(chat(headrace, "taught") for _ in range(4)))

    arrivals = sorted(attempt.at for attempt in upstream.requests)
    assert [answer.status for answer in answers] == [200] * 4
    assert quota.refused == 0
    assert arrivals[-1] - arrivals[0] > 1.5


async def test_a_full_lane_is_refused_with_a_wait_and_loses_nothing(
    servers: Servers, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One job at a time in one worker, and four places in the lane."""
    upstream.gate.clear()
    folder = tmp_path_factory.mktemp("full")
    apart = replace(servers, namespace=f"{servers.namespace}full")
    settings = {"HEADRACE_QUEUE_BOUND": "4", "HEADRACE_CONCURRENCY": "1"}
    async with deployed(write_config(folder, upstream), apart, folder, extra=settings) as tight:
        asking = [asyncio.create_task(chat(tight, "gpt")) for _ in range(16)]
        await all_accepted(tight, asking)
        lane = await busy_lane(tight)
        upstream.gate.set()
        answers = await asyncio.gather(*asking)

    refused = [answer for answer in answers if answer.status != 200]
    served = len(answers) - len(refused)
    assert {answer.status for answer in refused} == {429}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert all('"rate_limit_error"' in answer.text for answer in refused)
    assert served == len(upstream.requests)
    assert 4 <= served <= 8
    assert lane["bound"] == 4
    assert 0 < lane["depth"] <= 4
    assert lane["consumers"] == 1
    assert lane["in_flight"] == 1


async def chat(
    headrace: Headrace, model: str, *, stream: bool = False, headers: dict[str, str] | None = None, **fields: Any
) -> Answer:
    body = {"model": model, "messages": QUESTION, "stream": stream, **fields}
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(headers=AUTHORIZED | (headers or {})) as session,
        session.post(f"{headrace.url}/v1/chat/completions", json=body) as answer,
    ):
        text = await answer.text()
        names = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, names, text, time.monotonic() - began)


async def busy_lane(headrace: Headrace) -> dict[str, Any]:
    """OpenAI's lane as soon as a job waits in it while another is in flight; workers report that once a second."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            lanes = (await get(headrace, "/v1/queues"))["data"]
            for lane in lanes:
                if lane["id"] == "openai.interactive" and lane["depth"] > 0 and lane["in_flight"] > 0:
                    return dict(lane)
            await asyncio.sleep(0.05)


def most_at_once(attempts: Sequence[Attempt]) -> int:
    """The most attempts that the provider was busy with at the same time."""
    changes = sorted([(each.at, 1) for each in attempts] + [(each.ended_at or each.at, -1) for each in attempts])
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    return most
