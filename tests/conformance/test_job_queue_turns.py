"""Who is served when, and by whom: prefetch, lanes, providers, pauses. On every implementation."""

import asyncio
import time

import pytest

from broker.queues import rabbitmq_consumer
from shared.jobs import Lane
from tests.conformance.queues import (
    PATIENCE,
    World,
    here,
    job,
    nothing_comes,
    settle_all,
    take,
)


async def test_at_most_prefetch_deliveries_are_unsettled(world: World) -> None:
    for number in range(6):
        await world.queue.publish(job(lane=list(Lane)[number % 2]))

    async with world.queue.consume(["p"], 2) as consumer:
        first, _ = await take(consumer, 2)

        assert await nothing_comes(consumer)
        await first.ack()
        await take(consumer, 1)


async def test_interactive_goes_before_batch_eight_to_one(world: World) -> None:
    for kind in Lane:
        await asyncio.gather(*[world.queue.publish(job(lane=kind)) for _ in range(40)])

    async with world.queue.consume(["p"], 36) as consumer:
        await here(world)
        taken = [delivery.job.lane for delivery in await take(consumer, 36)]

    assert taken.count(Lane.BATCH) == 4


@pytest.mark.parametrize(("prefetch", "batch"), [(1, 1), (2, 1), (8, 7), (20, 17)])
async def test_batches_leave_an_eighth_of_the_prefetch_to_clients(world: World, prefetch: int, batch: int) -> None:
    await asyncio.gather(*[world.queue.publish(job(lane=Lane.BATCH)) for _ in range(prefetch)])

    async with world.queue.consume(["p"], prefetch) as consumer:
        taken = await take(consumer, batch)
        assert await nothing_comes(consumer)

        for _ in range(prefetch - batch):
            await world.queue.publish(job(lane=Lane.INTERACTIVE))
            [urgent] = await take(consumer, 1)
            assert urgent.job.lane is Lane.INTERACTIVE
        assert await nothing_comes(consumer)
        await taken[0].ack()
        if prefetch > batch:
            assert [delivery.job.lane for delivery in await take(consumer, 1)] == [Lane.BATCH]


async def test_clients_have_the_whole_prefetch(world: World) -> None:
    await asyncio.gather(*[world.queue.publish(job()) for _ in range(8)])

    async with world.queue.consume(["p"], 8) as consumer:
        assert len(await take(consumer, 8)) == 8


async def test_providers_take_turns(world: World) -> None:
    for provider in ("p", "q"):
        await asyncio.gather(*[world.queue.publish(job(provider=provider)) for _ in range(20)])

    async with world.queue.consume(["p", "q"], 20) as consumer:
        await here(world)
        taken = [delivery.job.provider for delivery in await take(consumer, 20)]

    assert taken.count("p") == 10


async def test_consumer_takes_only_from_its_lanes(world: World) -> None:
    await world.queue.publish(job("interactive"))
    await world.queue.publish(job("batch", lane=Lane.BATCH))
    await world.queue.publish(job("elsewhere", provider="q", lane=Lane.BATCH))

    async with world.queue.consume(["p"], 9, lanes=[Lane.BATCH]) as consumer:
        assert await settle_all(consumer, 1) == ["batch"]
        assert await nothing_comes(consumer)


