"""Every way in which a durable job ends in a worker: one ending, with its row in one message, safe before the ack."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.jobs import Job, JobState
from tests.fakes.seams import World, deployment, error_of, leg, started, until, world
from tests.fakes.upstream import FakeUpstream
from workers import outcomes

Act = Callable[[World, FakeUpstream], Awaitable[Job]]


@dataclass(frozen=True)
class Way:
    act: Act
    state: JobState
    code: str = ""
    """Of the error; empty when completed."""
    attempts: int = 1
    row: bool = True
    """The last attempt's row travels in the ending's message."""
    model: str = "model"
    """Of the only deployment: a fault's tag."""
    dead: bool = False


async def _run(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True, max_retries=0)
    await it.run(job)
    return job


async def _run_stream(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True, body={"stream": True})
    await it.run(job)
    return job


async def _retried(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True, max_retries=1)
    await it.run_to_the_end(job)
    return job


async def _unknown_deployment(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(leg("of another config"), durable=True)
    await it.run(job)
    return job


async def _too_late(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True)
    delivery = await it.deliver(job)
    it.clock.advance(61)
    await it.start(delivery)
    return job


async def _too_late_during_the_call(it: World, upstream: FakeUpstream) -> Job:
    upstream.latency = 30.0
    job = it.job(durable=True, deadline=it.clock.now() + 0.1)
    running = it.start(await it.deliver(job))
    await upstream.arrived(1)
    it.clock.advance(0.1)
    await running
    return job


async def _waited_too_long(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True, start_by=it.clock.now() + 5)
    delivery = await it.deliver(job)
    it.clock.advance(6)
    await it.start(delivery)
    return job


async def _no_key(it: World, upstream: FakeUpstream) -> Job:
    await it.limiter.bury("credential-a", 60)
    return await _run(it, upstream)


async def _no_room_for_the_retry(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True)
    delivery = await it.deliver(job)
    it.queue.full = True
    await it.start(delivery)
    return job


async def _quarantined(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True)
    for attempt in (1, 2, 3):
        it.log.mark_started(started(job, f"dead-worker-{attempt}", attempt))
    await it.start(await it.redeliver(job))
    return job


async def _bug(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True)
    delivery = await it.deliver(job)
    await it.pipeline.apologise(delivery, it.consumer, "KeyError")
    return job


async def _worker_lost(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True, body={"stream": True})
    it.log.mark_started(started(job, "dead-worker"))
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])
    await it.start(await it.redeliver(job))
    return job


async def _worker_stops_in_mid_stream(it: World, upstream: FakeUpstream) -> Job:
    upstream.pace = 0.05
    job = it.job(durable=True, body={"stream": True})
    running = it.start(await it.deliver(job))
    await until(lambda: "chunk" in it.journal)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return job


async def _log_away_in_mid_stream(it: World, upstream: FakeUpstream) -> Job:
    it.log.emitting.fail(1)
    return await _run_stream(it, upstream)


async def _cancelled_before_it_starts(it: World, upstream: FakeUpstream) -> Job:
    job = it.job(durable=True)
    await it.log.cancel(job.id)
    await it.run(job)
    return job


async def _cancelled_while_it_waits(it: World, upstream: FakeUpstream) -> Job:
    it.limiter.answering.hold()
    job = it.job(durable=True)
    running = it.start(await it.deliver(job))
    await it.limiter.answering.reached.wait()
    await it.log.cancel(job.id)
    it.limiter.answering.open()
    await running
    return job


async def _cancelled_while_it_runs(it: World, upstream: FakeUpstream) -> Job:
    upstream.latency = 30.0
    job = it.job(durable=True)
    running = it.start(await it.deliver(job))
    await upstream.arrived(1)
    await it.log.cancel(job.id)
    await running
    return job


async def _cancelled_in_mid_stream(it: World, upstream: FakeUpstream) -> Job:
    upstream.pace = 0.05
    job = it.job(durable=True, body={"stream": True})
    running = it.start(await it.deliver(job))
    await until(lambda: it.journal.count("chunk") >= 2)
    await it.log.cancel(job.id)
    await running
    return job


async def _cancelled_while_its_end_is_recorded(it: World, upstream: FakeUpstream) -> Job:
    it.queue.recording.hold()
    job = it.job(durable=True, max_retries=0)
    running = it.start(await it.deliver(job))
    await it.queue.recording.reached.wait()
    await it.log.cancel(job.id)
    it.queue.recording.open()
    await running
    return job


async def _finished_by_a_worker_that_died(it: World, upstream: FakeUpstream) -> Job:
    job = await _run(it, upstream)
    it.endings.clear()
    await it.start(await it.redeliver(job))
    return job


