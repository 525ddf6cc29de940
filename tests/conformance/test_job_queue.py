"""What every job queue promises, on every implementation."""

import asyncio
import gc
import time
from dataclasses import replace

import pytest

from shared.errors import QueueFull, Unavailable
from shared.jobs import Lane, Usage
from tests.conformance.queues import (
    BOUND,
    PATIENCE,
    World,
    job,
    lane,
    nothing_comes,
    outcome,
    settle_all,
    take,
    until,
)


@pytest.mark.parametrize("kind", list(Lane))
async def test_job_arrives_as_it_was_sent(world: World, kind: Lane) -> None:
    sent = job(lane=kind)
    before = time.time()

    await world.queue.publish(sent)

    async with world.queue.consume(["p"], 1) as consumer:
        [delivery] = await take(consumer, 1)
        assert replace(delivery.job, published_at=0.0) == sent
        assert before <= delivery.job.published_at <= time.time()
        assert not delivery.redelivered


@pytest.mark.parametrize("kind", list(Lane))
async def test_lane_keeps_its_order(world: World, kind: Lane) -> None:
    sent = [job(str(n), lane=kind) for n in range(50)]

    await asyncio.gather(*[world.queue.publish(each) for each in sent])

    async with world.queue.consume(["p"], 4) as consumer:
        assert await settle_all(consumer, 50) == [each.id for each in sent]


@pytest.mark.parametrize("kind", list(Lane))
async def test_unsettled_job_comes_back_when_its_consumer_leaves(world: World, kind: Lane) -> None:
    await world.queue.publish(job("first", lane=kind))
    await world.queue.publish(job("second", lane=kind))

    async with world.queue.consume(["p"], 1) as consumer:
        [abandoned] = await take(consumer, 1)

    async with world.queue.consume(["p"], 3) as consumer:
        again = await take(consumer, 2)
        assert [delivery.job.id for delivery in again] == ["first", "second"]
        assert again[0].redelivered
        await abandoned.ack()
        await again[0].ack()
        await again[1].ack()
    assert (await until(world.queue, kind, lambda stats: stats.depth == 0)).depth == 0


async def test_acked_job_does_not_come_back(world: World) -> None:
    await world.queue.publish(job())
    async with world.queue.consume(["p"], 1) as consumer:
        await settle_all(consumer, 1)

    async with world.queue.consume(["p"], 1) as consumer:
        assert await nothing_comes(consumer)


async def test_settling_twice_is_an_error(world: World) -> None:
    await world.queue.publish(job())

    async with world.queue.consume(["p"], 1) as consumer:
        [delivery] = await take(consumer, 1)
        await delivery.ack()

        with pytest.raises(RuntimeError, match="settled already"):
            await delivery.ack()


@pytest.mark.parametrize("kind", list(Lane))
async def test_full_lane_refuses_and_says_when_to_come_back(world: World, kind: Lane) -> None:
    async with world.another(5) as queue:
        await queue.declare(["p", "q"])
        accepted = 0

        with pytest.raises(QueueFull) as refusal:
            while accepted < 50:
                await queue.publish(job(lane=kind))
                accepted += 1

        # A quorum queue overshoots by a few: its members learn of the bound late.
        assert 5 <= accepted <= (5 if kind is Lane.INTERACTIVE else 10)
        assert refusal.value.retry_after is not None
        assert 1 <= refusal.value.retry_after <= 3600
        await queue.publish(job(lane=kind), delay=100.0)


async def test_refused_publish_that_nobody_awaits_is_quiet(world: World) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with world.another(1) as queue:
        await queue.declare(["p", "q"])

        await asyncio.wait([queue.publish(job()) for _ in range(10)], timeout=PATIENCE)
        gc.collect()

    assert complaints == []


async def test_job_for_a_lane_that_does_not_exist_is_unavailable(world: World) -> None:
    with pytest.raises(Unavailable):
        await world.queue.publish(job(provider="nobody"))


async def test_thousand_publishes_are_on_their_way_at_once(world: World) -> None:
    futures = [world.queue.publish(job(str(n))) for n in range(1000)]

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*futures)

    async with world.queue.consume(["p"], 100) as consumer:
        assert await settle_all(consumer, 1000) == [str(n) for n in range(1000)]


async def test_large_body_travels_whole(world: World) -> None:
    sent = replace(job(), body=b'{"a":"' + b"x" * 1_000_000 + b'"}')

    await world.queue.publish(sent)

    async with world.queue.consume(["p"], 1) as consumer:
        [delivery] = await take(consumer, 1)
        assert delivery.job.body == sent.body


