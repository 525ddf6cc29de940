"""Declares exchanges, queues and bindings. The arguments are understood by RabbitMQ 3.10 and by 4.x alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiormq
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection

from broker import topology
from broker.queues.precedence import extra_places
from shared.jobs import FIRST, Lane

log = structlog.get_logger(__name__)

DELIVERY_LIMIT = 20
"""Deliveries without settlement after which a quorum queue gives a message up: 4.x' own default, unset on 3.10. Poison
is caught earlier, by the count of crashes in the store; this is the net below it."""

MAX_DELAYED = 100_000
MAX_DEAD = 100_000
MAX_OUTCOMES = 5_000_000
"""Bounds of the queues behind the lanes. An hour without Postgres at 1,000 jobs a second fits the outcomes queue."""

_QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}
# At-least-once dead-lettering exists for quorum queues only, and only with reject-publish (RabbitMQ, "Quorum Queues").
_AT_LEAST_ONCE: dict[str, Any] = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@dataclass(frozen=True, slots=True)
class _Queue:
    name: str
    arguments: dict[str, Any]
    """An AMQP table."""
    exchange: str = ""
    routing_key: str = ""


class Topology:
    """The names and arguments of one namespace."""

    def __init__(self, namespace: str, bound: int) -> None:
        self.namespace = namespace
        self.bound = bound

    async def declare(self, connection: AbstractConnection, providers: Sequence[str]) -> dict[tuple[str, Lane], int]:
        """Declare everything of these providers; returns the depth of each lane."""
        channel = await connection.channel(publisher_confirms=False)
        for exchange, kind in self._exchanges():
            await channel.exchange_declare(exchange, exchange_type=kind, durable=True)
        for queue in self._shared_queues():
            channel, _ = await _declare(connection, channel, queue)
        depths = {}
        for provider in providers:
            channel, _ = await _declare(connection, channel, self._dead(provider))
            for lane in Lane:
                depths[provider, lane] = 0
                for queue in self._lane(provider, lane):
                    channel, depth = await _declare(connection, channel, queue)
                    depths[provider, lane] += depth
        await channel.close()
        return depths

    async def delete(self, connection: AbstractConnection, providers: Sequence[str]) -> None:
        """Delete all of it, messages included: for tests and for taking an installation down."""
        channel = await connection.channel(publisher_confirms=False)
        queues = [*self._shared_queues()]
        for provider in providers:
            queues += [self._dead(provider), *(queue for lane in Lane for queue in self._lane(provider, lane))]
        for queue in queues:
            await channel.queue_delete(queue.name)
        for exchange, _ in self._exchanges():
            await channel.exchange_delete(exchange)
        await channel.close()

    def _exchanges(self) -> list[tuple[str, str]]:
        return [
            (topology.jobs_exchange(self.namespace), "direct"),
            (topology.dead_exchange(self.namespace), "direct"),
            *((topology.delay_name(level, self.namespace), "fanout") for level in topology.DELAY_LEVELS_MS),
        ]

    def _shared_queues(self) -> list[_Queue]:
        dead_outcomes = topology.dead_outcomes_queue(self.namespace)
        return [
            *(self._delay(level) for level in topology.DELAY_LEVELS_MS),
            _Queue(dead_outcomes, {**_QUORUM, "x-max-length": MAX_OUTCOMES, "x-overflow": "reject-publish"}),
            _Queue(
                topology.outcomes_queue(self.namespace),
                {
                    **_QUORUM,
                    **_AT_LEAST_ONCE,
                    "x-max-length": MAX_OUTCOMES,
                    "x-delivery-limit": DELIVERY_LIMIT,
                    "x-dead-letter-exchange": "",  # the default exchange: the routing key is the queue's name
                    "x-dead-letter-routing-key": dead_outcomes,
                },
            ),
        ]

    def _delay(self, level_ms: int) -> _Queue:
        name = topology.delay_name(level_ms, self.namespace)
        # No dead-letter routing key: a job keeps the one it came with, which names its lane. A full lane refuses it;
        # then this queue keeps it and tries again every 3 minutes, so it waits longer and is never lost.
        arguments = {
            **_QUORUM,
            **_AT_LEAST_ONCE,
            "x-max-length": MAX_DELAYED,
            "x-message-ttl": level_ms,
            "x-dead-letter-exchange": topology.jobs_exchange(self.namespace),
        }
        return _Queue(name, arguments, exchange=name)

    def _lane(self, provider: str, lane: Lane) -> list[_Queue]:
        if lane is Lane.BATCH:
            return [self._batch(provider)]
        # No dead-letter exchange behind these: requests past their deadline expire, and must not pile up anywhere.
        return [self._first(provider), self._interactive(provider)]

    def _first(self, provider: str) -> _Queue:
        arguments = {"x-queue-type": "classic", **_bounded(extra_places(self.bound))}
        exchange = topology.jobs_exchange(self.namespace)
        return _Queue(topology.first_queue(provider, self.namespace), arguments, exchange, topology.first_key(provider))

    def _interactive(self, provider: str) -> _Queue:
        arguments = {"x-queue-type": "classic", "x-max-priority": FIRST, **_bounded(self.bound)}
        return self._lane_queue(provider, Lane.INTERACTIVE, arguments)

    def _batch(self, provider: str) -> _Queue:
        arguments = {
            **_QUORUM,
            **_AT_LEAST_ONCE,
            **_bounded(self.bound),
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": topology.dead_exchange(self.namespace),
            "x-dead-letter-routing-key": provider,
        }
        return self._lane_queue(provider, Lane.BATCH, arguments)

    def _lane_queue(self, provider: str, lane: Lane, arguments: dict[str, Any]) -> _Queue:
        return _Queue(
            topology.lane_queue(provider, lane, self.namespace),
            arguments,
            topology.jobs_exchange(self.namespace),
            topology.routing_key(provider, lane),
        )

    def _dead(self, provider: str) -> _Queue:
        name = topology.dead_queue(provider, self.namespace)
        arguments = {**_QUORUM, "x-max-length": MAX_DEAD, "x-overflow": "drop-head"}
        return _Queue(name, arguments, topology.dead_exchange(self.namespace), provider)


def _bounded(length: int) -> dict[str, Any]:
    return {"x-max-length": max(length, 1), "x-overflow": "reject-publish"}


async def _declare(
    connection: AbstractConnection, channel: AbstractChannel, queue: _Queue
) -> tuple[AbstractChannel, int]:
    """Declare and bind; returns the channel to go on with and the queue's depth."""
    try:
        declared = await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    except aiormq.ChannelPreconditionFailed:
        # Made with other arguments, say another bound. It works, and only an operator may delete what it holds.
        log.warning("queue_keeps_its_arguments", queue=queue.name, remedy="delete the queue to apply the new ones")
        channel = await connection.channel(publisher_confirms=False)
        declared = await channel.queue_declare(queue.name, durable=True, passive=True)
    if queue.exchange:
        await channel.queue_bind(queue.name, queue.exchange, queue.routing_key)
    return channel, declared.message_count or 0
