"""An upstream that costs next to nothing: OpenAI's chat completions on a bare asyncio protocol, to measure with.

    python -m benchmarks.upstream --port 9100
    python -m benchmarks.upstream --measure

The words of the model's name choose what it does, so that one process serves every scenario:

    bench                  one fixed answer, or a stream of 64 events at once
    bench-events-256       streams of 256 events at once
    bench-paced            64 events, 20 ms apart, each with its number in it
    bench-latency-250      250 ms before the answer; may follow any of the others
    bench-limit            600 requests a minute for each API key, in any 60 s (a sliding window)
    bench-stamp            notes how long ago `"user": "stamp-<nanoseconds of the monotonic clock>"` was written
    bench-bucket           600 requests a minute for each API key, from a token bucket of 10

GET /stats counts what was asked, allowed and refused, and lists the ages of stamps; POST /reset starts all again.
"""

import argparse
import asyncio
import json
import re
import resource
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import uvloop

PACED_EVENTS = 64
GAP = 0.020  # seconds between two paced events
RPM = 600
BURST = 10
_WINDOW = 60.0  # seconds
_PAYLOAD = 16  # bytes of text in an event: the number, padded

_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"/]*/)*([^"]*)"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb'"user"\s*:\s*"stamp-(\d+)"')
_KEY = re.compile(rb"\r\nauthorization:\s*bearer\s+([^\r]+)", re.IGNORECASE)


