"""Crashes, shutdowns and outages: a job is neither lost nor run twice."""

import asyncio
from dataclasses import replace

import pytest

from broker.interfaces import Candidate, Limits
from shared.catalog import Routing
from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.jobs import Job, Status
from tests.fakes.seams import World, deployment, error_of, started, until, world
from tests.fakes.upstream import FakeUpstream
from workers import outcomes

FULL = 100_000.0
"""Tokens of a bucket at rest."""


# A job that another worker had


async def test_a_redelivered_job_that_had_finished_is_only_recorded(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    await one.run(job)
    row = one.outcomes.pop()
    upstream.reset()

    await one.start(await one.redeliver(job))

    assert one.journal == ["settle", "record", "ack"]
    assert one.outcomes == [row]
    assert upstream.requests == []


async def test_an_attempt_of_a_dead_worker_is_recorded_unknown_and_the_job_runs_as_the_next_one(one: World) -> None:
    job = one.job()
    one.log.mark_started(started(job, "dead-worker"))

    await one.start(await one.redeliver(job))

    assert [(each.attempt, each.status) for each in one.outcomes] == [(1, Status.UNKNOWN), (2, Status.SUCCESS)]
    assert one.outcomes[0].usage.estimated
    assert one.journal[-1] == "ack"


async def test_a_dead_workers_slot_is_free_again(one: World) -> None:
    job = one.job()
    candidate = one.catalog.deployment("a")
    await _hold_slot(one, job, candidate.bucket)
    one.log.mark_started(started(job, "dead-worker"))

    await one.start(await one.redeliver(job))

    assert (await one.bucket("a")).in_flight == 0


async def _hold_slot(it: World, job: Job, bucket: str) -> None:
    await it.limiter.take(f"{job.id}/1", [Candidate("a", bucket, "c", Limits(1000.0, FULL, 10), 10)])


async def test_a_stream_of_a_dead_worker_ends_with_worker_lost(upstream: FakeUpstream, one: World) -> None:
    job = one.job(body={"stream": True})
    one.log.mark_started(started(job, "dead-worker"))
    await one.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])

    await one.start(await one.redeliver(job))

    events = await one.events(job)
    assert (error_of(events), events[-1].seq) == ("worker_lost", 2)
    assert upstream.requests == []
    assert [each.status for each in one.outcomes] == [Status.UNKNOWN]


