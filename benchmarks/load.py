"""The load generator: bare asyncio protocols and a parser in C, so that it leaves the machine to what it measures."""

import asyncio
import json
import re
import resource
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import httptools

DRAIN = 4.0  # seconds that requests in flight get to end after a measurement
REFUSED_PAUSE = 1.0  # seconds until a client that was refused asks again
_TOKEN_END = b'xx"'  # how the text of each of the upstream's events ends
_NUMBERS = re.compile(rb"(\d+)x{8,}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and with what headers."""

    port: int
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    model_prefix: str = ""

    def request(self, model: str, *, stream: bool = False) -> bytes:
        """The bytes of one chat completion."""
        content = {"model": self.model_prefix + model, "messages": [{"role": "user", "content": "Hello, how are you?"}]}
        body = json.dumps(content | {"stream": True} if stream else content).encode()
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Answer:
    """One request's end. Times are in seconds of `perf_counter`: uvloop's own clock ticks in milliseconds."""

    started: float
    status: int = 0
    """0: the connection was lost."""
    first: float = 0.0
    """When the first token came; 0: none did."""
    ended: float = 0.0
    body: bytes = b""

    def is_whole_stream(self, events: int) -> bool:
        """Every event once and in order."""
        return self.status == 200 and [int(each) for each in _NUMBERS.findall(self.body)] == list(range(events))


@dataclass(slots=True)
class Sample:
    """What came in during a measurement."""

    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    events: int = 0
    cpu: float = 0.0
    """Seconds of CPU that the load generator took."""

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.good) / self.seconds


class Client(asyncio.Protocol):
    """One connection with at most one request in flight; it connects again when the server has hung up."""

    def __init__(self, target: Target, done: Callable[["Client", Answer], None]) -> None:
        self._target = target
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._answer: Answer | None = None
        self._parts: list[bytes] = []
        self._tail = b""
        self.events = 0

    def ask(self, request: bytes, started: float | None = None) -> None:
        """Send a request; `started` is when it was due."""
        self._answer = Answer(perf_counter() if started is None else started)
        if self._transport is None or self._transport.is_closing():
            self._connecting = self._loop.create_task(self._connect(request))
        else:
            self._transport.write(request)

    async def close(self) -> None:
        """Hang up, whatever is in flight."""
        self._answer = None
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self, request: bytes) -> None:
        try:
            await self._loop.create_connection(lambda: self, "127.0.0.1", self._target.port)
        except OSError:
            self._finish(0)
            return
        assert self._transport is not None
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish(0)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        # Counted as they come, not at the stream's end: long streams of a slow system end seldom.
        tokens = (self._tail + body).count(_TOKEN_END)
        self._tail = body[-2:]
        if tokens:
            self.events += tokens
            if self._answer is not None and not self._answer.first:
                self._answer.first = perf_counter()

    def on_message_complete(self) -> None:
        self._finish(self._parser.get_status_code())

    def _finish(self, status: int) -> None:
        answer, self._answer = self._answer, None
        body, self._parts, self._tail = b"".join(self._parts), [], b""
        if answer is not None:
            answer.status, answer.ended, answer.body = status, perf_counter(), body
            self._done(self, answer)


class ClosedLoop:
    """Clients that ask again as soon as they are answered, or after a second when they were refused."""

    def __init__(self, target: Target, request: bytes, clients: int) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._clients = [Client(target, self._answered) for _ in range(clients)]
        self._answers: list[Answer] = []
        self.answered = 0
        self._asking = True
        self._waiting: set[Client] = set()

    async def run(self, seconds: float, *, warmup: float, spread: float = 0.0) -> Sample:
        """Start the clients over `spread` seconds, wait `warmup` more, measure for `seconds`, let the rest end."""
        try:
            for number, client in enumerate(self._clients):
                if spread and number:
                    await asyncio.sleep(spread / len(self._clients))
                self._ask(client)
            await asyncio.sleep(warmup)
            sample = await self._measure(seconds)
            self._asking = False
            await self._drain()
            return sample
        finally:
            self._asking = False
            await asyncio.gather(*(client.close() for client in self._clients))

    async def _measure(self, seconds: float) -> Sample:
        self._answers = []
        events, cpu, started = self.events, cpu_seconds(), perf_counter()
        await asyncio.sleep(seconds)
        return Sample(perf_counter() - started, self._answers[:], self.events - events, cpu_seconds() - cpu)

    async def _drain(self) -> None:
        give_up = perf_counter() + DRAIN
        while self._waiting and perf_counter() < give_up:
            await asyncio.sleep(0.02)

    @property
    def events(self) -> int:
        return sum(client.events for client in self._clients)

    def _ask(self, client: Client) -> None:
        if self._asking:
            self._waiting.add(client)
            client.ask(self._request)

    def _answered(self, client: Client, answer: Answer) -> None:
        self._answers.append(answer)
        self.answered += 1
        self._waiting.discard(client)
        if answer.status == 200:
            self._ask(client)
        else:
            self._loop.call_later(REFUSED_PAUSE, self._ask, client)


class OpenLoop:
    """Requests at a fixed rate, whether or not the last one is answered; their time runs from when they were due."""

    def __init__(self, target: Target, request: bytes) -> None:
        self._target = target
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Client] = deque()
        self._clients: list[Client] = []
        self._answers: list[Answer] = []

    async def run(self, rate: float, seconds: float, *, warmup: float) -> Sample:
        try:
            start = perf_counter()
            total = round(rate * (warmup + seconds))
            for number in range(total):
                due = start + number / rate
                await asyncio.sleep(due - perf_counter())
                client = self._idle.popleft() if self._idle else self._new()
                client.ask(self._request, due)
            give_up = perf_counter() + DRAIN
            while len(self._answers) < total and perf_counter() < give_up:
                await asyncio.sleep(0.02)
            return Sample(seconds, [each for each in self._answers if each.started >= start + warmup])
        finally:
            await asyncio.gather(*(client.close() for client in self._clients))

    def _new(self) -> Client:
        client = Client(self._target, self._answered)
        self._clients.append(client)
        return client

    def _answered(self, client: Client, answer: Answer) -> None:
        self._answers.append(answer)
        self._idle.append(client)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; infinity when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def cpu_seconds() -> float:
    """This process's user and system time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