def _response(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, headers, len(body)) + body


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    payload = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    event = b"data: " + json.dumps({**payload, "choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


_ANSWER = _response(
    b"200 OK",
    json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog."},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22},
        }
    ).encode(),
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
) + _chunk({"role": "assistant", "content": ""})
_STREAM_END = _chunk({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@lru_cache(maxsize=4096)
def _event(number: int) -> bytes:
    """No two neighbours are equal, so that a lost, doubled or swapped event shows."""
    return _chunk({"content": str(number).ljust(_PAYLOAD, "x")})


@lru_cache(maxsize=16)
def _whole_stream(events: int) -> bytes:
    return _STREAM_HEAD + b"".join(map(_event, range(events))) + _STREAM_END


@dataclass(frozen=True, slots=True)
class Mode:
    """What a model's name asks for."""

    events: int = PACED_EVENTS
    paced: bool = False
    latency: float = 0.0
    """Seconds."""
    limit: str = ""
    """`limit`, `bucket` or none."""
    stamped: bool = False


@lru_cache(maxsize=256)
def _mode(model: bytes) -> Mode:
    words = model.decode(errors="replace").split("-")

    def number(word: str, default: int) -> int:
        return int(words[words.index(word) + 1]) if word in words[:-1] else default

    return Mode(
        events=number("events", PACED_EVENTS),
        paced="paced" in words,
        latency=number("latency", 0) / 1000,
        limit=next((word for word in ("limit", "bucket") if word in words), ""),
        stamped="stamp" in words,
    )


class Window:
    """At most `RPM` requests in any 60 seconds."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()

    def wait(self, now: float) -> float:
        """0 and the request is counted, or the seconds until one would be allowed."""
        while self._recent and self._recent[0] <= now - _WINDOW:
            self._recent.popleft()
        if len(self._recent) >= RPM:
            return self._recent[0] + _WINDOW - now
        self._recent.append(now)
        return 0.0


class Bucket:
    """`BURST` requests at once, refilled at `RPM` a minute."""

    def __init__(self) -> None:
        self._balance = float(BURST)
        self._at = 0.0

    def wait(self, now: float) -> float:
        rate = RPM / _WINDOW
        self._balance = min(float(BURST), self._balance + (now - self._at) * rate)
        self._at = now
        if self._balance < 1.0:
            return (1.0 - self._balance) / rate
        self._balance -= 1.0
        return 0.0


@dataclass(slots=True)
class Account:
    """One key under one limit."""

    limit: Window | Bucket
    allowed: int = 0
    refused: int = 0


@dataclass(slots=True)
class Stats:
    requests: int = 0
    streams: int = 0
    streams_ended: int = 0
    """Streams that were written to the end."""
    streams_left: int = 0
    """Streams whose client hung up before."""
    connections: int = 0
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    """Milliseconds between a stamp and its arrival here."""
    accounts: dict[tuple[str, bytes], Account] = field(default_factory=dict)

    def wait(self, kind: str, key: bytes) -> float:
        account = self.accounts.get((kind, key))
        if account is None:
            account = self.accounts[kind, key] = Account(Window() if kind == "limit" else Bucket())
        seconds = account.limit.wait(time.monotonic())
        if seconds:
            account.refused += 1
        else:
            account.allowed += 1
        return seconds

    def to_json(self) -> bytes:
        used = resource.getrusage(resource.RUSAGE_SELF)
        accounts = {
            f"{kind}:{number}": {"allowed": account.allowed, "refused": account.refused}
            for number, ((kind, _), account) in enumerate(self.accounts.items())
        }
        return json.dumps(
            {
                "requests": self.requests,
                "streams": self.streams,
                "streams_ended": self.streams_ended,
                "streams_left": self.streams_left,
                "connections": self.connections,
                "ages": list(self.ages),
                "allowed": sum(account.allowed for account in self.accounts.values()),
                "refused": sum(account.refused for account in self.accounts.values()),
                "keys": accounts,
                "cpu_seconds": used.ru_utime + used.ru_stime,
            }
        ).encode()


class Upstream(asyncio.Protocol):
    """One connection. Requests are answered in turn; whoever pipelines gets the answers in order."""

    def __init__(self, stats: list[Stats]) -> None:
        self._stats = stats
        """A list of one, so that a reset reaches every connection."""
        self._buffer = b""
        self._streaming = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stats(self) -> Stats:
        return self._stats[0]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self._loop = asyncio.get_running_loop()
        self.stats.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.stats.streams_left += self._streaming

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        """Answer the requests that are complete, until one takes time."""
        while self._timer is None:
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            head, body = self._buffer[:end], self._buffer[end:whole]
            self._buffer = self._buffer[whole:]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST /v1/chat/completions"):
            self._transport.write(self._administer(head))
            return
        stats = self.stats
        stats.requests += 1
        model = _MODEL.search(body)
        mode = _mode(model[1] if model else b"bench")
        if mode.limit:
            key = _KEY.search(head)
            wait = stats.wait(mode.limit, key[1] if key else b"")
            if wait:
                self._transport.write(_refusal(wait))
                return
        if mode.stamped and (stamp := _STAMP.search(body)):
            stats.ages.append((time.monotonic_ns() - int(stamp[1])) / 1e6)
        streams = _STREAM.search(body) is not None
        stats.streams += streams
        if mode.latency:
            self._timer = self._loop.call_later(mode.latency, self._answer_late, mode, streams)
        else:
            self._answer(mode, streams)

    def _answer_late(self, mode: Mode, streams: bool) -> None:
        self._timer = None
        self._answer(mode, streams)
        self._next()

    def _answer(self, mode: Mode, streams: bool) -> None:
        if not streams:
            self._transport.write(_ANSWER)
        elif mode.paced:
            self._streaming = True
            self._transport.write(_STREAM_HEAD)
            self._pace(0, mode.events, self._loop.time())
        else:
            self._transport.write(_whole_stream(mode.events))
            self.stats.streams_ended += 1

    def _pace(self, number: int, events: int, start: float) -> None:
        self._transport.write(_event(number))
        if number + 1 < events:
            # By the clock, not by the last event: a late one does not delay the others.
            at = start + (number + 1) * GAP
            self._timer = self._loop.call_at(at, self._pace, number + 1, events, start)
            return
        self._timer = None
        self._streaming = False
        self._transport.write(_STREAM_END)
        self.stats.streams_ended += 1
        self._next()

    def _administer(self, head: bytes) -> bytes:
        if head.startswith(b"GET /stats "):
            return _response(b"200 OK", self.stats.to_json())
        if head.startswith(b"POST /reset "):
            self._stats[0] = Stats()
            return _response(b"200 OK", b"{}")
        return _response(b"404 Not Found", b'{"error":{"message":"no such path","type":"invalid_request_error"}}')


def _refusal(wait: float) -> bytes:
    error = {"message": "Rate limit reached for requests.", "type": "requests", "code": "rate_limit_exceeded"}
    headers = b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % (int(wait) + 1, int(wait * 1000) + 1)
    return _response(b"429 Too Many Requests", json.dumps({"error": {**error, "param": None}}).encode(), headers)


async def start(port: int = 0, host: str = "127.0.0.1") -> asyncio.Server:
    """Serve on the running loop; `server.sockets[0].getsockname()` says where."""
    stats = [Stats()]
    return await asyncio.get_running_loop().create_server(lambda: Upstream(stats), host, port, backlog=4096)


async def _serve(port: int) -> None:
    server = await start(port)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.upstream", description="An upstream that costs next to nothing.")
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free one")
    parser.add_argument("--measure", action="store_true", help="report its own cost of a request, and end")
    options = parser.parse_args()
    if options.measure:
        from benchmarks import upstream_cost

        uvloop.run(upstream_cost.report())
        return
    uvloop.run(_serve(options.port))


if __name__ == "__main__":
    main()
