"""What leaves the queue for the store: outcomes with endings, and dead letters. On every implementation."""

import asyncio
import time
from dataclasses import replace

import pytest

from shared.errors import RequestTooLarge, Unavailable
from shared.jobs import Ending, Job, JobState, Lane
from tests.conformance.queues import PATIENCE, World, job, outcome, take

EVERY_BYTE = bytes(range(256))


def ending(name: str, answer: bytes = b'{"id":"x"}') -> Ending:
    served = {"deployment": "d1", "headers": {"x-request-id": "r"}}
    return Ending(name, JobState.COMPLETED, time.time(), 2, answer, None, served, 1_500)


async def test_endings_travel_with_their_outcomes(world: World) -> None:
    failed = Ending("b", JobState.FAILED, time.time(), 0, error=Unavailable("it is away").to_wire())
    sent = [ending("a", EVERY_BYTE), failed]

    await world.queue.record([outcome("a"), outcome("b")], sent)

    async with world.queue.outcomes(1) as batches, asyncio.timeout(PATIENCE):
        batch = await anext(batches)
    assert [each.job_id for each in batch.outcomes] == ["a", "b"]
    assert list(batch.endings) == sent


async def test_an_ending_needs_no_outcome(world: World) -> None:
    sent = ending("a")

    await world.queue.record((), [sent])

    async with world.queue.outcomes(1) as batches, asyncio.timeout(PATIENCE):
        batch = await anext(batches)
    assert (list(batch.outcomes), list(batch.endings)) == ([], [sent])


async def test_outcomes_alone_have_no_endings(world: World) -> None:
    await world.queue.record([outcome("a")])

    async with world.queue.outcomes(1) as batches, asyncio.timeout(PATIENCE):
        assert list((await anext(batches)).endings) == []


async def test_large_answers_travel_whole_in_several_messages(world: World) -> None:
    sent = [ending(str(number), EVERY_BYTE * 4_000 * number) for number in range(1, 6)]  # 1 to 5 MB

    async with asyncio.timeout(PATIENCE):
        await world.queue.record([outcome("1")], sent)

    assert await world.queue.outcomes_waiting() > 1
    got: list[Ending] = []
    outcomes = 0
    async with world.queue.outcomes(9) as batches, asyncio.timeout(PATIENCE):
        while len(got) < 5:
            batch = await anext(batches)
            outcomes += len(batch.outcomes)
            got += batch.endings
            await batch.ack()
    assert got == sent
    assert outcomes == 1


async def test_an_answer_that_no_message_can_carry_is_refused_and_the_queue_goes_on(world: World) -> None:
    with pytest.raises(RequestTooLarge, match="job huge has 134217728 bytes"):
        await world.queue.record([outcome("huge")], [ending("huge", bytes(128 * 1024 * 1024))])

    await world.queue.record([outcome("next")])
    assert await world.queue.outcomes_waiting() == 1


@pytest.mark.parametrize("kind", list(Lane))
async def test_a_dead_job_reaches_the_store_with_its_reason(world: World, kind: Lane) -> None:
    sent = job(lane=kind)
    await world.queue.publish(sent)
    before = time.time()
    async with world.queue.consume(["p"], 1) as consumer:
        [delivery] = await take(consumer, 1)
        await delivery.dead("crashed its worker 3 times")

    async with world.queue.dead_letters(2) as letters, asyncio.timeout(PATIENCE):
        dead = await anext(letters)
        await dead.ack()

    letter = dead.letter
    assert (letter.job_id, letter.provider, letter.reason) == (sent.id, "p", "crashed its worker 3 times")
    assert replace(Job.from_wire(letter.headers, letter.body), published_at=0.0) == sent
    assert int(before) <= letter.died_at <= time.time()
    assert not dead.abandoned
    assert await world.dead("p") == []


async def bury(world: World, *names: str, provider: str = "p") -> None:
    await asyncio.gather(*[world.queue.publish(job(name, provider=provider)) for name in names])
    async with world.queue.consume([provider], len(names)) as consumer:
        for delivery in await take(consumer, len(names)):
            await delivery.dead("why")


async def test_unacked_dead_letters_come_again(world: World) -> None:
    await bury(world, "a", "b", "c")
    async with world.queue.dead_letters(6) as letters, asyncio.timeout(PATIENCE):
        await (await anext(letters)).ack()
        await anext(letters)

    async with world.queue.dead_letters(6) as letters, asyncio.timeout(PATIENCE):
        again = [(await anext(letters)).letter.job_id for _ in range(2)]

    assert again == ["b", "c"]


async def test_dead_letters_of_all_providers_come_also_of_those_declared_later(world: World) -> None:
    async with world.another(10) as queue:
        await queue.declare(["p"])
        async with queue.dead_letters(4) as letters:
            await queue.declare(["p", "q"])
            for provider in ("p", "q"):
                await queue.publish(job(provider, provider=provider))
            async with queue.consume(["p", "q"], 2) as consumer:
                for delivery in await take(consumer, 2):
                    await delivery.dead("why")

            async with asyncio.timeout(PATIENCE):
                found = [(await anext(letters)).letter for _ in range(2)]

    assert sorted((letter.job_id, letter.provider) for letter in found) == [("p", "p"), ("q", "q")]


async def test_at_most_prefetch_dead_letters_are_unacked(world: World) -> None:
    await bury(world, "a", "b", "c")

    async with world.queue.dead_letters(4) as letters, asyncio.timeout(PATIENCE):  # two providers: two from each queue
        held = [await anext(letters) for _ in range(2)]
        third = asyncio.ensure_future(anext(letters))
        await asyncio.wait([third], timeout=0.2)
        for each in held:
            await each.ack()
        assert (await third).letter.job_id == "c"