async def test_the_third_crash_puts_a_job_into_quarantine(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    for attempt in (1, 2, 3):
        one.log.mark_started(started(job, f"dead-worker-{attempt}", attempt))

    await one.start(await one.redeliver(job))

    assert error_of(await one.events(job)) == "quarantined"
    assert [(dead.id, reason) for dead, reason in one.queue.buried("openai")] == [(job.id, "crashed 3 workers")]
    assert upstream.requests == []
    assert [each.attempt for each in one.outcomes] == [1, 2, 3]


async def test_a_job_that_a_living_neighbour_runs_is_postponed_and_not_run_twice(
    upstream: FakeUpstream, one: World
) -> None:
    job = one.job()
    await one.log.announce("neighbour", 60)
    one.log.mark_started(started(job, "neighbour"))

    await one.start(await one.redeliver(job))

    ((successor, delay),) = one.queue.published
    assert (successor.attempt, successor.suspect, delay) == (1, True, 1.0)
    assert upstream.requests == []
    assert one.journal == ["publish", "confirm", "ack"]


async def test_a_job_whose_successor_is_on_the_queue_is_not_run_again(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        job = it.job()
        await it.run(job)
        upstream.reset()
        await it.consumer.get()  # the successor is in other hands

        await it.start(await it.redeliver(job))

        assert it.journal == ["ack"]
        assert upstream.requests == []


# The worker's own end


@pytest.mark.parametrize("stream", [False, True])
async def test_at_shutdown_a_running_job_is_handed_over_as_its_next_attempt(
    upstream: FakeUpstream, one: World, stream: bool
) -> None:
    upstream.latency = 30.0
    running = one.start(await one.deliver(one.job(body={"stream": stream})))
    await upstream.arrived(1)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert one.journal == ["settle", "record", "publish", "confirm", "ack"]
    assert [each.attempt for each in one.successors] == [2]
    assert (await one.bucket("a")).in_flight == 0


async def test_a_job_that_was_handed_over_is_not_run_again_should_the_ack_be_lost(
    upstream: FakeUpstream, one: World
) -> None:
    upstream.latency = 30.0
    job = one.job()
    running = one.start(await one.deliver(job))
    await upstream.arrived(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await one.consumer.get()  # the successor is in other hands

    await one.start(await one.redeliver(job))

    assert one.journal == ["ack"]
    assert len(upstream.requests) == 1


async def test_at_shutdown_a_waiting_job_is_handed_over_as_it_was(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        upstream.latency = 30.0
        holding = it.start(await it.deliver(it.job()))
        await upstream.arrived(1)
        waiting = it.start(await it.deliver(it.job()))
        await asyncio.sleep(0)

        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert it.journal == ["publish", "confirm", "ack"]
        assert [each.attempt for each in it.successors] == [1]
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_at_shutdown_a_stream_that_has_begun_ends_with_worker_lost(upstream: FakeUpstream, one: World) -> None:
    upstream.pace = 0.05
    job = one.job(body={"stream": True})
    running = one.start(await one.deliver(job))
    await until(lambda: "chunk" in one.journal)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert error_of(await one.events(job)) == "worker_lost"
    assert one.successors == []
    assert one.journal[-1] == "ack"


async def test_at_shutdown_a_job_whose_answer_has_left_is_not_run_again(one: World) -> None:
    one.limiter.settling.hold()
    running = one.start(await one.deliver(one.job()))
    await one.limiter.settling.reached.wait()

    running.cancel()
    one.limiter.settling.open()
    await asyncio.gather(running, return_exceptions=True)

    assert one.successors == []
    assert one.journal == ["completed", "settle", "record", "ack"]


async def test_at_shutdown_a_retry_on_its_way_is_not_published_twice(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        delivery = await it.deliver(it.job())
        it.queue.confirms.hold()
        running = it.start(delivery)
        await it.queue.confirms.reached.wait()

        running.cancel()
        it.queue.confirms.open()
        await asyncio.gather(running, return_exceptions=True)

        assert [each.attempt for each in it.successors] == [2]
        assert it.journal[-1] == "ack"


# Our own servers


async def test_a_job_comes_back_when_the_log_was_away(upstream: FakeUpstream, one: World) -> None:
    one.log.emitting.fail(1)

    await one.run(one.job())

    assert one.journal[-1] == "ack"
    assert [each.attempt for each in one.successors] == [2]
    assert (await one.bucket("a")).in_flight == 0


@pytest.mark.parametrize("step", ["settling", "recording"])
async def test_an_answered_job_is_not_run_again_because_a_server_was_away_afterwards(one: World, step: str) -> None:
    (one.limiter.settling if step == "settling" else one.queue.recording).fail(1)

    await one.run(one.job())

    assert one.successors == []
    assert [each.status for each in one.outcomes] == [Status.SUCCESS]
    assert one.journal[-1] == "ack"


async def test_an_answered_job_whose_row_cannot_be_recorded_stays_unsettled(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "_PATIENCE", 0.0)
    one.queue.recording.fail(2)

    with pytest.raises(Unavailable):
        await one.run(one.job())

    assert "ack" not in one.journal
    assert one.successors == []


async def test_what_comes_back_after_an_outage_is_looked_up_before_it_runs(one: World) -> None:
    """The log was away while a finished job was redelivered: the mark must travel with the republished copy."""
    job = one.job()
    await one.run(job)
    one.log.replay = _away  # type: ignore[method-assign]  # the one call that is to fail

    await one.start(await one.redeliver(job))

    assert [each.suspect for each in one.successors] == [True]


async def _away(job_id: str, after: int = 0) -> list[Event]:
    raise Unavailable("the log is away")


async def test_an_outage_of_ours_does_not_cool_the_deployment_down(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url), deployment("b", upstream.url, order=2), routing=Routing(allowed_fails=1)
    ) as it:
        it.log.emitting.fail(1)

        await it.run(it.job(body={"stream": True}))

        assert (await it.bucket("a")).cooldown == 0


async def test_a_bug_in_mid_stream_still_ends_the_clients_stream(one: World) -> None:
    job = one.job(body={"stream": True})
    delivery = await one.deliver(job)
    follower = one.log.follow(job.id)
    await one.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])

    await one.pipeline.apologise(delivery, one.consumer, "KeyError")

    assert [event.kind async for event in follower] == [Kind.CHUNK, Kind.FAILED]
    assert [reason for _, reason in one.queue.buried("openai")] == ["KeyError"]


# Bodies that stay behind


async def test_a_claimed_body_is_fetched_and_does_not_travel_with_the_retry(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        job = it.job()
        await it.log.put_body(job.id, job.body, 60)

        await it.run(replace(job, body=b"", claim=True))

        assert upstream.attempts("fb-s03") == 1
        assert [(each.body, each.claim) for each in it.successors] == [(b"", True)]


async def test_a_claimed_body_that_is_gone_is_told(upstream: FakeUpstream, one: World) -> None:
    job = replace(one.job(), body=b"", claim=True)

    await one.run(job)

    assert error_of(await one.events(job)) == "deadline_exceeded"
    assert upstream.requests == []
