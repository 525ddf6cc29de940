"""Published messages of a few Redis channels, for the life of a process, on a connection of their own."""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from broker.redis_pipe import TIMEOUT, Link
from shared.errors import Unavailable

_HEARTBEAT = 2.0  # seconds; a connection that stays silent for a whole one after a PING is taken for dead


class Subscription:
    """Calls a channel's handler with each message, in order. Pub/sub keeps nothing for a listener who is away, so
    `on_up` and `on_down` say when messages may have been missed: `on_up` is called once all channels are confirmed.

    Handlers run on the reading task: they must be quick and must not raise."""

    def __init__(
        self,
        url: str,
        handlers: Mapping[str, Callable[[bytes], None]],
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._handlers = {channel.encode(): handler for channel, handler in handlers.items()}
        self._on_up = on_up
        self._on_down = on_down
        self._link = Link(url, self._serve)
        self._up = asyncio.Event()
        self._heard = 0

    async def __aenter__(self) -> Self:
        await self._link.open()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._up.wait()
        except TimeoutError as exc:
            await self._link.close()
            raise Unavailable("Redis did not confirm a subscription") from exc
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._link.close()

    async def _serve(self, connection: AbstractConnection) -> None:
        heartbeat = asyncio.create_task(self._beat(connection), name="redis heartbeat")
        try:
            await self._listen(connection)
        finally:
            heartbeat.cancel()
            await asyncio.wait([heartbeat])
            if self._up.is_set():
                self._up.clear()
                self._on_down()

    async def _listen(self, connection: AbstractConnection) -> None:
        await connection.send_command("SUBSCRIBE", *self._handlers, check_health=False)
        handlers = self._handlers
        confirmed = 0
        while True:
            kind, *rest = await connection.read_response(timeout=math.inf)
            self._heard += 1
            if kind == b"message":
                handlers[rest[0]](rest[1])
            elif kind == b"subscribe":
                confirmed += 1
                if confirmed == len(handlers):
                    self._up.set()
                    self._on_up()

    async def _beat(self, connection: AbstractConnection) -> None:
        try:
            while True:
                heard = self._heard
                await connection.send_command("PING", check_health=False)
                await asyncio.sleep(_HEARTBEAT)
                if self._heard == heard:
                    break
        except (RedisError, OSError):
            pass  # the reader fails on the same break; if it does not, the connection is useless all the same
        self._link.hang_up()
