"""A connection to Redis that comes back, and hands over each answer as its bytes arrive.

redis-py opens it: URL, TLS, AUTH and SELECT. From there on its transport is ours: redis-py would have a task read each
answer and another turn of the event loop bring it to its caller, which costs more than the answer itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, DefaultParser, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.errors import Unavailable

TIMEOUT = 2.0  # seconds for a command's answer, and for a connection with its handshake
_BACKOFF = (0.02, 1.0)  # seconds before the first and, doubling, before every later attempt to reconnect

Argument = str | bytes | int
Command = tuple[Argument, ...]

pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub says 1-tuple

_INCOMPLETE = object()  # None is an answer

_log = logging.getLogger(__name__)


class OutOfStep(Exception):
    """The server sent what nobody asked for: no later answer can be paired with its command either."""


def backoff() -> Iterator[float]:
    """Seconds to wait before each attempt to reconnect, without end."""
    delay, longest = _BACKOFF
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, longest)


class Wire(asyncio.Protocol):
    """One open connection. Once it has ended, it takes no bytes and hands over no answers."""

    def __init__(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None], on_writable: Callable[[], None]
    ) -> None:
        """`on_reply` gets an error of the server as an exception, and hangs up by raising `OutOfStep`; `on_writable` is
        called when a congestion is over."""
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # with the reason
        self._lost = asyncio.Event()
        self._connection = connection
        self._on_reply = on_reply
        self._on_writable = on_writable
        self._congested = False
        self._reader = hiredis.Reader(replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE)
        writer = connection._writer  # redis-py has no public way to its transport
        assert writer is not None
        self._transport = writer.transport
        self._transport.set_protocol(self)

    @property
    def writable(self) -> bool:
        """Whether the peer keeps up: what is written all the same is kept until it does."""
        return not self._congested and not self.ended.done()

    def write(self, packed: bytes) -> None:
        if not self.ended.done():
            self._transport.write(packed)

    def hang_up(self, reason: str) -> None:
        self._end(reason)
        self._transport.abort()

    async def close(self) -> None:
        """What was written still goes out, within `TIMEOUT`."""
        self._end("closed")
        await self._connection.disconnect(nowait=True)  # its own wait is for the protocol that we replaced
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._lost.wait()
        except TimeoutError:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        gets, on_reply = self._reader.gets, self._on_reply
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _INCOMPLETE:
                if isinstance(reply, RedisConnectionError):  # redis-py's class for LOADING, NOAUTH and their like
                    raise reply
                on_reply(reply)
        except (hiredis.ProtocolError, OutOfStep, RedisConnectionError) as exc:
            self.hang_up(str(exc))

    def eof_received(self) -> None:
        self.hang_up("closed by the server")  # the transport's own way is to send what it has, to nobody

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc or "closed"))
        self._lost.set()

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)


class Link:
    """Wires, one after the other: `on_up` gets each new one, `on_down` is called when it has ended."""

    def __init__(
        self,
        url: str,
        *,
        on_up: Callable[[Wire], None],
        on_reply: Callable[[Any], None],
        on_down: Callable[[], None],
        on_writable: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._on_up = on_up
        self._on_reply = on_reply
        self._on_down = on_down
        self._on_writable = on_writable
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, or raise `Unavailable` within `TIMEOUT`."""
        self._wire = await self._connect()
        self._task = asyncio.create_task(self._run(self._wire), name="redis link")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._wire is not None:  # the task may have been cancelled before its first step
            await self._wire.close()

    async def _run(self, wire: Wire) -> None:
        while True:
            try:
                self._on_up(wire)
                reason = await wire.ended
                _log.warning("lost a connection to Redis, reconnecting: %s", reason)
            finally:
                self._on_down()
                await wire.close()
            wire = self._wire = await self._reconnect()

    async def _reconnect(self) -> Wire:
        delays = backoff()
        while True:
            await asyncio.sleep(next(delays))
            with suppress(Unavailable):
                return await self._connect()

    async def _connect(self) -> Wire:
        options: dict[str, Any] = {**parse_url(self._url)}
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        # RESP2, because its published messages are plain replies. No socket timeout: the answers are watched by others.
        connection = kind(**options | {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": TIMEOUT})
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
                # Does not suspend, so that no byte can come between this look and the wire.
                if await connection.can_read():
                    raise RedisConnectionError("it ended, or sent what nobody asked for, right after the handshake")
        except (RedisError, OSError) as exc:  # a TimeoutError is an OSError
            await connection.disconnect(nowait=True)
            raise Unavailable(f"cannot connect to Redis: {str(exc) or type(exc).__name__}") from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return Wire(connection, self._on_reply, self._on_writable)
