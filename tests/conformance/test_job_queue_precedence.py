"""Whose interactive jobs go first: those of the highest precedence, whatever stands before them. On every
implementation."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from broker.interfaces import Consumer, JobQueue
from shared.errors import QueueFull
from shared.jobs import FIRST, Job, Lane
from tests.conformance.queues import PATIENCE, World, here, job, nothing_comes, settle_all, take


def ranked(precedence: int, name: str = "") -> Job:
    return replace(job(name), precedence=precedence)


async def publish(queue: JobQueue, jobs: Sequence[Job]) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(queue.publish, jobs))


async def precedences(consumer: Consumer, count: int) -> list[int]:
    return [delivery.job.precedence for delivery in await take(consumer, count)]


async def test_the_highest_precedence_goes_first_and_within_each_what_came_first(world: World) -> None:
    await publish(
        world.queue, [ranked(precedence, f"{precedence}{n}") for n in "ab" for precedence in range(FIRST + 1)]
    )

    async with world.queue.consume(["p"], 8) as consumer:
        await here(world)

        assert await settle_all(consumer, 8) == ["3a", "3b", "2a", "2b", "1a", "1b", "0a", "0b"]


async def test_batch_jobs_keep_their_order_whatever_their_precedence(world: World) -> None:
    for number, precedence in enumerate([0, 3, 1, 2]):
        await world.queue.publish(replace(job(str(number), lane=Lane.BATCH), precedence=precedence))

    async with world.queue.consume(["p"], 8) as consumer:
        await here(world)

        assert await settle_all(consumer, 4) == ["0", "1", "2", "3"]


async def test_a_flood_leaves_the_last_sixteenth_to_first_jobs_which_need_not_wait_for_it(world: World) -> None:
    await publish(world.queue, [ranked(2) for _ in range(100)])

    async with world.queue.consume(["p"], 64) as consumer:
        assert await precedences(consumer, 60) == [2] * 60
        assert await nothing_comes(consumer)

        await publish(world.queue, [ranked(FIRST) for _ in range(5)])

        assert await precedences(consumer, 4) == [FIRST] * 4
        assert await nothing_comes(consumer)


async def test_batches_clients_and_first_jobs_each_find_their_share(world: World) -> None:
    await publish(world.queue, [job(lane=Lane.BATCH) for _ in range(64)])

    async with world.queue.consume(["p"], 64) as consumer:
        await take(consumer, 56)
        assert await nothing_comes(consumer)

        await publish(world.queue, [ranked(0) for _ in range(8)])
        assert await precedences(consumer, 4) == [0] * 4
        assert await nothing_comes(consumer)

        await publish(world.queue, [ranked(FIRST) for _ in range(4)])
        assert await precedences(consumer, 4) == [FIRST] * 4


async def test_a_paused_batch_lane_waits_while_clients_go_on(world: World) -> None:
    async with world.queue.consume(["p"], 8) as consumer:
        await consumer.pause("p", 30.0, Lane.BATCH)
        await world.queue.publish(job("batch", lane=Lane.BATCH))
        await world.queue.publish(ranked(0, "client"))

        assert await settle_all(consumer, 1) == ["client"]
        assert await nothing_comes(consumer)
        await consumer.pause("p", 0, Lane.BATCH)
        assert await settle_all(consumer, 1) == ["batch"]


async def test_a_paused_interactive_lane_lets_first_jobs_pass(world: World) -> None:
    async with world.queue.consume(["p"], 8) as consumer:
        await consumer.pause("p", 30.0, Lane.INTERACTIVE)
        await world.queue.publish(ranked(2, "second"))
        assert await nothing_comes(consumer)

        await world.queue.publish(ranked(FIRST, "first"))
        assert await settle_all(consumer, 1) == ["first"]

        await world.queue.publish(job("batch", lane=Lane.BATCH))
        assert await settle_all(consumer, 1) == ["batch"]
        await consumer.pause("p", 0, Lane.INTERACTIVE)
        assert await settle_all(consumer, 1) == ["second"]


@pytest.mark.parametrize("ended_first", [None, Lane.BATCH])
async def test_a_lane_goes_on_when_its_own_pause_and_the_providers_have_ended(
    world: World, ended_first: Lane | None
) -> None:
    ended_last = Lane.BATCH if ended_first is None else None
    async with world.queue.consume(["p"], 8) as consumer:
        await consumer.pause("p", 200.0)
        await consumer.pause("p", 200.0, Lane.BATCH)
        await world.queue.publish(job("batch", lane=Lane.BATCH))

        await consumer.pause("p", 0, ended_first)
        assert await nothing_comes(consumer)
        await consumer.pause("p", 0, ended_last)
        assert await settle_all(consumer, 1) == ["batch"]


async def test_a_full_lane_takes_an_eighth_more_of_first_jobs(world: World) -> None:
    async with world.another(16) as queue:
        await queue.declare(["p", "q"])
        await publish(queue, [ranked(0) for _ in range(16)])
        with pytest.raises(QueueFull):
            await queue.publish(ranked(0))

        await publish(queue, [ranked(FIRST) for _ in range(2)])

        with pytest.raises(QueueFull):
            await queue.publish(ranked(FIRST))


async def test_first_jobs_have_all_other_places_as_well(world: World) -> None:
    async with world.another(16) as queue:
        await queue.declare(["p", "q"])

        await publish(queue, [ranked(FIRST, str(number)) for number in range(18)])

        with pytest.raises(QueueFull):
            await queue.publish(ranked(FIRST))
        async with queue.consume(["p"], 4) as consumer:
            assert sorted(await settle_all(consumer, 18), key=int) == [str(number) for number in range(18)]


async def test_a_first_job_that_nobody_settled_comes_again(world: World) -> None:
    await world.queue.publish(ranked(FIRST, "first"))
    async with world.queue.consume(["p"], 1) as leaving:
        await take(leaving, 1)

    async with world.queue.consume(["p"], 1) as other:
        [delivery] = await take(other, 1)

    assert (delivery.job.id, delivery.redelivered) == ("first", True)
