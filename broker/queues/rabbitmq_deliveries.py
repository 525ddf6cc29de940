"""Deliveries, taken off the wire before the AMQP library sees them.

For the library each of a delivery's frames is a task's work, and the message one more task's: three turns of the event
loop, which in a busy worker are milliseconds, and a tenth of its CPU. Here a message is its consumer's in the turn in
which its last byte comes. Whatever is not a delivery to one of these consumers goes on to the library.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from broker.queues import rabbitmq_frames as frames
from shared.values import value

_SIGN_OF_LIFE = 1.0  # seconds without a frame for the library after which it gets a heartbeat: it watches the server


@value(frozen=True, slots=True)
class Delivered:
    """A message of a queue."""

    channel: Any
    """The library's, whose number and connection are needed to settle the message."""
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    header: bytes
    """The content header's payload."""
    body: bytes

    @property
    def properties(self) -> Basic.Properties:
        """All of them, decoded anew."""
        header = ContentHeader()
        header.unmarshal(self.header)
        return header.properties


Arrived = Callable[[Delivered], None]


class _Content:
    """A delivery of which frames are still to come."""

    __slots__ = ("header", "missing", "parts", "to", "what")

    def __init__(self, to: tuple[AbstractChannel, Arrived], what: frames.Deliver) -> None:
        self.to = to
        self.what = what
        self.header: bytes | None = None
        self.missing = 0
        self.parts: list[bytes] = []

    def add(self, kind: int, payload: bytes) -> bool:
        """Whether this was the last frame."""
        if kind == frames.HEADER:
            self.header = payload
            self.missing = frames.body_size(payload)
        else:
            self.parts.append(payload)
            self.missing -= len(payload)
        return self.missing <= 0

    def finish(self) -> None:
        channel, arrived = self.to
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        arrived(
            Delivered(
                channel, self.what.consumer_tag, self.what.delivery_tag, self.what.redelivered, self.header or b"", body
            )
        )


class Deliveries(asyncio.Protocol):
    """Stands between a connection's transport and the library's protocol."""

    def __init__(self, library: asyncio.Protocol) -> None:
        self._library = library
        self._loop = asyncio.get_running_loop()
        self._consumers: dict[str, tuple[AbstractChannel, Arrived]] = {}
        self._coming: dict[int, _Content] = {}  # by the channel's number
        self._partial = b""
        self._garbled = False
        self._passed_on_at = self._loop.time()

    def consume(self, consumer_tag: str, channel: AbstractChannel, arrived: Arrived) -> None:
        """What comes for this consumer from now on is handed to `arrived`, which must not raise."""
        self._consumers[consumer_tag] = (channel, arrived)

    def data_received(self, data: bytes) -> None:
        if self._garbled:
            self._library.data_received(data)
            return
        if self._partial:
            data = self._partial + data
        at = passed = 0  # where the next frame begins; up to where everything has found its receiver
        while (end := frames.end_of(data, at)) is not None:
            if end == frames.NO_FRAME:
                self._garbled = True  # another protocol, or worse: the library knows what to say
                at = len(data)
                break
            if self._taken(data, at, end):
                self._pass_on(data[passed:at])
                passed = end
            at = end
        self._pass_on(data[passed:at])
        self._partial = data[at:]

    def eof_received(self) -> bool | None:
        return self._library.eof_received()

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._library.connection_lost(exc)

    def _taken(self, data: bytes, at: int, end: int) -> bool:
        """Whether this frame is part of a delivery to one of our consumers."""
        kind, channel = data[at], frames.channel_of(data, at)
        if kind == frames.METHOD:
            what = frames.deliver(data, at)
            to = self._consumers.get(what.consumer_tag) if what is not None else None
            if what is None or to is None:
                return False
            self._coming[channel] = _Content(to, what)
            return True
        content = self._coming.get(channel)
        if content is None or kind not in (frames.HEADER, frames.BODY):
            return False
        if content.add(kind, frames.payload(data, at, end)):
            del self._coming[channel]
            content.finish()
            if self._loop.time() - self._passed_on_at > _SIGN_OF_LIFE:
                self._pass_on(frames.HEARTBEAT)
        return True

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._passed_on_at = self._loop.time()
            self._library.data_received(data)


async def consume(channel: AbstractChannel, queue: str, arrived: Arrived) -> None:
    """Have the server deliver the messages of `queue`, each to `arrived`. The consumer's tag is the queue's name."""
    connection: Any = channel.connection
    connection.deliveries.consume(queue, channel, arrived)
    await channel.basic_consume(queue, _nothing_comes, consumer_tag=queue)


def intercept(transport: asyncio.Transport) -> Deliveries:
    """Stand between `transport` and its protocol from now on."""
    deliveries = Deliveries(cast(asyncio.Protocol, transport.get_protocol()))
    transport.set_protocol(deliveries)
    return deliveries


async def _nothing_comes(message: object) -> None:
    raise AssertionError("a delivery reached the library")
