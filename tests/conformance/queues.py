"""A job queue of each kind, and what its tests do with one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiormq

from broker import topology
from broker.interfaces import Consumer, Delivery, JobQueue, LaneStats
from broker.queues.rabbitmq_topology import Topology
from shared.ids import uuid7
from shared.jobs import Job, Lane, Leg, Outcome, Status, Usage

PATIENCE = 60.0  # seconds; far more than anything here takes
BOUND = 2_000


@dataclass(frozen=True, slots=True)
class World:
    """One implementation, and how to look behind it."""

    queue: JobQueue
    another: Callable[[int], AbstractAsyncContextManager[JobQueue]]
    """A fresh queue with another bound."""
    dead: Callable[[str], Awaitable[list[tuple[Job, str]]]]
    """The dead letters of a provider."""


@asynccontextmanager
async def clean(url: str, namespace: str) -> AsyncIterator[None]:
    """Leaves no queue behind: each costs the server memory and a log."""
    yield
    async with aiormq.connect(url) as connection:
        await Topology(namespace, 1).delete(connection, ["p", "q"])


async def rabbit_dead_letters(url: str, namespace: str, provider: str) -> list[tuple[Job, str]]:
    found = []
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        while (message := await channel.basic_get(topology.dead_queue(provider, namespace), no_ack=True)).body:
            headers: Any = message.header.properties.headers
            found.append((Job.from_wire(headers["headrace"].encode(), message.body), headers["x-headrace-reason"]))
    return found


def job(name: str = "", *, provider: str = "p", lane: Lane = Lane.INTERACTIVE, deadline: float = 600.0) -> Job:
    now = time.time()
    return Job(
        id=name or uuid7(),
        endpoint="chat.completions",
        model="fast",
        route=(Leg(provider, "fast", ("d1", "d2")),),
        body=b'{"model":"fast","n":"\xc3\xa9"}',
        reply_to="api-1",
        accepted_at=now,
        deadline=now + deadline,
        lane=lane,
        tags=("a",),
    )


def outcome(name: str) -> Outcome:
    return Outcome(name, 1, time.time(), "chat.completions", "fast", "fast", "d1", "p", "m", Status.SUCCESS, Usage(3))


async def here(world: World) -> None:
    """Wait until a server has sent its consumer all that it may hold: before that, what arrives first goes first."""
    async with asyncio.timeout(PATIENCE):
        while any(lane.depth for lane in await world.queue.stats() if lane.local):
            await asyncio.sleep(0.01)


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        return [await consumer.get() for _ in range(count)]


async def settle_all(consumer: Consumer, count: int) -> list[str]:
    """Ids of the next jobs, each acked before the next is taken."""
    ids = []
    for _ in range(count):
        [delivery] = await take(consumer, 1)
        ids.append(delivery.job.id)
        await delivery.ack()
    return ids


async def nothing_comes(consumer: Consumer, within: float = 0.3) -> bool:
    try:
        await asyncio.wait_for(consumer.get(), within)
    except TimeoutError:
        return True
    return False


async def lane(queue: JobQueue, provider: str, kind: Lane) -> LaneStats:
    return next(stats for stats in await queue.stats() if (stats.provider, stats.lane) == (provider, kind))


async def until(queue: JobQueue, kind: Lane, holds: Callable[[LaneStats], bool]) -> LaneStats:
    async with asyncio.timeout(PATIENCE):
        while not holds(stats := await lane(queue, "p", kind)):
            await asyncio.sleep(0.02)
    return stats
