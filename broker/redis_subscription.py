"""Published messages of a few Redis channels, for the life of a process, on a connection of their own."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Self

from broker.redis_link import TIMEOUT, Link, OutOfStep, Wire, pack
from shared.errors import Unavailable

_HEARTBEAT = 2.0  # seconds; a connection that stays silent for a whole one after a PING is taken for dead
_PING = pack(("PING",))


class Subscription:
    """Calls a channel's handler with each message, in order. Pub/sub keeps nothing for a listener who is away, so
    `on_up` and `on_down` say when messages may have been missed: `on_up` is called once all channels are confirmed.

    Handlers are called as the bytes arrive: they must be quick and must not raise."""

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
        self._link = Link(url, on_up=self._subscribe, on_reply=self._on_reply, on_down=self._on_lost)
        self._up = asyncio.Event()
        self._unconfirmed = 0
        self._silent = False
        self._heartbeat: asyncio.TimerHandle | None = None

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

    def _subscribe(self, wire: Wire) -> None:
        self._unconfirmed = len(self._handlers)
        wire.write(pack(("SUBSCRIBE", *self._handlers)))
        self._silent = False
        self._beat(wire)

    def _on_reply(self, reply: Any) -> None:
        self._silent = False
        match reply:
            case [b"message", channel, payload]:
                self._handlers[channel](payload)
            case [b"subscribe", *_]:
                self._unconfirmed -= 1
                if not self._unconfirmed:
                    self._up.set()
                    self._on_up()
            case [b"pong", _]:
                pass
            case Exception():
                raise OutOfStep(f"Redis refused a subscription: {reply}")
            case _:
                raise OutOfStep("the server sent what no subscription asked for")

    def _on_lost(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._up.is_set():
            self._up.clear()
            self._on_down()

    def _beat(self, wire: Wire) -> None:
        if self._silent:
            wire.hang_up(f"silent for {_HEARTBEAT:.0f} s")
            return
        self._silent = True
        wire.write(_PING)
        self._heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT, self._beat, wire)
