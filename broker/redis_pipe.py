"""One Redis connection that all tasks of a process share: the commands of one event-loop turn travel in one write.

redis-py's client spends about 90 us of CPU on a command (pool, lock, retry, timeout). The hot path cannot: here a
command is packed, buffered and answered through a future. redis-py still does the URL, TLS, AUTH and SELECT.
"""

import asyncio
import hashlib
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Self

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError

from shared.errors import Unavailable

TIMEOUT = 2.0  # seconds for a command's answer, and for a connection with its handshake
PATIENCE = 5.0  # seconds for commands that should rather outlast a reconnect than fail
_GRACE = 1.0  # seconds that commands wait for a lost connection to come back; later ones fail at once
_BACKOFF = (0.02, 1.0)  # seconds before the first and, doubling, before every later attempt to reconnect
_MAX_OUTSTANDING = 20_000  # batches written or waiting to be
_MAX_UNSENT = 256 * 1024 * 1024  # bytes waiting for the connection

Argument = str | bytes | int
Command = tuple[Argument, ...]

_log = logging.getLogger(__name__)


class Script:
    """A Lua script, known to the server by its hash."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Link:
    """A connection that comes back: `serve` runs on each one until it breaks, then the next one is opened."""

    def __init__(self, url: str, serve: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        self._url = url
        self._serve = serve
        self._task: asyncio.Task[None] | None = None
        self._watched: asyncio.Timeout | None = None
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        """Connect, or raise `Unavailable` within `TIMEOUT`."""
        self._connection = await self._connect()
        self._task = asyncio.create_task(self._run(self._connection), name="redis link")

    def start(self) -> None:
        """Connect in the background, however long it takes."""
        self._task = asyncio.create_task(self._run(None), name="redis link")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:  # the task may have been cancelled before its first step
            await self._connection.disconnect(nowait=True)

    def hang_up(self) -> None:
        """The server is not answering on this connection: drop it and open another one."""
        if self._watched is not None:
            self._watched.reschedule(0.0)
            self._watched = None

    async def _run(self, connection: AbstractConnection | None) -> None:
        while True:
            if connection is None:
                connection = self._connection = await self._reconnect()
            try:
                async with asyncio.timeout(None) as self._watched:
                    await self._serve(connection)
            except (RedisError, OSError) as exc:  # a TimeoutError is an OSError
                _log.warning("lost a connection to Redis, reconnecting: %s", str(exc) or type(exc).__name__)
            finally:
                self._watched = None
                await connection.disconnect(nowait=True)
            connection = None

    async def _reconnect(self) -> AbstractConnection:
        delay, longest = _BACKOFF
        while True:
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            try:
                return await self._connect()
            except Unavailable:
                delay = min(2 * delay, longest)

    async def _connect(self) -> AbstractConnection:
        options: dict[str, Any] = {**parse_url(self._url)}
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        # RESP2, because its published messages are plain replies, which costs less than redis-py's push handlers.
        # No socket timeout: it would wrap every read and write in a timer, and we watch the answers ourselves.
        connection = kind(**options | {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": TIMEOUT})
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as exc:
            await connection.disconnect(nowait=True)
            raise Unavailable(f"cannot connect to Redis: {str(exc) or type(exc).__name__}") from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


class _Batch:
    """Commands that one caller submitted together."""

    __slots__ = ("deadline", "future", "missing", "packed", "replies")

    def __init__(self, future: "asyncio.Future[list[Any]]", packed: bytes, missing: int, deadline: float) -> None:
        self.future = future
        self.packed = packed
        self.missing = missing
        self.deadline = deadline
        self.replies: list[Any] = []

    def answer(self) -> None:
        if self.future.done():  # its caller was cancelled
            return
        for reply in self.replies:
            if isinstance(reply, ResponseError):
                self.fail(reply if isinstance(reply, NoScriptError) else Unavailable(f"Redis refused: {reply}"))
                return
        self.future.set_result(self.replies)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as seen: awaiting a submitted batch is optional


class Pipe:
    """Sends commands and pairs them with their answers, in order.

    Every failure is `Unavailable`: no answer within the timeout, a connection lost before the answer (the command may
    or may not have run), no connection within a short grace, too much outstanding, or a refusal by the server.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._link = Link(url, self._serve)
        self._connection: AbstractConnection | None = None
        self._down_since = -math.inf
        self._unsent: deque[_Batch] = deque()
        self._unsent_bytes = 0
        self._sent: deque[_Batch] = deque()
        self._flush_due = False
        self._draining: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._down_since = self._loop.time()
        await self._link.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.flush()
        await self._link.close()
        self._down_since = -math.inf
        if self._watchdog is not None:
            self._watchdog.cancel()
        for batch in self._unsent:
            batch.fail(Unavailable("the connection to Redis was closed"))
        self._unsent.clear()

    async def call(self, *command: Argument) -> Any:
        return (await self.submit(command))[0]

    async def evaluate(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # the server restarted, or never saw it
            return await self.call("EVAL", script.source, len(keys), *keys, *arguments)

    def submit(self, *commands: Command, patient: bool = False) -> "asyncio.Future[list[Any]]":
        """Buffer commands until the end of this turn of the event loop; their replies come in the future."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        now = self._loop.time()
        patience = PATIENCE if patient else self._timeout if self._connection is not None else _GRACE
        packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub says 1-tuple
        batch = _Batch(future, packed, len(commands), now + patience)
        if self._connection is None and not patient and now - self._down_since > _GRACE:
            batch.fail(Unavailable("no connection to Redis"))
        elif len(self._sent) + len(self._unsent) >= _MAX_OUTSTANDING or self._unsent_bytes + len(packed) > _MAX_UNSENT:
            batch.fail(Unavailable("Redis does not keep up: too many commands outstanding"))
        else:
            self._unsent.append(batch)
            self._unsent_bytes += len(packed)
            if not self._flush_due:
                self._flush_due = True
                self._loop.call_soon(self.flush)
            if self._watchdog is None:
                self._watchdog = self._loop.call_at(batch.deadline, self._watch)
        return future

    def flush(self) -> None:
        """Write what is buffered, now. The bytes are with the operating system on return, unless the socket is
        congested or the connection is down; then they follow as soon as it can take them."""
        self._flush_due = False
        connection = self._connection
        if connection is None or not connection.is_connected or self._draining is not None or not self._unsent:
            return
        packed = b"".join([batch.packed for batch in self._unsent])
        for batch in self._unsent:
            batch.packed = b""
        self._sent.extend(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        writing = connection.send_packed_command(packed, check_health=False)
        try:
            congestion = writing.send(None)  # runs up to its first suspension, and there is none on a free socket
        except StopIteration:
            return
        except (RedisError, OSError):
            self._link.hang_up()
            return
        self._draining = asyncio.create_task(self._drain(_Rest(writing, congestion)), name="redis drain")

    async def _drain(self, rest: "_Rest") -> None:
        try:
            await rest
        except (RedisError, OSError):
            self._link.hang_up()
        finally:
            self._draining = None
        self.flush()

    async def _serve(self, connection: AbstractConnection) -> None:
        self._connection = connection
        answered_by = self._loop.time() + self._timeout
        for batch in self._unsent:  # the grace was for the connection; from here on the server has its time
            batch.deadline = max(batch.deadline, answered_by)
        try:
            self.flush()
            await self._read(connection)
        finally:
            self._connection = None
            self._down_since = self._loop.time()
            while self._sent:
                self._sent.popleft().fail(Unavailable("the connection to Redis was lost before the answer"))
            if self._draining is not None:
                self._draining.cancel()
                await asyncio.wait([self._draining])
                self._draining = None  # a task that is cancelled before its first step never runs its own `finally`

    async def _read(self, connection: AbstractConnection) -> None:
        sent = self._sent
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf)
            except ResponseError as exc:
                reply = exc
            batch = sent[0]
            batch.replies.append(reply)
            batch.missing -= 1
            if not batch.missing:
                sent.popleft()
                batch.answer()

    def _watch(self) -> None:
        """One timer for all batches: wakes when one could be late, not once for each."""
        now = self._loop.time()
        if any(batch.deadline <= now for batch in self._sent):
            # Answers come in order, so a late one holds up all that follow it.
            self._link.hang_up()
        waiting = deque[_Batch]()
        for batch in self._unsent:
            if batch.deadline > now:
                waiting.append(batch)
                continue
            self._unsent_bytes -= len(batch.packed)
            batch.fail(Unavailable("no connection to Redis"))
        self._unsent = waiting
        deadlines = [batch.deadline for batch in (*self._sent, *waiting) if batch.deadline > now]
        self._watchdog = self._loop.call_at(min(deadlines), self._watch) if deadlines else None


class _Rest:
    """Awaits the rest of a coroutine that was already started by hand and suspended on `waiting_for`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> None:
        self._coroutine = coroutine
        self._waiting_for = waiting_for

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._waiting_for
        except BaseException:
            self._coroutine.close()
            raise
        yield from self._coroutine.__await__()
