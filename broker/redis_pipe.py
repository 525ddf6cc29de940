"""One Redis connection that all tasks of a process share: the commands of one event-loop turn travel in one write.

redis-py's client spends about 90 us of CPU on a command (pool, lock, retry, timeout). The hot path cannot: here a
command is packed, buffered and answered through a future. redis-py still does the URL, TLS, AUTH and SELECT.
"""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from redis.exceptions import NoScriptError, ResponseError

from broker.redis_link import TIMEOUT, Argument, Command, Link, OutOfStep, Wire, pack
from shared.errors import Unavailable

PATIENCE = 5.0  # seconds for commands that should rather outlast a reconnect than fail
_GRACE = 1.0  # seconds that commands wait for a lost connection to come back; later ones fail at once
_MAX_OUTSTANDING = 20_000  # batches written or waiting to be
_MAX_UNSENT = 256 * 1024 * 1024  # bytes waiting for the connection


class Script:
    """A Lua script, known to the server by its hash."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


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
        self._link = Link(
            url, on_up=self._on_up, on_reply=self._on_reply, on_down=self._on_down, on_writable=self.flush
        )
        self._wire: Wire | None = None
        self._down_since = -math.inf
        self._unsent: deque[_Batch] = deque()
        self._unsent_bytes = 0
        self._sent: deque[_Batch] = deque()
        self._flush_due = False
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
        patience = PATIENCE if patient else self._timeout if self._wire is not None else _GRACE
        packed = b"".join([pack(command) for command in commands])
        batch = _Batch(future, packed, len(commands), now + patience)
        if self._wire is None and not patient and now - self._down_since > _GRACE:
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
        if self._wire is None or not self._wire.writable or not self._unsent:
            return
        packed = b"".join([batch.packed for batch in self._unsent])
        for batch in self._unsent:
            batch.packed = b""
        self._sent.extend(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._wire.write(packed)

    def _on_up(self, wire: Wire) -> None:
        self._wire = wire
        answered_by = self._loop.time() + self._timeout
        for batch in self._unsent:  # the grace was for the connection; from here on the server has its time
            batch.deadline = max(batch.deadline, answered_by)
        self.flush()

    def _on_reply(self, reply: Any) -> None:
        if not self._sent:
            raise OutOfStep("the server sent an answer that nobody asked for")
        batch = self._sent[0]
        batch.replies.append(reply)
        batch.missing -= 1
        if not batch.missing:
            self._sent.popleft()
            batch.answer()

    def _on_down(self) -> None:
        self._wire = None
        self._down_since = self._loop.time()
        while self._sent:
            self._sent.popleft().fail(Unavailable("the connection to Redis was lost before the answer"))

    def _watch(self) -> None:
        """One timer for all batches: wakes when one could be late, not once for each."""
        now = self._loop.time()
        if self._wire is not None and any(batch.deadline <= now for batch in self._sent):
            # Answers come in order, so a late one holds up all that follow it.
            self._wire.hang_up("no answer in time")
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
