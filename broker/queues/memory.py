"""The job queue of the embedded profile: one process, one event loop, the same bytes as on RabbitMQ.

What it cannot promise is what a process cannot: jobs die with it. Durable jobs are rows of the store as well.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from broker import topology
from broker.interfaces import LaneStats
from broker.queues.drain_rate import LaneMeter, queue_full
from broker.queues.intake import Intake
from broker.queues.lanes import LaneRotation
from broker.queues.memory_readers import Mailbox, MemoryDeadLetter, MemoryOutcomes, Reader
from broker.queues.outcome_wire import encode
from broker.queues.precedence import PrecedenceQueue, extra_places
from broker.records import DeadLetter
from shared.errors import AppError, QueueFull, RequestTooLarge, Unavailable
from shared.jobs import FIRST, Ending, Job, Lane, Outcome
from shared.lane_reports import lane_id

MAX_DELAYED = 100_000
"""Jobs on all delay levels together; over it publishing with a delay raises `QueueFull`."""

MAX_OUTCOMES = 1_000_000
"""Messages waiting for the recorder; over it `record` raises `QueueFull`."""

MAX_MESSAGE_BYTES = 128 * 1024 * 1024
"""One ending with its answer; RabbitMQ 3.x allows as much."""

MAX_DEAD = 10_000
"""Dead jobs waiting for the store; over it the oldest go first."""


def connect(url: str, *, bound: int = 10_000) -> "MemoryQueue":
    """`url` is `memory://`; each call is a queue of its own. `bound` is the most jobs that may wait in a lane."""
    return MemoryQueue(bound)


@dataclass(slots=True)
class _Message:
    headers: bytes
    body: bytes
    published_at: float
    deadline: float
    precedence: int
    redelivered: bool = False

    def job(self) -> Job:
        return Job.from_wire(self.headers, self.body)


@dataclass(slots=True)
class _Lane:
    meter: LaneMeter
    waiting: PrecedenceQueue[_Message] = field(default_factory=PrecedenceQueue)
    in_flight: int = 0
    consumers: int = 0


class MemoryQueue:
    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lanes: dict[tuple[str, Lane], _Lane] = {}
        self._dead: Mailbox[DeadLetter] = Mailbox()
        self._delayed: set[asyncio.TimerHandle] = set()
        self._consumers: set[MemoryConsumer] = set()
        self._recorded: Mailbox[bytes] = Mailbox()

    async def __aenter__(self) -> "MemoryQueue":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for timer in self._delayed:
            timer.cancel()
        self._delayed.clear()

    def on_loss(self, callback: Callable[[], None]) -> None:
        return  # what this process has accepted lives as long as the process

    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        lane = self._lanes.get((job.provider, job.lane))
        if lane is None:
            return _failed(Unavailable(f"no lane {job.lane.value} of provider {job.provider}", provider=job.provider))
        if delay > 0:
            return self._publish_later(job, topology.delay_level_ms(delay) / 1000)
        places = self._bound
        if job.lane is Lane.INTERACTIVE and job.precedence == FIRST:
            places += extra_places(self._bound)
        if len(lane.waiting) >= places:
            self._drop_expired(job.lane, lane)
        if len(lane.waiting) >= places:
            rate = lane.meter.per_second(time.monotonic())
            return _failed(queue_full(job.provider, job.lane, len(lane.waiting), rate))
        self._append(job.provider, job.lane, _message(job))
        return _done()

    @asynccontextmanager
    async def consume(
        self, providers: Sequence[str], prefetch: int, lanes: Sequence[Lane] = (Lane.INTERACTIVE, Lane.BATCH)
    ) -> AsyncIterator["MemoryConsumer"]:
        consumer = MemoryConsumer(self, lanes, prefetch)
        await consumer.add(providers)
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            await consumer.stop()
            self._consumers.discard(consumer)
            for key in consumer.lanes:
                self._lanes[key].consumers -= 1
            consumer.leave()

    def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> "asyncio.Future[None]":
        if len(self._recorded.waiting) >= MAX_OUTCOMES:
            return _failed(QueueFull(f"{MAX_OUTCOMES} batches of outcomes wait for the recorder", retry_after=60.0))
        try:
            messages = encode(outcomes, endings, MAX_MESSAGE_BYTES)
        except RequestTooLarge as error:
            return _failed(error)
        for message in messages:
            self._recorded.put(message)
        return _done()

    @asynccontextmanager
    async def outcomes(self, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryOutcomes]]:
        reader = Reader(self._recorded, prefetch, MemoryOutcomes)
        try:
            yield reader
        finally:
            reader.leave()

    async def outcomes_waiting(self) -> int:
        return len(self._recorded)

    @asynccontextmanager
    async def dead_letters(self, prefetch: int) -> AsyncIterator[AsyncIterator[MemoryDeadLetter]]:
        reader = Reader(self._dead, prefetch, MemoryDeadLetter)
        try:
            yield reader
        finally:
            reader.leave()

    async def declare(self, providers: Sequence[str]) -> None:
        for provider in providers:
            for lane in Lane:
                self._lanes.setdefault((provider, lane), _Lane(LaneMeter(time.monotonic())))

    async def stats(self, lanes: Collection[str] | None = None) -> list[LaneStats]:
        return [
            self._lane_stats(*key, lane) for key, lane in self._lanes.items() if lanes is None or lane_id(*key) in lanes
        ]

    async def ping(self) -> None:
        return

    def buried(self, provider: str) -> list[tuple[Job, str]]:
        """Dead jobs that wait for the store with their reasons, oldest first: a look behind the queue, for tests."""
        letters = [letter for letter in self._dead.waiting if letter.provider == provider]
        return [(Job.from_wire(letter.headers, letter.body), letter.reason) for letter in letters]

    # Below: what consumers and deliveries of this module call.

    def served(self, provider: str, kind: Lane) -> None:
        """One consumer more takes jobs of the lane."""
        self._lanes[provider, kind].consumers += 1

    def head(self, provider: str, kind: Lane) -> int | None:
        lane = self._lanes[provider, kind]
        self._drop_expired(kind, lane)
        return lane.waiting.head()

    def take(self, provider: str, kind: Lane) -> _Message:
        lane = self._lanes[provider, kind]
        lane.in_flight += 1
        return lane.waiting.pop()

    def settled(self, provider: str, kind: Lane) -> None:
        lane = self._lanes[provider, kind]
        lane.in_flight -= 1
        lane.meter.settled(time.monotonic())

    def bury(self, job: Job, reason: str) -> None:
        if len(self._dead.waiting) >= MAX_DEAD:
            self._dead.waiting.popleft()
        self._dead.put(DeadLetter(job.id, job.provider, reason, job.headers(), job.body, time.time()))

    def return_to_head(self, provider: str, kind: Lane, message: _Message) -> None:
        lane = self._lanes[provider, kind]
        lane.in_flight -= 1
        message.redelivered = True
        lane.waiting.append_left(message, message.precedence)
        self._wake(provider)

    def _publish_later(self, job: Job, delay: float) -> "asyncio.Future[None]":
        if len(self._delayed) >= MAX_DELAYED:
            return _failed(QueueFull(f"{MAX_DELAYED} jobs are delayed already", retry_after=delay))
        message = _message(job)
        timer: asyncio.TimerHandle

        def arrive() -> None:
            self._delayed.discard(timer)
            self._append(job.provider, job.lane, message)

        timer = asyncio.get_running_loop().call_later(delay, arrive)
        self._delayed.add(timer)
        return _done()

    def _append(self, provider: str, kind: Lane, message: _Message) -> None:
        self._lanes[provider, kind].waiting.append(message, message.precedence)
        self._wake(provider)

    def _wake(self, provider: str) -> None:
        # Every consumer, not one: the first may be at its prefetch limit or have the provider paused.
        for consumer in self._consumers:
            consumer.wake()

    def _drop_expired(self, kind: Lane, lane: _Lane) -> None:
        # As `expiration` does on RabbitMQ: nobody waits for these any more, and they leave when they reach the head.
        if kind is not Lane.INTERACTIVE:
            return
        now = time.time()
        for level in lane.waiting.levels():
            while level and level[0].deadline <= now:
                level.popleft()

    def _lane_stats(self, provider: str, kind: Lane, lane: _Lane) -> LaneStats:
        self._drop_expired(kind, lane)
        oldest = min((level[0].published_at for level in lane.waiting.levels()), default=None)
        return LaneStats(
            provider=provider,
            lane=kind,
            depth=len(lane.waiting),
            in_flight=lane.in_flight,
            oldest=None if oldest is None else max(time.time() - oldest, 0.0),
            drain_rate=lane.meter.per_second(time.monotonic()),
            bound=self._bound,
            consumers=lane.consumers,
            first=lane.waiting.waiting(FIRST) if kind is Lane.INTERACTIVE else 0,
        )


class MemoryConsumer:
    def __init__(self, queue: MemoryQueue, kinds: Sequence[Lane], prefetch: int) -> None:
        self.lanes: list[tuple[str, Lane]] = []
        self._queue = queue
        self._kinds = kinds
        self._rotation = LaneRotation([], kinds)
        self._unsettled: dict[int, MemoryDelivery] = {}
        self.intake: Intake[MemoryDelivery] = Intake(self._rotation, prefetch, queue.head, self._take)

    async def get(self) -> "MemoryDelivery":
        return await self.intake.next()

    async def add(self, providers: Sequence[str]) -> None:
        await self._queue.declare(providers)
        for provider in providers:
            if self._rotation.add(provider):
                for kind in self._kinds:
                    self.lanes.append((provider, kind))
                    self._queue.served(provider, kind)
        self.intake.wake_all()

    async def pause(self, provider: str, seconds: float, lane: Lane | None = None) -> None:
        self.intake.pause(provider, lane, seconds, resume=lambda _: None)

    async def pause_lanes(self, lanes: Collection[str]) -> None:
        self.intake.hold([lane for lane in self.lanes if lane_id(*lane) in lanes])

    async def stop(self) -> None:
        self.intake.close()

    def wake(self) -> None:
        self.intake.wake()

    def leave(self) -> None:
        """Everything unsettled goes back to the head of its lane, in the order in which it was."""
        for delivery in reversed(self._unsettled.values()):
            delivery.abandon()
        self._unsettled.clear()

    def settled(self, delivery: "MemoryDelivery") -> None:
        del self._unsettled[id(delivery)]
        self.intake.settled(delivery.job.lane)

    def _take(self, provider: str, lane: Lane) -> "MemoryDelivery":
        delivery = MemoryDelivery(self._queue, self, self._queue.take(provider, lane), (provider, lane))
        self._unsettled[id(delivery)] = delivery
        return delivery


class MemoryDelivery:
    def __init__(self, queue: MemoryQueue, consumer: MemoryConsumer, message: _Message, lane: tuple[str, Lane]) -> None:
        self.job = message.job()
        self.redelivered = message.redelivered
        self._queue = queue
        self._consumer = consumer
        self._message = message
        self._lane = lane
        self._settled = False
        self._abandoned = False

    async def ack(self) -> None:
        self._settle()

    async def dead(self, reason: str) -> None:
        if self._settle():
            self._queue.bury(self.job, reason)

    def abandon(self) -> None:
        self._abandoned = True
        self._queue.return_to_head(*self._lane, self._message)

    def _settle(self) -> bool:
        """Whether there was something to settle: after the consumer left there is not."""
        if self._settled:
            raise RuntimeError(f"job {self.job.id} is settled already")
        self._settled = True
        if self._abandoned:
            return False
        self._consumer.settled(self)
        self._queue.settled(*self._lane)
        return True


def _message(job: Job) -> _Message:
    stamped = job if job.published_at else replace(job, published_at=time.time())
    # Batch jobs come in their order.
    precedence = job.precedence if job.lane is Lane.INTERACTIVE else FIRST
    return _Message(stamped.headers(), stamped.body, stamped.published_at, stamped.deadline, precedence)


def _done() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def _failed(error: AppError) -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # mark it as seen: awaiting the future is optional
    return future