@pytest.mark.parametrize("longest", [300.0, 0.0], ids=["kept", "given back"])
async def test_paused_provider_waits_while_others_go_on(
    world: World, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What RabbitMQ has sent stays here for a short pause, and goes back for a long one."""
    monkeypatch.setitem(rabbitmq_consumer.KEEP_PREFETCHED, Lane.INTERACTIVE, longest)
    async with world.queue.consume(["p", "q"], 2) as consumer:
        await consumer.pause("p", 60.0)
        await world.queue.publish(job("p"))
        await world.queue.publish(job("q", provider="q"))

        assert await settle_all(consumer, 1) == ["q"]
        await consumer.pause("p", 0)
        assert await settle_all(consumer, 1) == ["p"]


async def test_pause_ends_by_itself(world: World) -> None:
    async with world.queue.consume(["p"], 2) as consumer:
        await consumer.pause("p", 300.0)
        began = time.monotonic()
        await consumer.pause("p", 1.2)
        await world.queue.publish(job("p"))

        assert await settle_all(consumer, 1) == ["p"]
        assert time.monotonic() - began >= 1.2


async def test_paused_consumer_leaves_prefetched_jobs_to_others(world: World) -> None:
    async with world.queue.consume(["p"], 4) as pausing:
        await asyncio.gather(*[world.queue.publish(job(str(n))) for n in range(4)])
        [first] = await take(pausing, 1)

        await pausing.pause("p", 300.0)

        async with world.queue.consume(["p"], 4) as other:
            assert await settle_all(other, 3) == ["1", "2", "3"]
        await first.ack()


async def test_a_lane_that_an_operator_pauses_waits_while_the_others_go_on(world: World) -> None:
    async with world.queue.consume(["p", "q"], 8) as consumer:
        await consumer.pause_lanes(["p.batch", "elsewhere.batch"])
        await world.queue.publish(job("paused", lane=Lane.BATCH))
        await world.queue.publish(job("same provider"))
        await world.queue.publish(job("same lane", provider="q", lane=Lane.BATCH))

        assert sorted(await settle_all(consumer, 2)) == ["same lane", "same provider"]
        assert await nothing_comes(consumer)
        await consumer.pause_lanes(["p.batch"])
        assert await nothing_comes(consumer)
        await consumer.pause_lanes([])
        assert await settle_all(consumer, 1) == ["paused"]


@pytest.mark.parametrize("kind", list(Lane))
async def test_a_paused_lanes_prefetched_jobs_go_to_others_and_what_was_handed_out_goes_on(
    world: World, kind: Lane
) -> None:
    async with world.queue.consume(["p"], 8) as pausing:
        await asyncio.gather(*[world.queue.publish(job(str(n), lane=kind)) for n in range(4)])
        [first] = await take(pausing, 1)

        await pausing.pause_lanes([f"p.{kind.value}"])

        async with world.queue.consume(["p"], 8) as other:
            assert sorted(await settle_all(other, 3)) == ["1", "2", "3"]
        await first.ack()


async def test_a_waiting_consumer_gets_what_comes_when_its_lane_goes_on(world: World) -> None:
    async with world.queue.consume(["p"], 2) as consumer:
        await consumer.pause_lanes(["p.interactive"])
        waiting = asyncio.create_task(consumer.get())
        await world.queue.publish(job("p"))

        await consumer.pause_lanes([])

        async with asyncio.timeout(PATIENCE):
            assert (await waiting).job.id == "p"


async def test_a_paused_lane_of_a_paused_provider_goes_on_when_both_pauses_have_ended(world: World) -> None:
    async with world.queue.consume(["p"], 4) as consumer:
        await consumer.pause_lanes(["p.interactive"])
        await consumer.pause("p", 30.0)
        await asyncio.gather(*[world.queue.publish(job(str(n), lane=kind)) for n, kind in enumerate(Lane)])

        await consumer.pause_lanes([])
        assert await nothing_comes(consumer)
        await consumer.pause_lanes(["p.interactive"])
        await consumer.pause("p", 0)
        assert await settle_all(consumer, 1) == ["1"]
        assert await nothing_comes(consumer)
        await consumer.pause_lanes([])
        assert await settle_all(consumer, 1) == ["0"]


async def test_stopped_consumer_takes_nothing_and_can_still_settle(world: World) -> None:
    async with world.queue.consume(["p"], 2) as stopping:
        await asyncio.gather(*[world.queue.publish(job(str(n))) for n in range(3)])
        [first] = await take(stopping, 1)

        await stopping.stop()

        assert await nothing_comes(stopping)
        async with world.queue.consume(["p"], 3) as other:
            assert await settle_all(other, 2) == ["1", "2"]
            await first.ack()
    async with world.queue.consume(["p"], 3) as other:
        assert await nothing_comes(other)


async def test_waiting_consumer_can_be_cancelled_and_asked_again(world: World) -> None:
    async with world.queue.consume(["p"], 2) as consumer:
        waiting = asyncio.create_task(consumer.get())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

        await world.queue.publish(job("p"))

        assert await settle_all(consumer, 1) == ["p"]