@pytest.mark.parametrize("kind", list(Lane))
async def test_delayed_job_comes_late_and_never_early(world: World, kind: Lane) -> None:
    delays = {"late": 0.9, "soon": 0.1, "now": 0.0}
    start = time.monotonic()
    await asyncio.gather(*(world.queue.publish(job(name, lane=kind), delay=delay) for name, delay in delays.items()))

    came = {}
    async with world.queue.consume(["p"], 1) as consumer:
        for _ in delays:
            [name] = await settle_all(consumer, 1)
            came[name] = time.monotonic() - start

    assert list(came) == ["now", "soon", "late"]
    assert all(came[name] >= delay for name, delay in delays.items()), came


async def test_request_past_its_deadline_leaves_by_itself(world: World) -> None:
    await world.queue.publish(job("dead", deadline=0.1))
    await world.queue.publish(job("alive"))

    await until(world.queue, Lane.INTERACTIVE, lambda stats: stats.depth == 1)

    async with world.queue.consume(["p"], 1) as consumer:
        assert await settle_all(consumer, 1) == ["alive"]
    assert await world.dead("p") == []


@pytest.mark.parametrize("kind", list(Lane))
async def test_dead_job_is_kept_with_its_reason(world: World, kind: Lane) -> None:
    sent = job(lane=kind)
    await world.queue.publish(sent)

    async with world.queue.consume(["p"], 1) as consumer:
        [delivery] = await take(consumer, 1)
        await delivery.dead("crashed its worker 3 times")

        assert await world.dead("p") == [(delivery.job, "crashed its worker 3 times")]
        assert await nothing_comes(consumer)


async def test_outcomes_come_in_the_batches_that_were_recorded(world: World) -> None:
    await world.queue.record([outcome("a"), outcome("b")])
    await world.queue.record([outcome("c")])

    async with world.queue.outcomes(2) as batches, asyncio.timeout(PATIENCE):
        first, second = [await anext(batches), await anext(batches)]

    assert [[each.job_id for each in batch.outcomes] for batch in (first, second)] == [["a", "b"], ["c"]]
    assert first.outcomes[0].usage == Usage(3)


async def test_unacked_outcomes_come_again(world: World) -> None:
    await asyncio.gather(*[world.queue.record([outcome(name)]) for name in "abc"])
    async with world.queue.outcomes(3) as batches, asyncio.timeout(PATIENCE):
        await (await anext(batches)).ack()
        await anext(batches)

    async with world.queue.outcomes(3) as batches, asyncio.timeout(PATIENCE):
        again = [await anext(batches), await anext(batches)]

    assert [batch.outcomes[0].job_id for batch in again] == ["b", "c"]


async def test_recorder_holds_at_most_prefetch_batches(world: World) -> None:
    await asyncio.gather(*[world.queue.record([outcome(name)]) for name in "abc"])

    async with world.queue.outcomes(2) as batches, asyncio.timeout(PATIENCE):
        first = await anext(batches)
        await anext(batches)
        third = asyncio.ensure_future(anext(batches))
        done, _ = await asyncio.wait([third], timeout=0.2)
        assert not done
        await first.ack()
        assert (await third).outcomes[0].job_id == "c"


async def test_stats_tell_depth_consumers_and_what_is_in_flight(world: World) -> None:
    await asyncio.gather(*[world.queue.publish(job()) for _ in range(6)])

    waiting = await until(world.queue, Lane.INTERACTIVE, lambda stats: stats.depth == 6)
    async with world.queue.consume(["p"], 2) as consumer:
        one, _ = await take(consumer, 2)
        serving = await until(
            world.queue,
            Lane.INTERACTIVE,
            lambda stats: stats.depth < 6 == stats.depth + stats.in_flight and stats.consumers == 1,
        )
        await one.ack()
        drained = await lane(world.queue, "p", Lane.INTERACTIVE)

    assert (waiting.consumers, waiting.in_flight, waiting.bound) == (0, 0, BOUND)
    assert serving.in_flight >= 2
    assert drained.drain_rate > 0


async def test_stats_can_be_asked_of_some_lanes(world: World) -> None:
    await world.queue.publish(job(provider="q", lane=Lane.BATCH))

    async with asyncio.timeout(PATIENCE):
        while not (found := await world.queue.stats(["q.batch", "unknown.batch"])) or not found[0].depth:
            await asyncio.sleep(0.01)

    assert [(each.provider, each.lane, each.depth) for each in found] == [("q", Lane.BATCH, 1)]
    assert len(await world.queue.stats()) == 4


async def test_ping_answers(world: World) -> None:
    async with asyncio.timeout(PATIENCE):
        await world.queue.ping()


async def test_declaring_again_changes_nothing(world: World) -> None:
    await world.queue.publish(job("kept"))

    await world.queue.declare(["p", "q"])

    async with world.queue.consume(["p"], 1) as consumer:
        assert await settle_all(consumer, 1) == ["kept"]
