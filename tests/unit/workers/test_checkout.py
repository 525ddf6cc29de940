"""Whatever becomes of a job, its accounts hear of its end: once, after the answer, and only when it is the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from shared.events import Event, Kind
from shared.jobs import Job, Outcome, Status
from tests.fakes.seams import World, deployment, leg, started, until, world
from tests.fakes.upstream import FakeUpstream

KEY = "key:abc"


@pytest.fixture
async def two(upstream: FakeUpstream) -> AsyncIterator[World]:
    """A world with a deployment that fails always, and a second one that answers."""
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        yield it


def limited(it: World, **changes: object) -> Job:
    return it.job(key="abc", accounts=(KEY,), **changes)  # type: ignore[arg-type]


async def cancelled(it: World, running: "asyncio.Task[None]") -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# --- Every fate -----------------------------------------------------------------------------------------------------


async def completed(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    await it.run(job)
    return job


async def streamed(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it, body={"stream": True})
    await it.run(job)
    return job


async def completed_durably(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it, durable=True)
    await it.run(job)
    return job


async def failed(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it, body={"model": 7, "messages": "no"}, route=(leg("unknown"),))
    await it.run(job)
    return job


async def failed_durably(it: World, upstream: FakeUpstream) -> Job:
    return await _run(it, limited(it, durable=True, route=(leg("unknown"),)))


async def gone_while_queued(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    await it.log.cancel(job.id)
    return await _run(it, job)


async def gone_while_running(it: World, upstream: FakeUpstream) -> Job:
    upstream.latency = 30.0
    job = limited(it)
    running = it.start(await it.deliver(job))
    await upstream.arrived(1)
    await it.log.cancel(job.id)
    await running
    return job


async def gone_while_streaming(it: World, upstream: FakeUpstream) -> Job:
    upstream.pace = 0.05
    job = limited(it, body={"stream": True})
    running = it.start(await it.deliver(job))
    await until(lambda: "chunk" in it.journal)
    await it.log.cancel(job.id)
    await running
    return job


async def too_late(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it, start_by=it.clock.now() - 1)
    return await _run(it, job)


async def stopped_while_streaming(it: World, upstream: FakeUpstream) -> Job:
    upstream.pace = 0.05
    job = limited(it, body={"stream": True})
    running = it.start(await it.deliver(job))
    await until(lambda: "chunk" in it.journal)
    await cancelled(it, running)
    return job


async def stopped_after_the_answer(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    it.limiter.settling.hold()
    running = it.start(await it.deliver(job))
    await it.limiter.settling.reached.wait()
    running.cancel()
    it.limiter.settling.open()
    await asyncio.gather(running, return_exceptions=True)
    return job


async def limiter_away_after_the_answer(it: World, upstream: FakeUpstream) -> Job:
    it.limiter.settling.fail(1)
    return await _run(it, limited(it))


async def lane_full_for_its_retry(it: World, upstream: FakeUpstream) -> Job:
    upstream.latency = 30.0
    job = limited(it)
    running = it.start(await it.deliver(job))
    await upstream.arrived(1)
    it.queue.full = True
    await cancelled(it, running)
    return job


async def quarantined(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    for attempt in (1, 2, 3):
        it.log.mark_started(started(job, f"dead-worker-{attempt}", attempt))
    await it.start(await it.redeliver(job))
    return job


async def broken_off_by_a_dead_worker(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it, body={"stream": True})
    it.log.mark_started(started(job, "dead-worker"))
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])
    await it.start(await it.redeliver(job))
    return job


async def apologised_for(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    await it.pipeline.apologise(await it.deliver(job), it.consumer, "KeyError")
    return job


async def ended_by_a_worker_that_died_before_the_rest(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    row = Outcome(job.id, 1, 0.0, "chat.completions", "m", "m", "a", "openai", "m", Status.SUCCESS)
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.COMPLETED, b"{}", {"outcome": row})])
    await it.start(await it.redeliver(job))
    return job


async def _run(it: World, job: Job) -> Job:
    await it.run(job)
    return job


Fate = Callable[[World, FakeUpstream], Awaitable[Job]]

ENDS: list[Fate] = [
    completed, streamed, completed_durably, failed, failed_durably, gone_while_queued, gone_while_running,
    gone_while_streaming, too_late, stopped_while_streaming, stopped_after_the_answer, limiter_away_after_the_answer,
    lane_full_for_its_retry, quarantined, broken_off_by_a_dead_worker, apologised_for,
    ended_by_a_worker_that_died_before_the_rest,
]  # fmt: skip


@pytest.mark.parametrize("fate", ENDS, ids=lambda fate: fate.__name__)
async def test_a_job_that_ends_gives_back_what_it_holds_once(upstream: FakeUpstream, one: World, fate: Fate) -> None:
    job = await fate(one, upstream)

    assert [(each.job_id, each.accounts) for each in one.accounts.finished] == [(job.id, (KEY,))]
    assert one.journal[-1] == "ack"


async def handed_over_while_running(it: World, upstream: FakeUpstream) -> Job:
    upstream.latency = 30.0
    job = limited(it)
    running = it.start(await it.deliver(job))
    await upstream.arrived(1)
    await cancelled(it, running)
    return job


async def log_away(it: World, upstream: FakeUpstream) -> Job:
    it.log.emitting.fail(1)
    return await _run(it, limited(it))


async def a_neighbour_runs_it(it: World, upstream: FakeUpstream) -> Job:
    job = limited(it)
    await it.log.announce("neighbour", 60)
    it.log.mark_started(started(job, "neighbour"))
    await it.start(await it.redeliver(job))
    return job


GOES_ON: list[Fate] = [handed_over_while_running, log_away, a_neighbour_runs_it]


@pytest.mark.parametrize("fate", GOES_ON, ids=lambda fate: fate.__name__)
async def test_a_job_that_goes_on_elsewhere_keeps_what_it_holds(upstream: FakeUpstream, one: World, fate: Fate) -> None:
    job = await fate(one, upstream)

    assert one.accounts.finished == []
    assert [each.accounts for each in one.successors] == [job.accounts]


async def test_a_retry_keeps_what_the_job_holds_and_its_answer_gives_it_back(two: World) -> None:
    job = limited(two)

    await two.run(job)
    held = list(two.accounts.finished)
    await two.start(await two.consumer.get())

    assert held == []
    assert [each.job_id for each in two.accounts.finished] == [job.id]
    assert [(each.attempt, each.last) for each in two.outcomes] == [(1, False), (2, True)]


async def test_a_job_that_is_retried_and_fails_gives_back_what_it_holds_with_its_last_failure(
    upstream: FakeUpstream,
) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, "fb-s03", order=2)) as it:
        job = limited(it, max_retries=1)

        await it.run_to_the_end(job)

        assert [each.job_id for each in it.accounts.finished] == [job.id]
        assert [each.last for each in it.outcomes] == [False, True]


async def test_the_next_leg_keeps_what_the_job_holds(upstream: FakeUpstream) -> None:
    other = deployment("b", upstream.url, group="other")
    async with world(deployment("a", upstream.url, "fb-s03"), other) as it:
        route = (leg("a"), leg("b", group="other", fallback=True))
        job = replace(limited(it, max_retries=0), route=route)

        await it.run(job)

        assert it.accounts.finished == []
        assert [(each.leg, each.accounts) for each in it.successors] == [(1, job.accounts)]
        assert [each.last for each in it.outcomes] == [False]


async def test_an_attempt_of_a_dead_worker_is_not_the_jobs_last_if_it_runs_again(one: World) -> None:
    job = limited(one)
    one.log.mark_started(started(job, "dead-worker"))

    await one.start(await one.redeliver(job))

    assert [(each.status, each.last) for each in one.outcomes] == [(Status.UNKNOWN, False), (Status.SUCCESS, True)]
    assert len(one.accounts.finished) == 1


async def test_the_last_attempt_of_a_quarantined_job_is_its_last(upstream: FakeUpstream, one: World) -> None:
    await quarantined(one, upstream)

    assert [each.last for each in one.outcomes] == [False, False, True]


async def test_the_answer_leaves_first_and_the_ack_comes_last(one: World) -> None:
    await one.run(limited(one))

    assert (one.journal[0], one.journal[-1]) == ("completed", "ack")
    assert sorted(one.journal[1:-1]) == ["finish", "record", "settle"]


async def test_a_job_without_accounts_asks_nobody(one: World) -> None:
    await one.run(one.job(key="abc"))

    assert one.accounts.attempts == 0


async def test_accounts_that_are_away_do_not_undo_an_end_and_are_complained_about_once(one: World) -> None:
    one.accounts.away = True

    with capture_logs() as logs:
        for _ in range(2):
            await one.run(limited(one))

    assert one.journal[-1] == "ack"
    assert [each["event"] for each in logs] == ["accounts_not_told_of_an_end"]


async def test_an_end_that_cannot_be_told_is_told_again_by_the_next_worker(one: World) -> None:
    """The queue was away for the row of an answered job: it comes again, and its end with it."""
    job = limited(one)
    await one.run(job)
    one.accounts.finished.clear()

    await one.start(await one.redeliver(job))

    assert [each.job_id for each in one.accounts.finished] == [job.id]