WAYS = {
    "completed": Way(_run, JobState.COMPLETED),
    "a stream completed": Way(_run_stream, JobState.COMPLETED),
    "completed on a retry": Way(_retried, JobState.COMPLETED, attempts=2, model="fb-s03"),
    "failed for good": Way(_run, JobState.FAILED, "upstream_context_window_exceeded", model="fb-s12"),
    "failed after its retries": Way(_retried, JobState.FAILED, "upstream_overloaded", attempts=2, model="fb-s04"),
    "a stream broke off": Way(_run_stream, JobState.FAILED, "upstream_broken", model="fb-s08"),
    "unknown deployment": Way(_unknown_deployment, JobState.FAILED, "unknown_model", attempts=0, row=False),
    "too late": Way(_too_late, JobState.EXPIRED, "deadline_exceeded", attempts=0, row=False),
    "too late during the call": Way(_too_late_during_the_call, JobState.EXPIRED, "upstream_timeout"),
    "waited too long": Way(_waited_too_long, JobState.FAILED, "queue_wait_exceeded", attempts=0, row=False),
    "no key": Way(_no_key, JobState.FAILED, "credentials_exhausted", attempts=0, row=False),
    "no room for the retry": Way(_no_room_for_the_retry, JobState.FAILED, "queue_full", row=False, model="fb-s04"),
    "quarantined": Way(_quarantined, JobState.FAILED, "quarantined", attempts=3, row=False, dead=True),
    "a bug of ours": Way(_bug, JobState.FAILED, "internal_error", attempts=0, row=False, dead=True),
    "its worker died in mid-stream": Way(_worker_lost, JobState.FAILED, "worker_lost", row=False),
    "its worker stops in mid-stream": Way(_worker_stops_in_mid_stream, JobState.FAILED, "worker_lost", row=False),
    "the log is away in mid-stream": Way(_log_away_in_mid_stream, JobState.FAILED, "unavailable"),
    "cancelled before it starts": Way(
        _cancelled_before_it_starts, JobState.CANCELLED, "cancelled", attempts=0, row=False
    ),
    "cancelled while it waits": Way(_cancelled_while_it_waits, JobState.CANCELLED, "cancelled", attempts=0, row=False),
    "cancelled while it runs": Way(_cancelled_while_it_runs, JobState.CANCELLED, "cancelled"),
    "cancelled in mid-stream": Way(_cancelled_in_mid_stream, JobState.CANCELLED, "cancelled"),
    "cancelled too late, completed": Way(_cancelled_while_its_end_is_recorded, JobState.COMPLETED),
    "cancelled too late, failed": Way(
        _cancelled_while_its_end_is_recorded, JobState.FAILED, "upstream_context_window_exceeded", model="fb-s12"
    ),
    "finished by a worker that died": Way(_finished_by_a_worker_that_died, JobState.COMPLETED),
}


@pytest.mark.parametrize("name", WAYS)
async def test_a_durable_job_ends_once_with_its_row_and_before_its_ack(upstream: FakeUpstream, name: str) -> None:
    way = WAYS[name]
    async with world(deployment("a", upstream.url, way.model)) as it:
        job = await way.act(it, upstream)

        (ending,) = it.endings
        assert (ending.job_id, ending.state, ending.attempts) == (job.id, way.state, way.attempts)
        assert (ending.error or {"code": ""})["code"] == way.code
        rows = [rows for rows, endings in it.queue.messages if endings][-1]
        assert [(row.job_id, row.attempt) for row in rows] == ([(job.id, way.attempts)] if way.row else [])
        assert len({(row.job_id, row.attempt) for row in it.outcomes}) == way.attempts
        assert it.journal[-1] == "ack"
        assert [reason != "" for _, reason in it.queue.buried("openai")] == [True] * way.dead
        assert (await it.bucket("a")).in_flight == 0


async def test_a_cancel_does_not_keep_the_news_of_an_end_from_its_followers(one: World) -> None:
    job = one.job(leg("of another config"), durable=True)
    one.log.emitting.hold()
    running = one.start(await one.deliver(job))
    await one.log.emitting.reached.wait()

    await one.log.cancel(job.id)
    one.log.emitting.open()
    await running

    assert error_of(await one.events(job)) == "unknown_model"
    assert [(each.error or {})["code"] for each in one.endings] == ["unknown_model"]


async def test_an_ending_that_the_queue_did_not_take_is_sent_again(one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PATIENCE", 0.0)
    one.queue.recording.fail(1)

    await one.run(one.job(durable=True))

    assert [each.state for each in one.endings] == [JobState.COMPLETED]
    assert one.journal[-1] == "ack"


async def test_a_job_whose_ending_cannot_be_recorded_stays_unsettled(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "_PATIENCE", 0.0)
    one.queue.recording.fail(2)

    with pytest.raises(Unavailable):
        await one.run(one.job(leg("of another config"), durable=True))

    assert "ack" not in one.journal
    assert one.successors == []


async def test_a_job_that_fails_us_is_set_aside_though_the_log_is_away(one: World) -> None:
    delivery = await one.deliver(one.job(durable=True))
    one.log.emitting.fail(1)

    await one.pipeline.apologise(delivery, one.consumer, "KeyError")

    assert [each.state for each in one.endings] == [JobState.FAILED]
    assert [reason for _, reason in one.queue.buried("openai")] == ["KeyError"]
