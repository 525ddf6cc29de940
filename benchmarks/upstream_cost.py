"""What the benchmark's upstream costs by itself, so that no result is limited by it without saying so."""

import asyncio
import json
import sys
import time
from typing import cast

_SECONDS = 3.0
_CONNECTIONS = 32
_STREAMS = 256


async def report() -> None:
    """Requests a second and CPU a request of an upstream in a process of its own, and the pace of its streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.upstream", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int((await process.stdout.readline()).rpartition(b":")[2])
        await _plain(port)
        await _paced(port)
    finally:
        process.terminate()
        await process.wait()


async def _plain(port: int) -> None:
    before = await _stats(port)
    started = time.perf_counter()
    clients = [_Client(_request("bench", stream=False)) for _ in range(_CONNECTIONS)]
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(_SECONDS)
    for client in clients:
        client.close()
    seconds = time.perf_counter() - started
    after = await _stats(port)
    requests = after["requests"] - before["requests"]
    cpu = after["cpu_seconds"] - before["cpu_seconds"]
    print(f"plain: {requests / seconds:,.0f} requests/s, {cpu / requests * 1e6:.1f} us CPU a request")


async def _paced(port: int) -> None:
    before = await _stats(port)
    worst = max(await asyncio.gather(*(_worst_gap(port) for _ in range(_STREAMS))))
    after = await _stats(port)
    cpu = after["cpu_seconds"] - before["cpu_seconds"]
    ended = after["streams_ended"] - before["streams_ended"]
    print(
        f"paced: {ended} of {_STREAMS} streams complete, worst gap {worst * 1000:.1f} ms, "
        f"{cpu / (ended * 64) * 1e6:.1f} us CPU an event"
    )


class _Client(asyncio.Protocol):
    """Sends a request as soon as the last one is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(self._request)  # an answer is small enough to come in one piece

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _worst_gap(port: int) -> float:
    """Seconds between two events of one stream, at most; the numbers must come in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request("bench-paced", stream=True))
    expected, last, worst = 0, 0.0, 0.0
    while b"[DONE]" not in (line := await reader.readline()):
        if b'"content": "' not in line or b'"role"' in line:
            continue
        number = int(line.partition(b'"content": "')[2].partition(b'"')[0].rstrip(b"x"))
        assert number == expected, f"event {number} where {expected} was due"
        now = time.perf_counter()
        worst = max(worst, now - last) if expected else 0.0
        expected, last = expected + 1, now
    writer.close()
    return worst


async def _stats(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stats HTTP/1.1\r\nHost: upstream\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
    writer.close()
    stats: dict[str, float] = json.loads(body)
    return stats


def _request(model: str, *, stream: bool) -> bytes:
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: upstream\r\nAuthorization: Bearer sk-bench\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
