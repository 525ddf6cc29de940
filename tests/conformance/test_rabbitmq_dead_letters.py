"""Dead letters that no worker wrote: those of the server itself, and what else lies in a dead-letter queue."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiormq
import pytest
from aiormq.abc import AbstractChannel

from broker import topology
from broker.queues import rabbitmq
from broker.queues.rabbitmq import RabbitQueue
from broker.queues.rabbitmq_dead import RabbitDeadLetter
from broker.queues.rabbitmq_topology import DELIVERY_LIMIT
from shared.jobs import Job, Lane
from tests.conformance.queues import BOUND, PATIENCE, clean, job


@pytest.fixture
async def queue(rabbitmq_url: str, namespace: str) -> AsyncIterator[RabbitQueue]:
    async with (
        clean(rabbitmq_url, namespace),
        rabbitmq.connect(rabbitmq_url, bound=BOUND, namespace=namespace) as queue,
    ):
        await queue.declare(["p"])
        yield queue


@asynccontextmanager
async def direct(url: str) -> AsyncIterator[AbstractChannel]:
    async with aiormq.connect(url) as connection:
        yield await connection.channel()


async def next_dead(queue: RabbitQueue) -> RabbitDeadLetter:
    async with queue.dead_letters(1) as letters, asyncio.timeout(PATIENCE):
        dead = await anext(letters)
        await dead.ack()
    return dead


@pytest.mark.parametrize("delay", [0.0, 0.1], ids=["published at once", "delayed before"])
async def test_a_job_delivered_too_often_is_abandoned(
    queue: RabbitQueue, rabbitmq_url: str, namespace: str, delay: float
) -> None:
    sent = replace(job("poison", lane=Lane.BATCH), durable=True)
    before = time.time()
    await queue.publish(sent, delay=delay)
    lane = topology.lane_queue("p", Lane.BATCH, namespace)
    async with direct(rabbitmq_url) as channel, asyncio.timeout(PATIENCE):
        deliveries = 0
        while deliveries <= DELIVERY_LIMIT:
            message = await channel.basic_get(lane)
            if message.delivery_tag is None:
                await asyncio.sleep(0.01)
                continue
            deliveries += 1
            await channel.basic_nack(message.delivery_tag, requeue=True)

    dead = await next_dead(queue)

    letter = dead.letter
    assert dead.abandoned
    assert (letter.job_id, letter.provider) == ("poison", "p")
    assert letter.reason == "delivered over 20 times, and no worker settled it"
    assert replace(Job.from_wire(letter.headers, letter.body), published_at=0.0) == sent
    assert int(before) <= letter.died_at <= time.time()


async def test_a_message_that_names_no_job_is_a_letter_too(
    queue: RabbitQueue, rabbitmq_url: str, namespace: str
) -> None:
    async with direct(rabbitmq_url) as channel:
        await channel.basic_publish(b"what is this", routing_key=topology.dead_queue("p", namespace))

    dead = await next_dead(queue)

    assert dead.abandoned
    assert dead.letter.job_id.startswith("unreadable-")
    assert (dead.letter.provider, dead.letter.headers, dead.letter.body) == ("p", b"", b"what is this")
    assert dead.letter.reason == "put here by hand"
    assert time.time() - 60 < dead.letter.died_at <= time.time()


async def test_the_same_unreadable_message_has_the_same_name(queue: RabbitQueue) -> None:
    names = []
    for body in (b"1", b"1", b"2"):
        await queue.bury("p", b"\xff", body, "unreadable: ValueError()")
        names.append((await next_dead(queue)).letter.job_id)

    assert names[0] == names[1] != names[2]


async def test_a_job_that_no_worker_could_read_keeps_its_id_and_is_abandoned(queue: RabbitQueue) -> None:
    await queue.bury("p", b'{"id":"of-a-newer-version"}', b"{}", "unreadable: KeyError('v')")

    dead = await next_dead(queue)

    assert (dead.letter.job_id, dead.letter.reason) == ("of-a-newer-version", "unreadable: KeyError('v')")
    assert dead.abandoned


@pytest.mark.parametrize("job_id", ['"a\\u0000b"', '"a\\nb"', '""', f'"{"x" * 101}"', "7", "null"])
async def test_what_no_database_takes_as_a_name_or_a_reason_is_replaced(queue: RabbitQueue, job_id: str) -> None:
    await queue.bury("p", b'{"id":%s}' % job_id.encode(), b"{}", "why\n\x00" + "y" * 600)

    dead = await next_dead(queue)

    assert dead.letter.job_id.startswith("unreadable-")
    assert dead.letter.reason == "why??" + "y" * 495
