"""The job queue of the embedded profile: one process, one event loop, the same bytes as on RabbitMQ.

What it cannot promise is what a process cannot: jobs die with it. Durable jobs are rows of the store as well.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from broker import topology
from broker.interfaces import LaneStats
from broker.queues.drain_rate import LaneMeter, queue_full
from broker.queues.intake import Intake
from broker.queues.lanes import LaneRotation
from broker.queues.outcome_wire import decode_outcomes, encode_outcomes
from shared.errors import QueueFull, Unavailable
from shared.jobs import Job, Lane, Outcome

MAX_DELAYED = 100_000
"""Jobs on all delay levels together; over it publishing with a delay raises `QueueFull`."""

MAX_OUTCOMES = 1_000_000
"""Batches waiting for the recorder; over it `record` raises `QueueFull`."""

MAX_DEAD = 10_000
"""Dead jobs kept for each provider; the oldest go first."""


def connect(url: str, *, bound: int = 10_000) -> "MemoryQueue":
    """`url` is `memory://`; each call is a queue of its own. `bound` is the most jobs that may wait in a lane."""
    return MemoryQueue(bound)


@dataclass(slots=True)
class _Message:
    headers: bytes
    body: bytes
    published_at: float
    deadline: float
    redelivered: bool = False

    def job(self) -> Job:
        return Job.from_wire(self.headers, self.body)


@dataclass(slots=True)
class _Lane:
    meter: LaneMeter
    waiting: deque[_Message] = field(default_factory=deque)
    in_flight: int = 0
    consumers: int = 0


class MemoryQueue:
    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lanes: dict[tuple[str, Lane], _Lane] = {}
        self._dead: dict[str, deque[tuple[Job, str]]] = {}
        self._delayed: set[asyncio.TimerHandle] = set()
        self._consumers: set[MemoryConsumer] = set()
        self._recorded: deque[bytes] = deque()
        self._unrecorded = 0  # messages with outcomes, those in a recorder's hands included
        self._outcome_arrived = asyncio.Event()

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
        if len(lane.waiting) >= self._bound:
            self._drop_expired(job.lane, lane)
        if len(lane.waiting) >= self._bound:
            rate = lane.meter.per_second(time.monotonic())
            return _failed(queue_full(job.provider, job.lane, len(lane.waiting), rate))
        self._append(job.provider, job.lane, _message(job))
        return _done()

    @asynccontextmanager
    async def consume(
        self, providers: Sequence[str], prefetch: int, lanes: Sequence[Lane] = (Lane.INTERACTIVE, Lane.BATCH)
    ) -> AsyncIterator["MemoryConsumer"]:
        await self.declare(providers)
        consumer = MemoryConsumer(self, LaneRotation(providers, lanes), prefetch)
        served = [self._lanes[provider, lane] for provider in dict.fromkeys(providers) for lane in lanes]
        for lane in served:
            lane.consumers += 1
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            await consumer.stop()
            self._consumers.discard(consumer)
            for lane in served:
                lane.consumers -= 1
            consumer.leave()

    def record(self, outcomes: Sequence[Outcome]) -> "asyncio.Future[None]":
        if len(self._recorded) >= MAX_OUTCOMES:
            return _failed(QueueFull(f"{MAX_OUTCOMES} batches of outcomes wait for the recorder", retry_after=60.0))
        self._recorded.append(encode_outcomes(outcomes))
        self._unrecorded += 1
        self._outcome_arrived.set()
        return _done()

    @asynccontextmanager
    async def outcomes(self, prefetch: int) -> AsyncIterator[AsyncIterator["MemoryOutcomes"]]:
        reader = _OutcomeReader(self._recorded, self._outcome_arrived, prefetch, self._note_recorded)
        try:
            yield reader
        finally:
            reader.leave()

    async def outcomes_waiting(self) -> int:
        return self._unrecorded

    async def declare(self, providers: Sequence[str]) -> None:
        for provider in providers:
            self._dead.setdefault(provider, deque(maxlen=MAX_DEAD))
            for lane in Lane:
                self._lanes.setdefault((provider, lane), _Lane(LaneMeter(time.monotonic())))

    async def stats(self) -> list[LaneStats]:
        return [self._lane_stats(provider, kind, lane) for (provider, kind), lane in self._lanes.items()]

    async def ping(self) -> None:
        return

    def dead_letters(self, provider: str) -> list[tuple[Job, str]]:
        """Dead jobs with their reasons, oldest first."""
        return list(self._dead[provider])

    # Below: what consumers and deliveries of this module call.

    def waiting(self, provider: str, kind: Lane) -> bool:
        lane = self._lanes[provider, kind]
        self._drop_expired(kind, lane)
        return bool(lane.waiting)

    def take(self, provider: str, kind: Lane) -> _Message:
        lane = self._lanes[provider, kind]
        lane.in_flight += 1
        return lane.waiting.popleft()

    def settled(self, provider: str, kind: Lane) -> None:
        lane = self._lanes[provider, kind]
        lane.in_flight -= 1
        lane.meter.settled(time.monotonic())

    def bury(self, job: Job, reason: str) -> None:
        self._dead[job.provider].append((job, reason))

    def put_behind(self, job: Job) -> None:
        # The job was accepted once: the bound is for new ones.
        self._append(job.provider, job.lane, _message(job))

    def return_to_head(self, provider: str, kind: Lane, message: _Message) -> None:
        lane = self._lanes[provider, kind]
        lane.in_flight -= 1
        message.redelivered = True
        lane.waiting.appendleft(message)
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

    def _note_recorded(self) -> None:
        self._unrecorded -= 1

    def _append(self, provider: str, kind: Lane, message: _Message) -> None:
        self._lanes[provider, kind].waiting.append(message)
        self._wake(provider)

    def _wake(self, provider: str) -> None:
        # Every consumer, not one: the first may be at its prefetch limit or have the provider paused.
        for consumer in self._consumers:
            consumer.wake()

    def _drop_expired(self, kind: Lane, lane: _Lane) -> None:
        # As `expiration` does on RabbitMQ: nobody waits for these any more, and they leave when they reach the head.
        now = time.time()
        while kind is Lane.INTERACTIVE and lane.waiting and lane.waiting[0].deadline <= now:
            lane.waiting.popleft()

    def _lane_stats(self, provider: str, kind: Lane, lane: _Lane) -> LaneStats:
        self._drop_expired(kind, lane)
        return LaneStats(
            provider=provider,
            lane=kind,
            depth=len(lane.waiting),
            in_flight=lane.in_flight,
            oldest=max(time.time() - lane.waiting[0].published_at, 0.0) if lane.waiting else None,
            drain_rate=lane.meter.per_second(time.monotonic()),
            bound=self._bound,
            consumers=lane.consumers,
            paused=any(consumer.intake.paused(provider) for consumer in self._consumers),
        )


class MemoryConsumer:
    def __init__(self, queue: MemoryQueue, rotation: LaneRotation, prefetch: int) -> None:
        self._queue = queue
        self._unsettled: dict[int, MemoryDelivery] = {}
        self.intake: Intake[MemoryDelivery] = Intake(rotation, prefetch, queue.waiting, self._take)

    async def get(self) -> "MemoryDelivery":
        return await self.intake.next()

    async def pause(self, provider: str, seconds: float) -> None:
        self.intake.pause(provider, seconds, resume=lambda _: None)

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
        self.intake.settled()

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

    async def hand_back(self) -> None:
        if self._settle():
            self._queue.put_behind(self.job)

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


class MemoryOutcomes:
    def __init__(self, reader: "_OutcomeReader", wire: bytes) -> None:
        self.outcomes = decode_outcomes(wire)
        self._reader = reader

    async def ack(self) -> None:
        self._reader.settle(self)


class _OutcomeReader:
    """The recorder's side of the outcomes queue."""

    def __init__(self, recorded: deque[bytes], arrived: asyncio.Event, prefetch: int, note: Callable[[], None]) -> None:
        self._recorded = recorded
        self._note = note
        self._arrived = arrived
        self._free = asyncio.Semaphore(prefetch)
        self._unacked: dict[int, bytes] = {}

    def __aiter__(self) -> "_OutcomeReader":
        return self

    async def __anext__(self) -> MemoryOutcomes:
        await self._free.acquire()
        try:
            while not self._recorded:
                self._arrived.clear()
                await self._arrived.wait()
        except asyncio.CancelledError:
            self._free.release()
            raise
        wire = self._recorded.popleft()
        batch = MemoryOutcomes(self, wire)
        self._unacked[id(batch)] = wire
        return batch

    def settle(self, batch: MemoryOutcomes) -> None:
        if self._unacked.pop(id(batch), None) is not None:
            self._free.release()
            self._note()

    def leave(self) -> None:
        self._recorded.extendleft(reversed(self._unacked.values()))
        self._unacked.clear()
        self._arrived.set()


def _message(job: Job) -> _Message:
    stamped = job if job.published_at else replace(job, published_at=time.time())
    return _Message(stamped.headers(), stamped.body, stamped.published_at, stamped.deadline)


def _done() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def _failed(error: QueueFull | Unavailable) -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # mark it as seen: awaiting the future is optional
    return future
