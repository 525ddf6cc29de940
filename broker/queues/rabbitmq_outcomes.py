"""The recorder's side of the outcomes queue on RabbitMQ."""

import asyncio
from typing import Any

import structlog
from aiormq.abc import AbstractChannel, DeliveredMessage

from broker.queues import rabbitmq_frames as frames
from broker.queues.outcome_wire import decode_outcomes
from broker.queues.rabbitmq_link import Link

log = structlog.get_logger(__name__)


class RabbitOutcomes:
    def __init__(self, message: DeliveredMessage) -> None:
        self.outcomes = decode_outcomes(message.body)
        self._message = message
        self._acked = False

    async def ack(self) -> None:
        channel: Any = self._message.channel
        if not channel.is_closed and not self._acked:
            self._acked = True
            channel.connection.write_queue.put_nowait(frames.ack(self._message.delivery_tag or 0, channel.number))


class OutcomeReader:
    """Iterates over batches as they come, over reconnects."""

    def __init__(self, queue: str, prefetch: int) -> None:
        self.link: Link
        self._queue = queue
        self._prefetch = prefetch
        self._arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue(prefetch)

    def __aiter__(self) -> "OutcomeReader":
        return self

    async def __anext__(self) -> RabbitOutcomes:
        while True:
            message = await self._arrived.get()
            if message.channel.is_closed:
                continue  # of a lost connection: it comes again
            try:
                return RabbitOutcomes(message)
            except (ValueError, KeyError, TypeError) as exc:
                # Money may be in it: leave it unacked. It goes to the dead outcomes after its delivery limit.
                log.error("outcomes_unreadable", error=repr(exc)[:200])

    async def opened(self, channel: AbstractChannel) -> None:
        async def arrived(message: DeliveredMessage) -> None:
            self._arrived.put_nowait(message)

        await channel.basic_qos(prefetch_count=self._prefetch)
        await channel.basic_consume(self._queue, arrived)

    def lost(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()
