"""The job queue on RabbitMQ, 3.10 and 4.x.

One connection publishes and declares; each consumer has its own, because RabbitMQ stops reading from publishers when
it is short of memory, and acks must still get through. aiormq does the protocol; publishing, acking and confirms go
around its tasks and locks.

Server settings that matter: `consumer_timeout` (30 minutes by default) must be longer than the longest job, or the
server closes the channel and delivers everything on it again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel

from broker import topology
from broker.interfaces import LaneStats
from broker.queues import rabbitmq_frames as frames
from broker.queues.drain_rate import LaneMeter, queue_full
from broker.queues.outcome_wire import encode
from broker.queues.precedence import extra_places
from broker.queues.rabbitmq_consumer import LaneFeed, RabbitConsumer
from broker.queues.rabbitmq_dead import REASON, RabbitDeadLetter, read_dead_letter
from broker.queues.rabbitmq_link import RPC_TIMEOUT, START_PATIENCE, Link
from broker.queues.rabbitmq_outcomes import RabbitOutcomes, read_outcomes
from broker.queues.rabbitmq_publisher import RECONNECT_PATIENCE, Confirm, Publisher, all_of
from broker.queues.rabbitmq_reader import Reader
from broker.queues.rabbitmq_topology import Topology
from shared.errors import AppError, QueueFull, RequestTooLarge
from shared.ids import uuid7
from shared.jobs import FIRST, Ending, Job, Lane, Outcome
from shared.lane_reports import lane_id


def connect(url: str, *, bound: int = 10_000, namespace: str = topology.NAMESPACE) -> "RabbitQueue":
    """`url` is `amqp://` or `amqps://`. `bound` is the most jobs that may wait in a lane; a lane that exists keeps the
    bound that it was made with. `namespace` starts every name on the server."""
    return RabbitQueue(url, bound, namespace)


class RabbitQueue:
    def __init__(self, url: str, bound: int, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self._topology = Topology(namespace, bound)
        self._meters: dict[tuple[str, Lane], LaneMeter] = {}
        self._consumers: set[RabbitConsumer] = set()
        self._undertakers: set[Reader[RabbitDeadLetter]] = set()
        self._questions: AbstractChannel | None = None
        self._on_loss: list[Callable[[], None]] = []
        self._was_lost = False

    async def __aenter__(self) -> "RabbitQueue":
        self._link = Link(self._url, opened=self._opened, lost=self._lost, stuck=self._stuck)
        self._publisher = Publisher(self._link)
        await self._link.open(START_PATIENCE)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._link.close()
        self._publisher.close()

    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        if not job.published_at:
            job = replace(job, published_at=time.time())
        expiration_ms = None
        exchange = topology.jobs_exchange(self._namespace)
        if delay > 0:
            exchange = topology.delay_name(topology.delay_level_ms(delay), self._namespace)
        elif job.lane is Lane.INTERACTIVE:
            # Dead requests leave by themselves. A delayed job has none: it would cut its delay short.
            expiration_ms = max(int((job.deadline - job.published_at) * 1000), 1)
        message = frames.Message(
            exchange=exchange,
            routing_key=topology.routing_key(job.provider, job.lane),
            headers=((b"headrace", job.headers()),),
            body=job.body,
            message_id=job.id,
            type=job.endpoint,
            timestamp=job.published_at,
            persistent=job.durable or job.lane is Lane.BATCH or delay > 0,
            expiration_ms=expiration_ms,
            priority=job.precedence if job.lane is Lane.INTERACTIVE else None,
        )
        if delay > 0:
            return self._send(message, partial(QueueFull, "too many jobs are delayed", retry_after=delay))
        meter = self._meter(job.provider, job.lane)
        confirm = Confirm(message, partial(self._lane_full, job.provider, job.lane), meter.accepted)
        if message.priority == FIRST and extra_places(self._topology.bound):
            # Should the places there be taken, it goes where the others go, behind those that are before it.
            confirm.message = replace(message, routing_key=topology.first_key(job.provider))
            confirm.otherwise = replace(message, priority=FIRST - 1)
        self._publisher.publish(confirm)
        return confirm

    @asynccontextmanager
    async def consume(
        self, providers: Sequence[str], prefetch: int, lanes: Sequence[Lane] = (Lane.INTERACTIVE, Lane.BATCH)
    ) -> AsyncIterator[RabbitConsumer]:
        consumer = RabbitConsumer(self, lanes, prefetch)
        consumer.serve(await self.feeds(providers, lanes))
        consumer.link = Link(self._url, opened=consumer.opened, lost=consumer.lost)
        await consumer.link.open(START_PATIENCE)
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            self._consumers.discard(consumer)
            try:
                await consumer.leave()
            finally:
                await consumer.link.close()

    async def feeds(self, providers: Sequence[str], lanes: Sequence[Lane]) -> list[LaneFeed]:
        """For a consumer: these lanes, declared, none of them consumed yet."""
        await self.declare(providers)
        return [
            LaneFeed(
                provider, lane, topology.lane_queues(provider, lane, self._namespace), self._meters[provider, lane]
            )
            for lane in sorted(set(lanes), reverse=True)  # interactive first
            for provider in dict.fromkeys(providers)
        ]

    def on_loss(self, callback: Callable[[], None]) -> None:
        self._on_loss.append(callback)

    def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> "asyncio.Future[None]":
        try:
            bodies = encode(outcomes, endings, self._link.max_message_bytes)
        except RequestTooLarge as error:
            return _failed(error)
        return all_of([self._record(body) for body in bodies])

    @asynccontextmanager
    async def outcomes(self, prefetch: int) -> AsyncIterator[AsyncIterator[RabbitOutcomes]]:
        reader = Reader([topology.outcomes_queue(self._namespace)], prefetch, read_outcomes)
        async with self._reading(reader):
            yield reader

    @asynccontextmanager
    async def dead_letters(self, prefetch: int) -> AsyncIterator[AsyncIterator[RabbitDeadLetter]]:
        reader = Reader(self._dead_queues(), prefetch, read_dead_letter)
        async with self._reading(reader):
            self._undertakers.add(reader)
            try:
                await reader.add(self._dead_queues())  # of providers declared in the meantime
                yield reader
            finally:
                self._undertakers.discard(reader)

    async def declare(self, providers: Sequence[str]) -> None:
        connection = await self._link.ready(RECONNECT_PATIENCE)
        with self._link.translated():
            async with asyncio.timeout(RPC_TIMEOUT):
                self._observe(await self._topology.declare(connection, providers))
        for reader in list(self._undertakers):
            await reader.add(self._dead_queues())

    async def stats(self, lanes: Collection[str] | None = None) -> list[LaneStats]:
        """`in_flight`, `drain_rate` and `oldest` are what this process knows: RabbitMQ tells depth and
        consumers only. `oldest` is the wait of the job that was delivered here last."""
        asked = [key for key in self._meters if lanes is None or lane_id(*key) in lanes]
        async with self._asking() as channel:
            return [await self._lane_stats(channel, provider, lane) for provider, lane in asked]

    async def outcomes_waiting(self) -> int:
        async with self._asking() as channel:
            declared = await channel.queue_declare(topology.outcomes_queue(self._namespace), passive=True)
            return declared.message_count or 0

    async def ping(self) -> None:
        connection = await self._link.ready(RECONNECT_PATIENCE)
        with self._link.translated():
            async with asyncio.timeout(RECONNECT_PATIENCE):
                channel = await connection.channel(publisher_confirms=False)
                await channel.close()

    def bury(self, provider: str, headers: bytes, body: bytes, reason: str) -> "asyncio.Future[None]":
        """Put a job on its provider's dead-letter queue."""
        message = frames.Message(
            exchange=topology.dead_exchange(self._namespace),
            routing_key=provider,
            headers=((b"headrace", headers), (REASON.encode(), reason.encode())),
            body=body,
            message_id=uuid7(),
            type="dead",
            timestamp=time.time(),
            persistent=True,
        )
        return self._send(message, partial(QueueFull, f"the dead-letter queue of {provider} refuses"))

    def _record(self, body: bytes) -> Confirm:
        message = frames.Message(
            exchange="",
            routing_key=topology.outcomes_queue(self._namespace),
            headers=(),
            body=body,
            message_id=uuid7(),
            type="outcomes",
            timestamp=time.time(),
            persistent=True,
        )
        return self._send(message, partial(QueueFull, "the outcomes queue is full: is the recorder running?"))

    @asynccontextmanager
    async def _reading(self, reader: Reader[Any]) -> AsyncIterator[None]:
        reader.link = Link(self._url, opened=reader.opened, lost=reader.lost)
        await reader.link.open(START_PATIENCE)
        try:
            yield
        finally:
            await reader.link.close()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[AbstractChannel]:
        """A channel for questions. It is kept: opening one costs more than a question."""
        connection = await self._link.ready(RECONNECT_PATIENCE)
        with self._link.translated():
            async with asyncio.timeout(RPC_TIMEOUT):
                if self._questions is None or self._questions.is_closed:
                    self._questions = await connection.channel(publisher_confirms=False)
                yield self._questions

    def _dead_queues(self) -> list[str]:
        return [topology.dead_queue(provider, self._namespace) for provider in self._providers()]

    def _providers(self) -> list[str]:
        """Those declared, in that order."""
        return list(dict.fromkeys(provider for provider, _ in self._meters))

    def _send(self, message: frames.Message, refused: Callable[[], AppError]) -> Confirm:
        confirm = Confirm(message, refused)
        self._publisher.publish(confirm)
        return confirm

    def _lane_full(self, provider: str, lane: Lane) -> QueueFull:
        # The server refused it, so the lane's depth is its bound: no need to ask.
        now = time.monotonic()
        meter = self._meter(provider, lane)
        meter.observe_depth(self._topology.bound, now)
        return queue_full(provider, lane, self._topology.bound, meter.per_second(now))

    def _meter(self, provider: str, lane: Lane) -> LaneMeter:
        meter = self._meters.get((provider, lane))
        return meter if meter is not None else LaneMeter(time.monotonic())

    def _observe(self, depths: Mapping[tuple[str, Lane], int]) -> None:
        now = time.monotonic()
        for lane, depth in depths.items():
            meter = self._meters.get(lane)
            if meter is None:
                self._meters[lane] = LaneMeter(now, depth)
            else:
                meter.observe_depth(depth, now)

    async def _lane_stats(self, channel: AbstractChannel, provider: str, lane: Lane) -> LaneStats:
        depth = first = consumers = 0
        for name in topology.lane_queues(provider, lane, self._namespace):
            declared = await channel.queue_declare(name, durable=True, passive=True)
            depth += declared.message_count or 0
            if name == topology.first_queue(provider, self._namespace):
                first = declared.message_count or 0
            consumers = max(consumers, declared.consumer_count or 0)
        now = time.monotonic()
        meter = self._meters[provider, lane]
        meter.observe_depth(depth, now)
        feeds = [feed for consumer in self._consumers for feed in consumer.feeds_of(provider) if feed.lane is lane]
        waits = [feed.last_wait for feed in feeds if feed.last_wait is not None]
        return LaneStats(
            provider=provider,
            lane=lane,
            depth=depth,
            in_flight=sum(feed.handed_out + len(feed.buffer) for feed in feeds),
            oldest=max(waits) if waits and depth else None,
            drain_rate=meter.per_second(now),
            bound=self._topology.bound,
            consumers=consumers,
            local=True,
            first=first,
        )

    # What the link tells.

    async def _opened(self, channel: AbstractChannel) -> None:
        # A server that lost its data comes back empty: declare again what this process uses, then let messages go.
        # The exchanges come first in any case: publishing to one that does not exist would close the channel.
        self._observe(await self._topology.declare(channel.connection, self._providers()))
        if self._was_lost:
            self._was_lost = False
            # Interactive jobs are transient: a server that was restarted has forgotten those that it had confirmed.
            for callback in self._on_loss:
                callback()
        self._publisher.opened(channel)

    def _lost(self) -> None:
        self._was_lost = True
        self._publisher.lost()

    def _stuck(self) -> bool:
        return self._publisher.stuck()


def _failed(error: AppError) -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # mark it as seen: awaiting the future is optional
    return future
