"""HTTP/1.1 by hand, because a fake provider must be able to break it: wrong lengths, cut chunks, resets."""

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_MAX_HEAD = 1 << 20
_IDLE_LIMIT = 75.0  # seconds that an unused connection is kept


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    """Path and query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Counts the connections of one server from 1: two requests with the same number came over one connection."""
    ordinal: int
    """Counts the requests of one connection from 1."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Exchange:
    """One request and the means to answer it, properly or not."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reusable = True
        """Whether the connection may serve another request after this one."""
        self.status = 0
        """The status that was sent; 0 before that."""
        self._writer = writer

    async def json(self, status: int, payload: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(payload, ensure_ascii=False).encode()
        await self.answer(status, body, {"Content-Type": "application/json", **(headers or {})})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        await self.head(status, {**headers, "Content-Length": str(len(body))}, body)

    async def head(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """The status line and exactly these headers (beside Date and Server), followed by `body` in the same write."""
        self.status = status
        standard = {"Date": formatdate(usegmt=True), "Server": "fake", "Connection": "keep-alive"}
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in {**standard, **headers}.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def stream_head(self, headers: Mapping[str, str] | None = None) -> None:
        await self.head(
            200,
            {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "Transfer-Encoding": "chunked",
                "X-Accel-Buffering": "no",
                **(headers or {}),
            },
        )

    async def chunk(self, content: bytes) -> None:
        """One chunk of a chunked body; the real providers send one server-sent event in each."""
        await self.raw(b"%x\r\n%b\r\n" % (len(content), content))

    async def end_chunks(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    def close(self) -> None:
        """FIN: the answer ends here, whatever was promised."""
        self.reusable = False
        self._writer.close()

    def reset(self) -> None:
        """RST: the peer loses what it has not read yet."""
        self.reusable = False
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Server:
    """Serves `handle` on loopback. A handler whose client hangs up is cancelled."""

    def __init__(self, handle: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
        self.connections = 0
        """Accepted so far."""
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> int:
        """Listen; the port that was asked for, or a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Protocol(self._serve), "127.0.0.1", port, backlog=1024)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, protocol: "_Protocol", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            async for request in _requests(reader, self.connections):
                exchange = Exchange(request, writer)
                await _until_hung_up(self._handle(exchange), protocol.gone)
                if not exchange.reusable:
                    return
        except ConnectionError:
            pass  # the client reset the connection; the handler was cancelled and has taken note
        finally:
            self._open.discard(task)
            writer.close()


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells a hang-up from silence while nobody is reading."""

    def __init__(
        self, serve: Callable[["_Protocol", asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
    ) -> None:
        self.gone = asyncio.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # The outermost frame of a task that only `Server.stop` cancels; Python 3.11 logs a cancelled one as a crash
            with contextlib.suppress(asyncio.CancelledError):
                await serve(self, reader, writer)

        super().__init__(asyncio.StreamReader(limit=_MAX_HEAD), connected)

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


async def _requests(reader: asyncio.StreamReader, connection: int) -> AsyncIterator[Request]:
    for ordinal in itertools.count(1):
        try:
            async with asyncio.timeout(_IDLE_LIMIT):
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, TimeoutError):
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await _body(reader, headers)
        yield Request(method, target, headers, body, connection, ordinal)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body


async def _until_hung_up(handling: Coroutine[Any, Any, None], gone: asyncio.Event) -> None:
    """Await the handler, or cancel it when the client leaves first."""
    handler = asyncio.create_task(handling)
    watcher = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait((handler, watcher), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        handler.cancel()
        await asyncio.wait((handler, watcher))
    if not handler.cancelled():
        handler.result()
