"""Reading queues whose messages end in the store: one connection, over reconnects, each message kept until acked."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from aiormq.abc import AbstractChannel

from broker.queues import rabbitmq_frames as frames
from broker.queues.rabbitmq_deliveries import Delivered, consume
from broker.queues.rabbitmq_link import Link

Item = TypeVar("Item")


class Reader(Generic[Item]):
    """Iterates over messages as `read` makes them of what the server delivers; None of it leaves a message out. At
    most `prefetch` are unacked, divided between the queues (at least one each)."""

    def __init__(self, queues: Sequence[str], prefetch: int, read: Callable[[Delivered], Item | None]) -> None:
        self.link: Link
        self._queues = list(queues)
        self._prefetch = prefetch
        self._read = read
        self._arrived: deque[Delivered] = deque()  # the server sends no more than the prefetch
        self._something = asyncio.Event()
        self._consuming = asyncio.Lock()  # a queue is added before the consumers are made, or after

    def __aiter__(self) -> "Reader[Item]":
        return self

    async def __anext__(self) -> Item:
        while True:
            while not self._arrived:
                self._something.clear()
                await self._something.wait()
            message = self._arrived.popleft()
            if message.channel.is_closed:
                continue  # of a lost connection: it comes again
            item = self._read(message)
            if item is not None:
                return item

    async def add(self, queues: Sequence[str]) -> None:
        """Read these queues as well."""
        async with self._consuming:
            new = [queue for queue in queues if queue not in self._queues]
            self._queues += new
            channel = self.link.channel
            if channel is not None:
                with self.link.ignoring_loss():
                    await self._consume(channel, new)

    # What the link tells.

    async def opened(self, channel: AbstractChannel) -> None:
        async with self._consuming:
            await self._consume(channel, self._queues)

    def lost(self) -> None:
        self._arrived.clear()

    async def _consume(self, channel: AbstractChannel, queues: Sequence[str]) -> None:
        if not queues:
            return
        await channel.basic_qos(prefetch_count=max(self._prefetch // len(self._queues), 1))
        for queue in queues:
            await consume(channel, queue, self._deliver)

    def _deliver(self, message: Delivered) -> None:
        self._arrived.append(message)
        self._something.set()


class Reading:
    """A message in its reader's hands."""

    def __init__(self, message: Delivered) -> None:
        self._message = message
        self._acked = False

    async def ack(self) -> None:
        channel: Any = self._message.channel
        if not channel.is_closed and not self._acked:
            self._acked = True
            channel.connection.post(frames.ack(self._message.delivery_tag, channel.number))
