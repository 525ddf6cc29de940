"""What every job queue promises, on every implementation."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiormq
import pytest

from broker import topology
from broker.interfaces import Consumer, Delivery, JobQueue, LaneStats
from broker.queues import memory, rabbitmq
from broker.queues.rabbitmq_topology import Topology
from shared.errors import QueueFull, Unavailable
from shared.ids import uuid7
from shared.jobs import Job, Lane, Leg, Outcome, Status, Usage

PATIENCE = 20.0  # seconds; far more than anything here takes
BOUND = 2_000


@dataclass(frozen=True, slots=True)
class World:
    """One implementation, and how to look behind it."""

    queue: JobQueue
    another: Callable[[int], AbstractAsyncContextManager[JobQueue]]
    """A fresh queue with another bound."""
    dead: Callable[[str], Awaitable[list[tuple[Job, str]]]]
    """The dead letters of a provider."""


@pytest.fixture(params=["memory", "rabbitmq"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory.connect("memory://", bound=BOUND) as in_memory:
            await in_memory.declare(["p", "q"])

            async def dead_letters(provider: str) -> list[tuple[Job, str]]:
                return in_memory.dead_letters(provider)

            yield World(in_memory, lambda bound: memory.connect("memory://", bound=bound), dead_letters)
        return
    url, namespace = request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("namespace")
    async with clean(url, namespace), rabbitmq.connect(url, bound=BOUND, namespace=namespace) as queue:
        await queue.declare(["p", "q"])
        other = f"{namespace}x"

        @asynccontextmanager
        async def another(bound: int) -> AsyncIterator[JobQueue]:
            async with clean(url, other), rabbitmq.connect(url, bound=bound, namespace=other) as queue:
                yield queue

        yield World(queue, another, lambda provider: rabbit_dead_letters(url, namespace, provider))


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

    async with world.queue.consume(["p"], 2) as consumer:
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
    start = time.monotonic()
    await world.queue.publish(job("late", lane=kind), delay=0.4)
    await world.queue.publish(job("soon", lane=kind), delay=0.1)
    await world.queue.publish(job("now", lane=kind))

    async with world.queue.consume(["p"], 1) as consumer:
        assert await settle_all(consumer, 3) == ["now", "soon", "late"]

    assert 0.5 <= time.monotonic() - start < 5.0


async def test_request_past_its_deadline_leaves_by_itself(world: World) -> None:
    await world.queue.publish(job("dead", deadline=0.1))
    await world.queue.publish(job("alive"))

    await until(world.queue, Lane.INTERACTIVE, lambda stats: stats.depth == 1)

    async with world.queue.consume(["p"], 1) as consumer:
        assert await settle_all(consumer, 1) == ["alive"]
    assert await world.dead("p") == []


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
        taken = [delivery.job.lane for delivery in await take(consumer, 36)]

    assert 3 <= taken.count(Lane.BATCH) <= 8  # 4, but jobs that arrive here first may go first


async def test_batch_has_the_whole_prefetch_while_nothing_else_waits(world: World) -> None:
    await asyncio.gather(*[world.queue.publish(job(lane=Lane.BATCH)) for _ in range(8)])

    async with world.queue.consume(["p"], 8) as consumer:
        assert len(await take(consumer, 8)) == 8


async def test_providers_take_turns(world: World) -> None:
    for provider in ("p", "q"):
        await asyncio.gather(*[world.queue.publish(job(provider=provider)) for _ in range(20)])

    async with world.queue.consume(["p", "q"], 20) as consumer:
        taken = [delivery.job.provider for delivery in await take(consumer, 20)]

    assert 7 <= taken.count("p") <= 13  # 10, but jobs that arrive here first may go first


async def test_consumer_takes_only_from_its_lanes(world: World) -> None:
    await world.queue.publish(job("interactive"))
    await world.queue.publish(job("batch", lane=Lane.BATCH))
    await world.queue.publish(job("elsewhere", provider="q", lane=Lane.BATCH))

    async with world.queue.consume(["p"], 9, lanes=[Lane.BATCH]) as consumer:
        assert await settle_all(consumer, 1) == ["batch"]
        assert await nothing_comes(consumer)


@pytest.mark.parametrize("seconds", [0.9, 30.0], ids=["short", "long"])
async def test_paused_provider_waits_while_others_go_on(world: World, seconds: float) -> None:
    async with world.queue.consume(["p", "q"], 2) as consumer:
        await consumer.pause("p", seconds)
        await world.queue.publish(job("p"))
        await world.queue.publish(job("q", provider="q"))

        assert await settle_all(consumer, 1) == ["q"]
        assert (await lane(world.queue, "p", Lane.INTERACTIVE)).paused
        await consumer.pause("p", 0)
        assert await settle_all(consumer, 1) == ["p"]


async def test_pause_ends_by_itself(world: World) -> None:
    async with world.queue.consume(["p"], 2) as consumer:
        await consumer.pause("p", 30.0)
        await consumer.pause("p", 1.2)
        await world.queue.publish(job("p"))

        assert await nothing_comes(consumer)
        assert await settle_all(consumer, 1) == ["p"]


async def test_paused_consumer_leaves_prefetched_jobs_to_others(world: World) -> None:
    async with world.queue.consume(["p"], 4) as pausing:
        await asyncio.gather(*[world.queue.publish(job(str(n))) for n in range(4)])
        [first] = await take(pausing, 1)

        await pausing.pause("p", 300.0)

        async with world.queue.consume(["p"], 4) as other:
            assert await settle_all(other, 3) == ["1", "2", "3"]
        await first.ack()


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


@pytest.mark.parametrize("kind", list(Lane))
async def test_job_handed_back_goes_behind_the_others(world: World, kind: Lane) -> None:
    for name in ("first", "second", "third"):
        await world.queue.publish(job(name, lane=kind))

    async with world.queue.consume(["p"], 1) as consumer:
        [first] = await take(consumer, 1)
        await first.hand_back()

        assert await settle_all(consumer, 3) == ["second", "third", "first"]


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
        serving = await until(world.queue, Lane.INTERACTIVE, lambda stats: stats.depth < 6 and stats.consumers == 1)
        await one.ack()
        drained = await lane(world.queue, "p", Lane.INTERACTIVE)

    assert (waiting.consumers, waiting.in_flight, waiting.bound) == (0, 0, BOUND)
    assert serving.depth + serving.in_flight == 6
    assert serving.in_flight >= 2
    assert drained.drain_rate > 0


async def test_ping_answers(world: World) -> None:
    async with asyncio.timeout(PATIENCE):
        await world.queue.ping()


async def test_declaring_again_changes_nothing(world: World) -> None:
    await world.queue.publish(job("kept"))

    await world.queue.declare(["p", "q"])

    async with world.queue.consume(["p"], 1) as consumer:
        assert await settle_all(consumer, 1) == ["kept"]
