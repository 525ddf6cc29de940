"""The fake provider is what every other test trusts, so it is tested itself: with a plain client, byte by byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.quota import Quota
from tests.fakes.scene import Timings
from tests.fakes.upstream import ANSWER, FakeUpstream, summary

_FAST = Timings(retry_after=1, first_token=0.1, stall=0.1, silence=0.3, outage=0.2, pace=0.0)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(timings=_FAST) as running:
        yield running


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(upstream.url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def chat(model: str, *, stream: bool = True, prompt: str = "Say something.") -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}]
    return {"model": model, "stream": stream, "messages": turns, "stream_options": {"include_usage": True}}


async def read(client: aiohttp.ClientSession, body: dict[str, object]) -> tuple[int, bytes]:
    async with client.post("/v1/chat/completions", json=body) as response:
        return response.status, await response.read()


def text(stream: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    chunks = [json.loads(event) for event in events]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_a_healthy_stream_carries_the_whole_answer_its_usage_and_the_sentinel(
    client: aiohttp.ClientSession,
) -> None:
    status, stream = await read(client, chat("fb-ok"))

    assert status == 200
    assert text(stream) == ANSWER
    assert b'"completion_tokens": 60' in stream
    assert stream.endswith(b"data: [DONE]\n\n")


async def test_a_model_without_a_fault_answers_plainly(client: aiohttp.ClientSession) -> None:
    status, body = await read(client, chat("gpt-4o-mini", stream=False))

    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    ("model", "statuses"),
    [
        ("fb-s01", [429, 200]),
        ("fb-s02", [429, 429, 429]),
        ("fb-s03", [500, 200]),
        ("fb-s04", [503, 503]),
        ("fb-s12", [400]),
        ("fb-s13", [400]),
        ("fb-s99", [404]),
        ("vendor/fb-s16", [503]),
    ],
)
async def test_statuses_of_the_attempts_follow_the_scenario(
    client: aiohttp.ClientSession, model: str, statuses: list[int]
) -> None:
    answered = [(await read(client, chat(model)))[0] for _ in statuses]

    assert answered == statuses


@pytest.mark.parametrize(
    "model", ["fb-s05", "fb-s06", "fb-s08", "fb-s09", "fb-f03-a", "fb-f03-d", "fb-f20-a", "fb-f20-d"]
)
async def test_a_broken_connection_breaks_the_client(client: aiohttp.ClientSession, model: str) -> None:
    body = chat(model, stream=model.startswith(("fb-s", "fb-f20")))

    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await read(client, body)


async def test_a_cut_stream_has_delivered_forty_words_and_no_end(
    client: aiohttp.ClientSession,
) -> None:
    received = b""

    async with client.post("/v1/chat/completions", json=chat("fb-s08")) as response:
        with contextlib.suppress(aiohttp.ClientError):
            async for part in response.content.iter_any():
                received += part

    assert len(text(received).split()) == 40
    assert b'finish_reason": "stop' not in received
    assert b"[DONE]" not in received


@pytest.mark.parametrize("model", ["fb-s07", "fb-s11", "fb-f05", "fb-f11-a", "fb-f12-d"])
async def test_odd_but_complete_streams_carry_the_whole_answer(client: aiohttp.ClientSession, model: str) -> None:
    status, stream = await read(client, chat(model))

    assert status == 200
    assert text(stream) == ANSWER


async def test_a_client_that_hangs_up_is_noticed(upstream: FakeUpstream, client: aiohttp.ClientSession) -> None:
    upstream.pace = 0.05

    async with client.post("/v1/chat/completions", json=chat("gpt-4o-mini")) as response:
        await response.content.readany()
        response.close()
    await asyncio.wait_for(upstream.ended(upstream.requests[0]), 30)

    assert upstream.requests[0].hung_up_at is not None
    assert upstream.requests[0].ended_at is None


async def test_a_quota_is_kept_for_each_key(upstream: FakeUpstream, client: aiohttp.ClientSession) -> None:
    upstream.quotas = {"sk-a": Quota(2), "sk-b": Quota(1)}
    keys = ["sk-a", "sk-a", "sk-a", "sk-b", "sk-b"]

    answers = []
    for key in keys:
        headers = {"Authorization": f"Bearer {key}"}
        async with client.post("/v1/chat/completions", json=chat("m"), headers=headers) as response:
            answers.append((response.status, int(response.headers.get("Retry-After", "0"))))

    assert [status for status, _ in answers] == [200, 200, 429, 200, 429]
    assert [wait for status, wait in answers if status == 200] == [0, 0, 0]
    assert all(50 < wait <= 60 for status, wait in answers if status == 429)
    assert (upstream.quotas["sk-a"].allowed, upstream.quotas["sk-a"].refused) == (2, 1)


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
def test_each_kind_of_quota_admits_again_after_exactly_the_wait_it_named(kind: str) -> None:
    now = 100.0
    quota = Quota(3, period=6.0, kind=kind, monotonic=lambda: now)  # type: ignore[arg-type]  # a literal by the table
    for _ in range(3):
        assert quota.take().allowed

    wait = quota.take().wait
    now += wait - 0.001
    early = quota.take().allowed
    now += 0.002
    late = quota.take().allowed

    assert (early, late) == (False, True)


async def test_the_tool_is_called_when_the_prompt_says_so(client: aiohttp.ClientSession) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}

    _, body = await read(client, {**chat("m", stream=False, prompt="Please use the tool."), "tools": [tool]})

    choice = json.loads(body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris", "days": 7}


async def test_anthropic_streams_its_own_events_in_order(client: aiohttp.ClientSession) -> None:
    body = {"model": "claude", "stream": True, "max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 1024}}

    async with client.post("/v1/messages", json={**body, "messages": [{"role": "user", "content": "Hi"}]}) as response:
        stream = await response.read()

    names = [line.removeprefix(b"event: ").decode() for line in stream.split(b"\n") if line.startswith(b"event: ")]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 2
    assert names[-2:] == ["message_delta", "message_stop"]


async def test_gemini_answers_plainly_and_as_a_stream(client: aiohttp.ClientSession) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}

    async with client.post("/v1beta/models/gemini-2.5-flash:generateContent", json=body) as response:
        plain = await response.json()
    async with client.post("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", json=body) as response:
        chunks = [json.loads(each[6:]) for each in (await response.read()).split(b"\n\n") if each]

    assert plain["candidates"][0]["content"]["parts"] == [{"text": ANSWER}]
    assert "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks) == ANSWER
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_the_log_has_a_line_for_each_attempt_and_no_key(tmp_path: Path) -> None:
    log = tmp_path / "attempts.jsonl"
    headers = {"Authorization": "Bearer sk-secret", "x-headrace-job-id": "job-1"}

    async with FakeUpstream(log=log) as upstream, aiohttp.ClientSession(upstream.url, headers=headers) as client:
        for prompt in ("one", "two", "two"):
            await read(client, chat("m", prompt=prompt))

    assert "sk-secret" not in log.read_text()
    assert json.loads(log.read_text().splitlines()[0])["job_id"] == "job-1"
    assert summary(log) == {"attempts": 3, "models": {"m": 3}, "prompts": 2, "repeated": {"two": 2}}


async def test_two_answers_over_one_connection_are_told_from_two_connections(
    upstream: FakeUpstream, client: aiohttp.ClientSession
) -> None:
    for _ in range(2):
        await read(client, chat("m", stream=False))
    async with aiohttp.ClientSession(upstream.url) as another:
        await read(another, chat("m", stream=False))

    assert [attempt.connection for attempt in upstream.requests] == [1, 1, 2]


async def test_stopping_in_the_middle_of_an_answer_is_quiet() -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async with FakeUpstream(latency=60) as upstream, aiohttp.ClientSession(upstream.url) as client:
        asking = asyncio.create_task(read(client, chat("m")))
        await upstream.arrived(1)
        await upstream.stop()
        with pytest.raises(aiohttp.ClientError):
            await asking

    assert complaints == []
