"""What cannot be understood is refused with LiteLLM's status and body, without touching a queue."""

import json
import time
from typing import Any

import aiohttp
import pytest

from tests.e2e.deployment import MASTER_KEY, Headrace
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "hi"}]
AUTHORIZED = {"Authorization": f"Bearer {MASTER_KEY}"}


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt", "messages": HI} | fields).encode()


BAD: dict[str, tuple[bytes, int, str, str | None]] = {
    "invalid JSON": (b"{", 400, "Invalid JSON", "request_body"),
    "not an object": (b"[]", 400, "must be a JSON object", "request_body"),
    "invalid UTF-8": (b'{"model":"gpt","messages":[{"role":"user","content":"\xff"}]}', 400, "UTF-8", "request_body"),
    "a nesting bomb": (b'{"model":"gpt","messages":' + b"[" * 100_000, 400, "depth", "request_body"),
    "a closed nesting bomb": (
        b'{"model":"gpt","messages":[{"role":"user","content":' + b"[" * 500 + b"]" * 500 + b"}]}",
        400, "nested too deeply", "request_body",
    ),
    "no model": (json.dumps({"messages": HI}).encode(), 400, "'model'", "model"),
    "no messages": (b'{"model":"gpt"}', 400, "'messages'", "messages"),
    "empty messages": (chat(messages=[]), 400, "empty array", "messages"),
    "messages of a wrong type": (chat(messages="hi"), 400, "'messages'", "messages"),
    "an unknown role": (chat(messages=[{"role": "god", "content": "x"}]), 400, "role", "messages[0].role"),
    "no role": (chat(messages=[{"content": "x"}]), 400, "role", "messages[0].role"),
    "negative max_tokens": (chat(max_tokens=-1), 400, "max_tokens", "max_tokens"),
    "max_tokens of a wrong type": (chat(max_tokens="many"), 400, "max_tokens", "max_tokens"),
    "a hot temperature": (chat(temperature=3), 400, "temperature", "temperature"),
    "an unknown model": (chat(model="nothing"), 400, "Invalid model name passed in model=nothing", None),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_body_is_refused_by_name(headrace: Headrace, upstream: FakeUpstream, case: str) -> None:
    body, status, message, param = BAD[case]
    upstream.reset()

    found, error, _ = await post(headrace, body, AUTHORIZED)
    quickest = min([(await post(headrace, body, AUTHORIZED))[2] for _ in range(3)])

    assert found == status
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == str(status)
    assert param is None or error["param"] == param
    assert upstream.requests == []
    assert quickest < 0.25, "refused in milliseconds; the bound, and the three tries, only allow for a busy machine"


@pytest.mark.parametrize(
    ("headers", "kind", "message"),
    [
        ({}, "auth_error", "Authentication Error, No api key passed in."),
        ({"Authorization": "Bearer sk-wrong-key-000000"}, "token_not_found_in_db", "Invalid API key provided."),
        ({"Authorization": "Bearer nonsense-key-0000"}, "auth_error", "nons****0000, expected to start with 'sk-'"),
        ({"Authorization": MASTER_KEY}, "auth_error", "No api key passed in."),
    ],
)  # fmt: skip
async def test_a_wrong_key_is_refused(headrace: Headrace, headers: dict[str, str], kind: str, message: str) -> None:
    status, error, _ = await post(headrace, chat(), headers)

    assert (status, error["type"], error["code"]) == (401, kind, "401")
    assert message in error["message"]


@pytest.mark.parametrize("header", ["x-litellm-api-key", "API-Key", "x-api-key", "x-goog-api-key"])
async def test_a_key_may_stand_where_other_vendors_put_it(headrace: Headrace, header: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{headrace.url}/v1/chat/completions", data=chat(), headers={header: MASTER_KEY}) as answer,
    ):
        assert answer.status == 200


async def test_a_body_over_the_limit_is_refused_before_it_is_read(headrace: Headrace) -> None:
    headers = AUTHORIZED | {"Content-Length": str(1 << 40)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{headrace.url}/v1/chat/completions", data=b"{", headers=headers) as answer,
    ):
        body = await answer.json()

    assert answer.status == 413
    assert "too large" in body["error"]["message"]


async def test_an_unknown_route_is_fastapis_404(headrace: Headrace) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{headrace.url}/v1/nothing", headers=AUTHORIZED) as answer,
    ):
        assert (answer.status, await answer.json()) == (404, {"detail": "Not Found"})


async def post(headrace: Headrace, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any], float]:
    began = time.monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{headrace.url}/v1/chat/completions", data=body, headers=headers) as answer,
    ):
        return answer.status, (await answer.json())["error"], time.monotonic() - began
