"""Taking jobs from RabbitMQ: one connection, one channel, a consumer on each lane.

How much a worker holds: each lane's consumer has a prefetch of its own, the worker's concurrency plus a little
look-ahead (so that a lane has its next job here when its turn comes; without it the weights would depend on round
trips). At most `prefetch` jobs over all lanes are handed out; the others wait in their lane's buffer. A worker of two
busy lanes thus holds about `prefetch` jobs that it is not working on. RabbitMQ cannot share one prefetch between quorum
queues. The interactive lane has two queues, hence two such prefetches, so that the jobs of a tenant that has much under
way cannot keep away those of one that has little.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiormq.abc import AbstractChannel

from broker.queues import rabbitmq_frames as frames
from broker.queues.drain_rate import LaneMeter
from broker.queues.intake import Intake
from broker.queues.lanes import LaneRotation
from broker.queues.precedence import PrecedenceQueue
from broker.queues.rabbitmq_dead import job_headers
from broker.queues.rabbitmq_deliveries import Delivered, consume
from broker.queues.rabbitmq_link import CLOSE_TIMEOUT, Link
from shared.jobs import FIRST, Job, Lane
from shared.lane_reports import lane_id

log = structlog.get_logger(__name__)

KEEP_PREFETCHED = {Lane.INTERACTIVE: 1.0, Lane.BATCH: 60.0}
"""Seconds of pause up to which prefetched jobs of a lane stay here. Longer, and the lane's consumer is cancelled and
they go back to the queue. That is free for the classic queue; a quorum queue counts it as one of the 20 deliveries."""

PUBLISH_TIMEOUT = 60.0  # seconds; the publisher gives up long before


class Exchange(Protocol):
    """What a consumer and its deliveries need of their queue."""

    async def feeds(self, providers: Sequence[str], lanes: Sequence[Lane]) -> "list[LaneFeed]": ...

    def bury(self, provider: str, headers: bytes, body: bytes, reason: str) -> "asyncio.Future[None]": ...


@dataclass(slots=True)
class LaneFeed:
    """One lane of one consumer."""

    provider: str
    lane: Lane
    queues: Sequence[str]
    meter: LaneMeter
    buffer: PrecedenceQueue[Delivered] = field(default_factory=PrecedenceQueue)
    consuming: bool = False
    handed_out: int = 0
    last_wait: float | None = None
    """Seconds that the job delivered last had been waiting."""


class RabbitConsumer:
    def __init__(self, queue: Exchange, lanes: Sequence[Lane], prefetch: int) -> None:
        self.feeds: dict[tuple[str, Lane], LaneFeed] = {}
        self.link: Link
        self._queue = queue
        self._lanes = lanes
        self._prefetch = prefetch
        self._stopped = False
        self._changing = asyncio.Lock()  # one change of a lane's consumer at a time
        self._resuming: set[asyncio.Task[None]] = set()
        self._rotation = LaneRotation([], lanes)
        self.intake: Intake[RabbitDelivery | None] = Intake(self._rotation, prefetch, self._head, self._take)

    async def get(self) -> "RabbitDelivery":
        while True:
            delivery = await self.intake.next()
            if delivery is not None:
                return delivery

    async def add(self, providers: Sequence[str]) -> None:
        new = [each for each in dict.fromkeys(providers) if not self.feeds_of(each)]
        if new:
            feeds = await self._queue.feeds(new, self._lanes)
            self.serve(feeds)
            for feed in feeds:
                await self._consume_again(feed)

    def serve(self, feeds: Sequence[LaneFeed]) -> None:
        """Consume these lanes from the next time that the channel opens."""
        # A new dictionary: somebody may be on the way through the old one, at an await.
        self.feeds = {(feed.provider, feed.lane): feed for feed in (*self.feeds.values(), *feeds)}
        for feed in feeds:
            self._rotation.add(feed.provider)

    async def pause(self, provider: str, seconds: float, lane: Lane | None = None) -> None:
        self.intake.pause(provider, lane, seconds, self._resume)
        for feed in self.feeds_of(provider):
            if seconds > KEEP_PREFETCHED[feed.lane] and self.intake.paused(provider, feed.lane):
                await self._cancel(feed)

    async def pause_lanes(self, lanes: Collection[str]) -> None:
        self.intake.hold([key for key in self.feeds if lane_id(*key) in lanes])
        for key, feed in self.feeds.items():
            if self.intake.held(*key):
                await self._cancel(feed)
            else:
                await self._consume_again(feed)

    async def stop(self) -> None:
        self._stopped = True
        self.intake.close()
        for feed in self.feeds.values():
            await self._cancel(feed)

    async def leave(self) -> None:
        """Close the channel: everything unsettled goes back in its order, and the server has read the last acks."""
        self._stopped = True
        self.intake.close()
        if self._resuming:
            await asyncio.wait(self._resuming)
        channel: Any = self.link.channel
        if channel is not None:
            with self.link.ignoring_loss():
                channel.connection.flush()  # the last acks
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await channel.close()

    # What the link tells.

    async def opened(self, channel: AbstractChannel) -> None:
        async with self._changing:
            await channel.basic_qos(prefetch_count=self._prefetch + max(1, self._prefetch // 8))
            for feed in self.feeds.values():
                if self._wanted(feed):
                    await self._consume(channel, feed)

    def lost(self) -> None:
        for feed in self.feeds.values():
            feed.consuming = False
            feed.buffer.clear()  # the server delivers them again

    # Lanes.

    def feeds_of(self, provider: str) -> list[LaneFeed]:
        return [feed for feed in self.feeds.values() if feed.provider == provider]

    async def _consume(self, channel: AbstractChannel, feed: LaneFeed) -> None:
        def arrived(message: Delivered) -> None:
            if not feed.consuming:  # cancelled while it was on its way
                self.requeue(message)
                return
            feed.buffer.append(message, _precedence(feed, message))
            self.intake.wake()

        feed.consuming = True
        for name in feed.queues:
            await consume(channel, name, arrived)

    async def _cancel(self, feed: LaneFeed) -> None:
        async with self._changing:
            if not feed.consuming:
                return
            feed.consuming = False
            channel = self.link.channel
            if channel is not None:
                with self.link.ignoring_loss():
                    for tag in feed.queues:
                        await channel.basic_cancel(tag, timeout=CLOSE_TIMEOUT)
            # In their order: a quorum queue delivers what came back first before the others.
            while feed.buffer:
                self.requeue(feed.buffer.pop())

    def _resume(self, provider: str) -> None:
        task = asyncio.get_running_loop().create_task(self._resume_lanes(provider))
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

    async def _resume_lanes(self, provider: str) -> None:
        for feed in self.feeds_of(provider):
            await self._consume_again(feed)

    async def _consume_again(self, feed: LaneFeed) -> None:
        if feed.consuming:
            return
        async with self._changing:
            channel = self.link.channel
            if channel is None or feed.consuming or not self._wanted(feed):
                return
            with self.link.ignoring_loss():
                await self._consume(channel, feed)

    def _wanted(self, feed: LaneFeed) -> bool:
        stopped = self._stopped or self.intake.paused(feed.provider, feed.lane)
        return not (stopped or self.intake.held(feed.provider, feed.lane))

    def requeue(self, message: Delivered) -> None:
        channel: Any = message.channel
        if not channel.is_closed:
            channel.connection.post(frames.requeue(message.delivery_tag, channel.number))

    # Jobs.

    def _head(self, provider: str, lane: Lane) -> int | None:
        feed = self.feeds.get((provider, lane))
        return None if feed is None else feed.buffer.head()

    def _take(self, provider: str, lane: Lane) -> "RabbitDelivery | None":
        # What is no job gives its slot back at once.
        feed = self.feeds[provider, lane]
        message = feed.buffer.pop()
        if message.channel.is_closed:  # of a lost connection: it comes again
            self.intake.settled(lane)
            return None
        headers = job_headers(message)
        try:
            job = Job.from_wire(headers, message.body)
        except (ValueError, KeyError, TypeError) as exc:
            log.error("job_unreadable", provider=provider, lane=lane.value, error=repr(exc)[:200])
            buried = self._queue.bury(provider, headers, message.body, f"unreadable: {exc!r}"[:200])
            buried.add_done_callback(lambda done: self._acknowledge_if(done, message))
            self.intake.settled(lane)
            return None
        feed.handed_out += 1
        feed.last_wait = max(time.time() - job.published_at, 0.0)
        return RabbitDelivery(self, self._queue, feed, job, message)

    def _acknowledge_if(self, buried: "asyncio.Future[None]", message: Delivered) -> None:
        if not buried.cancelled() and buried.exception() is None:
            self.acknowledge(message)

    def acknowledge(self, message: Delivered) -> None:
        channel: Any = message.channel
        if not channel.is_closed:
            channel.connection.post(frames.ack(message.delivery_tag, channel.number))

    def settled(self, feed: LaneFeed) -> None:
        feed.handed_out -= 1
        feed.meter.settled(time.monotonic())
        self.intake.settled(feed.lane)


class RabbitDelivery:
    def __init__(self, consumer: RabbitConsumer, queue: Exchange, feed: LaneFeed, job: Job, message: Delivered) -> None:
        self.job = job
        self.redelivered = message.redelivered
        self._consumer = consumer
        self._queue = queue
        self._feed = feed
        self._message = message
        self._settled = False

    async def ack(self) -> None:
        self._begin()
        self._finish()

    async def dead(self, reason: str) -> None:
        self._begin()
        if not self._message.channel.is_closed:
            headers = job_headers(self._message)
            await self._published(self._queue.bury(self.job.provider, headers, self._message.body, reason))
        self._finish()

    async def _published(self, published: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                await published
        except BaseException:
            self._settled = False  # nothing has happened to the job: its holder may try again
            raise

    def _begin(self) -> None:
        if self._settled:
            raise RuntimeError(f"job {self.job.id} is settled already")
        self._settled = True

    def _finish(self) -> None:
        self._consumer.acknowledge(self._message)
        self._consumer.settled(self._feed)


def _precedence(feed: LaneFeed, message: Delivered) -> int:
    if feed.lane is Lane.BATCH:  # in order already
        return FIRST
    priority = frames.priority_of(message.header)
    return FIRST if priority is None else min(priority, FIRST)  # without one it is not from us: out of the way with it
