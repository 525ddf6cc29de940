"""A worker's surroundings: the memory backends, which are honest, and a journal of what was done to them, in order."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from broker.events.memory import MemoryEventLog
from broker.interfaces import BucketState, Candidate, Consumer, Delivery, Grant, Refusal
from broker.limits.memory import MemoryLimiter
from broker.queues.memory import MemoryQueue
from broker.store_interfaces import Store
from shared.catalog import Catalog, Deployment, Routing
from shared.errors import QueueFull, Unavailable
from shared.events import Event, Kind
from shared.ids import uuid7
from shared.jobs import Ending, Job, Lane, Leg, Outcome
from tests.fakes.accounts import NotedAccounts
from tests.fakes.clock import FakeClock
from workers.attempt import Caller
from workers.outcomes import OutcomeWriter
from workers.pipeline import Pipeline, Seams, nothing_newer
from workers.upstream import Upstream

WORKER = "this-worker"


class Gate:
    """A step that can be held, and made to fail. `reached` is set once somebody waits in front of it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._failures = 0

    def hold(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def fail(self, times: int) -> None:
        """The server is away for the next `times` calls."""
        self._failures = times

    async def pass_through(self) -> None:
        if self._failures:
            self._failures -= 1
            raise Unavailable("the fake server is away")
        if not self._open.is_set():
            self.reached.set()
        await self._open.wait()


class NotedQueue(MemoryQueue):
    def __init__(self, journal: list[str], bound: int = 100) -> None:
        super().__init__(bound)
        self.journal = journal
        self.published: list[tuple[Job, float]] = []
        """With the delay."""
        self.outcomes_recorded: list[Outcome] = []
        self.endings_recorded: list[Ending] = []
        self.messages: list[tuple[Sequence[Outcome], Sequence[Ending]]] = []
        """What was recorded, message by message."""
        self.confirms = Gate()
        self.recording = Gate()
        self.full = False
        """Nothing more can be published, delayed or not."""
        self._confirming: set[asyncio.Future[None]] = set()

    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        self.journal.append("publish")
        self.published.append((job, delay))
        taken = super().publish(job, delay=delay)
        if self.full:
            taken = asyncio.get_running_loop().create_future()
            taken.set_exception(QueueFull("the fake lane is full"))
        confirm = asyncio.ensure_future(self._confirm(taken))
        self._confirming.add(confirm)
        confirm.add_done_callback(self._confirming.discard)
        return confirm

    def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> "asyncio.Future[None]":
        async def confirm() -> None:
            await self.recording.pass_through()
            await super(NotedQueue, self).record(outcomes, endings)
            self.journal.append("record")
            self.outcomes_recorded.extend(outcomes)
            self.endings_recorded.extend(endings)
            self.messages.append((outcomes, endings))

        return asyncio.ensure_future(confirm())

    def settled(self, provider: str, kind: Lane) -> None:
        self.journal.append("ack")
        super().settled(provider, kind)

    async def _confirm(self, taken: "asyncio.Future[None]") -> None:
        await self.confirms.pass_through()
        await taken
        self.journal.append("confirm")


class NotedLog(MemoryEventLog):
    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal
        self.emitting = Gate()

    async def emit(self, reply_to: str, events: Sequence[Event]) -> None:
        await self.emitting.pass_through()
        self.journal.extend(event.kind.name.lower() for event in events)
        await super().emit(reply_to, events)


class NotedLimiter(MemoryLimiter):
    def __init__(self, clock: FakeClock, journal: list[str]) -> None:
        super().__init__(clock)
        self.journal = journal
        self.answering = Gate()
        """After the server has decided about a `take`, before its answer arrives."""
        self.settling = Gate()

    async def take(self, lease: str, candidates: Sequence[Candidate], *, lease_ttl: float = 660.0) -> Grant | Refusal:
        answer = await super().take(lease, candidates, lease_ttl=lease_ttl)
        await self.answering.pass_through()
        return answer

    async def settle(self, grant: Grant, tokens: int | None) -> None:
        await self.settling.pass_through()
        await super().settle(grant, tokens)
        self.journal.append("settle")


class NotedConsumer:
    """Remembers the pauses that it was asked for."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.pauses: list[tuple[str, float]] = []
        self.paused_lanes: list[Lane | None] = []
        """Of each pause; None for the whole provider."""

    async def get(self) -> Delivery:
        return await self._consumer.get()

    async def add(self, providers: Sequence[str]) -> None:
        await self._consumer.add(providers)

    async def pause(self, provider: str, seconds: float, lane: Lane | None = None) -> None:
        self.pauses.append((provider, seconds))
        self.paused_lanes.append(lane)

    async def pause_lanes(self, lanes: Collection[str]) -> None:
        await self._consumer.pause_lanes(lanes)

    async def stop(self) -> None:
        await self._consumer.stop()


@dataclass
class World:
    """One worker's pipeline on fresh memory backends. `clock` is what it sees; sleeps are real."""

    clock: FakeClock
    queue: NotedQueue
    log: NotedLog
    limiter: NotedLimiter
    catalog: Catalog
    pipeline: Pipeline
    consumer: NotedConsumer
    journal: list[str] = field(default_factory=list)
    accounts: NotedAccounts = field(default_factory=NotedAccounts)

    def job(self, *legs: Leg, body: dict[str, Any] | None = None, **changes: Any) -> Job:
        """A job for `legs`, or for the first group of the catalog. It has 60 seconds."""
        first = self.catalog.deployments()[0].group
        route = legs or self.catalog.plan(first, rng=random.Random(7))
        request = {"model": first, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, **(body or {})}
        job = Job(
            id=uuid7(),
            endpoint="chat.completions",
            model=first,
            route=route,
            body=orjson.dumps(request),
            reply_to=self.log.reply_channel,
            accepted_at=self.clock.now(),
            deadline=self.clock.now() + 60,
            stream=bool(request.get("stream")),
        )
        return replace(job, **changes)

    async def deliver(self, job: Job) -> Delivery:
        """The job, in this worker's hands."""
        await self.queue.publish(job)
        delivery = await self.consumer.get()
        self.forget()
        return delivery

    async def redeliver(self, job: Job) -> Delivery:
        """The job after a worker that took it has left without settling it."""
        await self.queue.publish(job)
        async with self.queue.consume([job.provider], 1) as other:
            await other.get()
        delivery = await self.consumer.get()
        assert delivery.redelivered
        self.forget()
        return delivery

    def start(self, delivery: Delivery) -> "asyncio.Task[None]":
        """Run the job in a task, as a worker does."""
        return asyncio.create_task(self.pipeline.run(delivery, self.consumer))

    async def run(self, job: Job) -> None:
        """Publish the job and run it once, as far as one delivery goes."""
        await self.start(await self.deliver(job))

    async def run_to_the_end(self, job: Job, *, most: int = 10) -> list[Event]:
        """Publish the job and run it and its successors until its last event. Delay levels are real: keep them low."""
        await self.queue.publish(job)
        self.forget()
        for _ in range(most):
            async with asyncio.timeout(60):
                await self.start(await self.consumer.get())
            events = await self.events(job)
            if events and events[-1].last:
                return events
        raise AssertionError(f"no end after {most} deliveries: {self.journal}")

    async def events(self, job: Job) -> list[Event]:
        """What the client got."""
        return [event for event in await self.log.replay(job.id) if event.kind is not Kind.STARTED]

    async def bucket(self, deployment: str) -> BucketState:
        """The limiter's view of a deployment's bucket, now."""
        (state,) = await self.limiter.state([self.catalog.deployment(deployment).bucket])
        return state

    def forget(self) -> None:
        """Let the test begin here."""
        self.journal.clear()
        self.queue.published.clear()

    @property
    def successors(self) -> list[Job]:
        return [job for job, _ in self.queue.published]

    @property
    def endings(self) -> list[Ending]:
        return self.queue.endings_recorded

    @property
    def outcomes(self) -> list[Outcome]:
        return self.queue.outcomes_recorded


@asynccontextmanager
async def world(
    *deployments: Deployment,
    routing: Routing | None = None,
    bound: int = 100,
    store: Store | None = None,
    renew: Callable[[], Awaitable[None]] = nothing_newer,
    prompts: bool = False,
) -> AsyncIterator[World]:
    journal: list[str] = []
    # The queue drops expired jobs by the real time, so both clocks begin together.
    clock = FakeClock(time.time())
    catalog = Catalog(deployments, routing=routing)
    limiter = NotedLimiter(clock, journal)
    async with NotedQueue(journal, bound) as queue, NotedLog(journal) as log, Upstream() as upstream:
        accounts = NotedAccounts(journal)
        seams = Seams(queue, log, limiter, catalog, clock, store, accounts, renew)
        pipeline = Pipeline(seams, Caller(upstream, log, clock, WORKER), OutcomeWriter(queue), prompts=prompts)
        await log.announce(WORKER, 3600)
        async with queue.consume(catalog.providers(), 10) as consumer:
            noted = NotedConsumer(consumer)
            yield World(clock, queue, log, limiter, catalog, pipeline, noted, journal, accounts)


def deployment(id: str, url: str, model: str = "model", **fields: Any) -> Deployment:
    """A deployment of the group `chat` with room for 10 attempts and 100,000 tokens a minute."""
    settings: dict[str, Any] = {
        "group": "chat",
        "provider": "openai",
        "api_base": f"{url}/v1",
        "api_key": f"sk-{id}",
        "credential": f"credential-{id}",
        "bucket": f"bucket-{id}",
        "rpm": 1000.0,
        "tpm": 100_000.0,
        "max_parallel_requests": 10,
        **fields,
    }
    return Deployment(id=id, model=model, **settings)


def leg(*ids: str, provider: str = "openai", group: str = "chat", fallback: bool = False) -> Leg:
    return Leg(provider, group, ids, fallback)


async def settled() -> None:
    """Let everything that is ready, and what follows from it, have its turn."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until `condition` holds; the test's own time limit bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


def error_of(events: Sequence[Event]) -> str:
    """The code of the error that ended the job."""
    assert events[-1].kind is Kind.FAILED
    code: str = events[-1].meta["error"]["code"]
    return code


def started(job: Job, worker: str, attempt: int = 1, deployment: str = "a") -> Event:
    """The note that a worker leaves before a call."""
    meta = {"attempt": attempt, "deployment": deployment, "worker": worker, "at": job.accepted_at, "queue_wait": 0.5}
    return Event(job.id, 0, Kind.STARTED, meta=meta)
