"""The benchmark's upstream judges brokers by its counts, so the counts are checked here."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from benchmarks import upstream


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    server = await upstream.start()
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    server.close()


async def ask(client: aiohttp.ClientSession, model: str, *, stream: bool = False, key: str = "k") -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key}"}
    async with client.post("/v1/chat/completions", json={"model": model, "stream": stream}, headers=headers) as answer:
        return answer.status, await answer.read()


async def stats(client: aiohttp.ClientSession) -> dict[str, Any]:
    async with client.get("/stats") as answer:
        counts: dict[str, Any] = await answer.json()
        return counts


@pytest.mark.parametrize("model", ["bench", "bench-paced", "bench-latency-20-paced"])
async def test_a_stream_has_every_event_once_and_in_order(client: aiohttp.ClientSession, model: str) -> None:
    _, stream = await ask(client, model, stream=True)

    numbers = [int(part.split(b'"')[0].rstrip(b"x")) for part in stream.split(b'"content": "')[2:]]
    assert numbers == list(range(64))
    assert stream.endswith(b"data: [DONE]\n\n")
    assert (await stats(client))["streams_ended"] == 1


async def test_the_window_admits_six_hundred_of_each_key_and_refuses_the_rest(client: aiohttp.ClientSession) -> None:
    statuses = [(await ask(client, "bench-limit"))[0] for _ in range(605)]
    other, _ = await ask(client, "bench-limit", key="other")

    counts = await stats(client)
    assert statuses == [200] * 600 + [429] * 5
    assert other == 200
    assert (counts["allowed"], counts["refused"]) == (601, 5)


async def test_a_reset_starts_again(client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "RPM", 1)  # nothing worth mentioning comes back while the bucket is emptied
    for _ in range(11):
        status, _ = await ask(client, "bench-bucket")
    assert status == 429

    await client.post("/reset")
    status, _ = await ask(client, "bench-bucket")

    assert status == 200
    assert (await stats(client))["requests"] == 1
