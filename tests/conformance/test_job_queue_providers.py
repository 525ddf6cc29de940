"""A consumer that takes jobs of more providers while it runs: models are added to a living broker."""

import asyncio

import pytest

from shared.jobs import Lane
from tests.conformance.queues import PATIENCE, World, job, lane, nothing_comes, settle_all, take


async def test_jobs_of_a_provider_that_was_added_are_taken(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.add(["q"])
        await world.queue.publish(job("interactive", provider="q"))
        await world.queue.publish(job("batch", provider="q", lane=Lane.BATCH))

        assert sorted(await settle_all(consumer, 2)) == ["batch", "interactive"]


async def test_jobs_that_waited_before_their_provider_was_added_are_taken(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await world.queue.publish(job("early", provider="q"))
        waiting = asyncio.create_task(take(consumer, 1))
        await asyncio.sleep(0)

        await consumer.add(["q"])

        assert [each.job.id for each in await waiting] == ["early"]


async def test_every_getter_hears_of_the_jobs_that_waited(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        for name in ("1", "2", "3"):
            await world.queue.publish(job(name, provider="q"))
        waiting = [asyncio.create_task(take(consumer, 1)) for _ in range(3)]
        await asyncio.sleep(0)

        await consumer.add(["q"])

        assert sorted(delivery.job.id for got in await asyncio.gather(*waiting) for delivery in got) == ["1", "2", "3"]


async def test_a_provider_that_nobody_declared_may_be_added(world: World) -> None:
    async with world.another(100) as queue, queue.consume(["p"], 10) as consumer:
        await consumer.add(["q"])
        await queue.publish(job("1", provider="q"))

        assert await settle_all(consumer, 1) == ["1"]


async def test_adding_again_changes_nothing(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.add(["q", "q"])
        await consumer.add(["p", "q"])
        await world.queue.publish(job("1", provider="q"))
        await world.queue.publish(job("2"))

        assert sorted(await settle_all(consumer, 2)) == ["1", "2"]
        assert await nothing_comes(consumer)


async def test_an_added_provider_may_be_paused(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.add(["q"])
        await consumer.pause("q", 60)
        await world.queue.publish(job("1", provider="q"))

        assert await nothing_comes(consumer)

        await consumer.pause("q", 0)
        assert await settle_all(consumer, 1) == ["1"]


async def test_a_lane_that_an_operator_paused_stays_so_when_its_provider_is_added(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.add(["q"])
        await consumer.pause_lanes(["q.interactive"])
        await world.queue.publish(job("1", provider="q"))

        assert await nothing_comes(consumer)

        await consumer.pause_lanes([])
        assert await settle_all(consumer, 1) == ["1"]


async def test_unsettled_jobs_of_an_added_provider_come_back_when_the_consumer_leaves(world: World) -> None:
    async with world.queue.consume(["p"], 10) as leaving:
        await leaving.add(["q"])
        await world.queue.publish(job("1", provider="q"))
        await take(leaving, 1)

    async with world.queue.consume(["q"], 10) as staying:
        [delivery] = await take(staying, 1)

        assert (delivery.job.id, delivery.redelivered) == ("1", True)


async def test_consumers_of_an_added_provider_are_counted_while_they_are_there(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.add(["q"])
        assert (await lane(world.queue, "q", Lane.INTERACTIVE)).consumers == 1

    async def gone() -> None:
        while (await lane(world.queue, "q", Lane.INTERACTIVE)).consumers:
            await asyncio.sleep(0.02)

    await asyncio.wait_for(gone(), PATIENCE)


@pytest.mark.parametrize("kind", [Lane.INTERACTIVE, Lane.BATCH])
async def test_a_consumer_of_one_kind_of_lane_takes_no_other_of_an_added_provider(world: World, kind: Lane) -> None:
    async with world.queue.consume(["p"], 10, [kind]) as consumer:
        await consumer.add(["q"])
        for each in Lane:
            await world.queue.publish(job(each.value, provider="q", lane=each))

        assert await settle_all(consumer, 1) == [kind.value]
        assert await nothing_comes(consumer)


async def test_a_stopped_consumer_takes_nothing_of_what_is_added(world: World) -> None:
    async with world.queue.consume(["p"], 10) as consumer:
        await consumer.stop()

        await consumer.add(["q"])
        await world.queue.publish(job("1", provider="q"))

        assert await nothing_comes(consumer)
