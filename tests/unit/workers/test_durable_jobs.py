"""What the end of a durable job holds, and what keeps a durable job from being lost or run twice."""

import asyncio
from dataclasses import replace

import pytest

from broker.records import JobRecord
from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.jobs import Job, JobState, Status
from tests.fakes.seams import World, deployment, error_of, leg, settled, started, world
from tests.fakes.upstream import FakeUpstream
from workers import reports, transcript
from workers.run import Run

# The order of effects


async def test_the_answer_does_not_wait_for_its_record_and_the_ack_does(one: World) -> None:
    one.queue.recording.hold()
    job = one.job(durable=True)
    follower = one.log.follow(job.id)
    running = one.start(await one.deliver(job))

    answer = await follower.next(60)
    await one.queue.recording.reached.wait()

    assert answer.kind is Kind.COMPLETED
    assert "ack" not in one.journal
    one.queue.recording.open()
    await running
    assert one.journal == ["completed", "settle", "record", "ack"]


async def test_an_answered_job_is_not_run_again_because_the_log_is_away(upstream: FakeUpstream, one: World) -> None:
    job = one.job(durable=True)
    one.log.emitting.fail(1)

    await one.run(job)

    assert [each.state for each in one.endings] == [JobState.COMPLETED]
    assert one.successors == []
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("step", ["settling", "recording"])
async def test_an_answered_job_keeps_its_end_when_a_server_is_away_afterwards(one: World, step: str) -> None:
    (one.limiter.settling if step == "settling" else one.queue.recording).fail(1)

    await one.run(one.job(durable=True))

    assert {each.state for each in one.endings} == {JobState.COMPLETED}
    assert [each.status for each in one.outcomes] == [Status.SUCCESS]
    assert one.journal[-1] == "ack"
    assert (await one.bucket("a")).in_flight == 0


async def test_a_jobs_bug_in_settling_after_the_answer_still_leaves_its_answer(one: World) -> None:
    job = one.job(durable=True)
    await one.run(job)
    one.endings.clear()

    await one.pipeline.apologise(await one.redeliver(job), one.consumer, "KeyError")

    assert [each.state for each in one.endings] == [JobState.COMPLETED]


async def test_a_durable_job_without_an_end_or_a_successor_is_not_acked(one: World) -> None:
    run = Run(await one.deliver(one.job(durable=True)), one.consumer)

    with pytest.raises(RuntimeError, match="neither an end nor a successor"):
        await run.settle()

    assert "ack" not in one.journal


async def test_a_transient_job_leaves_no_ending(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url), deployment("b", upstream.url, "fb-s12", group="bad")) as it:
        await it.run(it.job())
        await it.run(it.job(leg("b", group="bad")))

        assert [each.status for each in it.outcomes] == [Status.SUCCESS, Status.FAILURE]
        assert it.endings == []


async def test_a_full_lane_does_not_end_a_job_that_was_accepted(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2), bound=1) as it:
        job = it.job(durable=True)
        delivery = await it.deliver(job)
        await it.queue.publish(it.job())

        await it.start(delivery)

        assert it.endings == []
        assert [(each.id, delay) for each, delay in it.queue.published[-2:]] == [(job.id, 0.0), (job.id, 1.0)]


# What the store keeps


async def test_an_ending_has_the_answer_and_how_it_was_served(one: World) -> None:
    job = one.job(durable=True)
    await one.run(job)

    (ending,) = one.endings
    (event,) = await one.events(job)
    assert ending.answer == event.data
    assert ending.error is None
    assert ending.cost == one.outcomes[0].cost
    assert (ending.served or {})["deployment"] == "a"
    assert {"outcome", "error", "end"}.isdisjoint(ending.served or {})


async def test_a_streams_ending_has_what_its_clients_got(one: World) -> None:
    job = one.job(durable=True, body={"stream": True})
    await one.run(job)

    (ending,) = one.endings
    chunks = [event for event in await one.events(job) if event.kind is Kind.CHUNK]
    assert ending.answer == b"".join(event.data for event in chunks) + b"data: [DONE]\n\n"


async def test_a_stream_that_broke_off_keeps_what_came_and_says_why(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s08")) as it:
        job = it.job(durable=True, body={"stream": True})
        await it.run(job)

        (ending,) = it.endings
        chunks = [event for event in await it.events(job) if event.kind is Kind.CHUNK]
        assert ending.answer == b"".join(event.data for event in chunks) != b""
        assert (ending.error or {})["code"] == "upstream_broken"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["model", "fb-s12"])
async def test_what_is_recorded_again_is_what_was_recorded(upstream: FakeUpstream, fault: str, stream: bool) -> None:
    async with world(deployment("a", upstream.url, fault)) as it:
        job = it.job(durable=True, max_retries=0, body={"stream": stream})
        await it.run(job)
        (first,) = it.endings
        it.endings.clear()
        it.clock.advance(5)

        await it.start(await it.redeliver(job))

        assert it.endings == [first]


async def test_a_last_event_that_no_worker_wrote_is_an_ending_too(one: World) -> None:
    """The reaper, say, ended the job while a copy of it was on its lane."""
    job = one.job(durable=True)
    error = {"code": "deadline_exceeded", "message": "Request timed out."}
    await one.log.emit(job.reply_to, [Event(job.id, 1, Kind.FAILED, b"", {"error": error})])

    await one.start(await one.redeliver(job))

    assert [(each.state, each.error) for each in one.endings] == [(JobState.EXPIRED, error)]


async def test_an_answer_that_no_message_can_carry_is_a_failure_that_says_so(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_ANSWER_BYTES", 10)

    await one.run(one.job(durable=True))

    (ending,) = one.endings
    assert (ending.state, ending.answer, (ending.error or {})["code"]) == (JobState.FAILED, b"", "upstream_error")
    assert [each.status for each in one.outcomes] == [Status.SUCCESS]


async def test_a_stream_that_no_message_can_carry_is_cut_with_an_error_in_band(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "MAX_ANSWER_BYTES", 600)
    job = one.job(durable=True, body={"stream": True})

    await one.run(job)

    (ending,) = one.endings
    *frames, mark, rest = ending.answer.split(b"\n\n")
    assert ending.state is JobState.COMPLETED
    assert all(b'"choices"' in frame for frame in frames)
    assert (b'{"error"' in mark, rest, b"[DONE]" in ending.answer) == (True, b"", False)
    assert (await one.events(job))[-1].kind is Kind.COMPLETED


# How long a job may wait for its first attempt


async def test_a_retry_has_the_whole_deadline(upstream: FakeUpstream, one: World) -> None:
    job = one.job(durable=True, start_by=one.clock.now() + 5, attempt=2)
    delivery = await one.deliver(job)
    one.clock.advance(6)

    await one.start(delivery)

    assert [each.state for each in one.endings] == [JobState.COMPLETED]


@pytest.mark.parametrize("durable", [False, True])
async def test_a_key_that_is_free_too_late_is_told_with_its_wait(upstream: FakeUpstream, durable: bool) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0)) as it:  # one at a time, 20 s apart
        await it.run(it.job())
        job = it.job(durable=durable, start_by=it.clock.now() + 10)

        await it.run(job)

        error = (await it.events(job))[-1].meta["error"]
        assert (error["code"], round(error["retry_after"])) == ("queue_wait_exceeded", 20)
        assert "max_queue_wait is 10 s" in error["message"]


async def test_a_wait_in_the_line_ends_when_it_was_long_enough(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        upstream.latency = 30.0
        holding = it.start(await it.deliver(it.job()))
        await upstream.arrived(1)
        in_line = it.start(await it.deliver(it.job()))
        await asyncio.sleep(0)
        job = it.job(start_by=it.clock.now() + 0.1)

        await it.run(job)

        assert error_of(await it.events(job)) == "queue_wait_exceeded"
        holding.cancel()
        in_line.cancel()
        await asyncio.gather(holding, in_line, return_exceptions=True)


# Copies of a job that waited in memory


class Waiting:
    """A world with one slot, which another job has, and a job in the line for it."""

    def __init__(self, it: World, upstream: FakeUpstream, job: Job) -> None:
        self.it = it
        self.upstream = upstream
        self.job = job

    async def __aenter__(self) -> "Waiting":
        self.upstream.latency = 30.0
        self._first = self.it.job()
        self._holding = self.it.start(await self.it.deliver(self._first))
        await self.upstream.arrived(1)
        self.running = self.it.start(await self.it.deliver(self.job))
        await settled()
        return self

    async def its_turn(self) -> None:
        """The slot is free; the job goes as far as it goes."""
        self.upstream.latency = 0.0
        await self.it.log.cancel(self._first.id)
        await self._holding
        async with asyncio.timeout(60):
            await self.running

    async def __aexit__(self, *exc_info: object) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("copy", ["ended", "moved on", "runs"])
async def test_a_job_whose_copy_got_ahead_while_it_waited_makes_no_call(
    upstream: FakeUpstream, copy: str, durable: bool
) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        job = it.job(durable=durable)
        async with Waiting(it, upstream, job) as waiting:
            if copy == "ended":
                await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.COMPLETED, b"{}", {})])
            else:
                await it.log.announce("neighbour", 60)
                note = started(job, "neighbour")
                it.log.mark_started(note if copy == "runs" else replace(note, meta={"attempt": 1, "moved": True}))

            await waiting.its_turn()

            assert len(upstream.requests) == 1
            assert (it.journal[-1], it.successors, it.endings) == ("ack", [], [])
            assert (await it.bucket("a")).in_flight == 0


async def test_a_job_whose_copy_died_with_its_worker_is_looked_at_again(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        job = it.job(durable=True)
        async with Waiting(it, upstream, job) as waiting:
            it.log.mark_started(started(job, "dead-worker"))

            await waiting.its_turn()

            assert [(each.id, each.suspect) for each in it.successors] == [(job.id, True)]
            assert len(upstream.requests) == 1


async def test_a_job_that_waited_alone_runs(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        job = it.job(durable=True)
        async with Waiting(it, upstream, job) as waiting:
            await waiting.its_turn()

            assert [each.state for each in it.endings] == [JobState.COMPLETED]


async def test_a_key_goes_back_when_the_log_cannot_be_asked_after_the_wait(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(job_id: str, after: int = 0) -> list[Event]:
        raise Unavailable("the log is away")

    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        job = it.job(durable=True)
        async with Waiting(it, upstream, job) as waiting:
            monkeypatch.setattr(it.log, "replay", away)

            await waiting.its_turn()

            assert [(each.id, each.suspect) for each in it.successors] == [(job.id, True)]
            assert (await it.bucket("a")).in_flight == 0


# Bodies that stay behind


class Shelf:
    """A store's jobs, as far as a worker reads them."""

    def __init__(self, *jobs: Job) -> None:
        self._records = {job.id: JobRecord(job, JobState.DISPATCHED) for job in jobs}
        self.away = 0

    @property
    def jobs(self) -> "Shelf":
        return self

    async def get(self, job_id: str, owner: str | None = None, *, bodies: bool = False) -> JobRecord | None:
        if self.away:
            self.away -= 1
            raise Unavailable("the store is away")
        assert bodies
        return self._records.get(job_id)


async def test_a_large_body_comes_from_the_store_and_does_not_travel_with_the_retry(upstream: FakeUpstream) -> None:
    shelf = Shelf()
    deployments = (deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2))
    async with world(*deployments, store=shelf) as it:  # type: ignore[arg-type]  # what a worker needs of it
        job = it.job(durable=True)
        shelf._records[job.id] = JobRecord(job, JobState.DISPATCHED)

        await it.run(replace(job, body=b"", claim=True))

        assert upstream.attempts("fb-s03") == 1
        assert [(each.body, each.claim) for each in it.successors] == [(b"", True)]


async def test_a_job_whose_row_has_expired_is_told(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url), store=Shelf()) as it:  # type: ignore[arg-type]
        job = it.job(durable=True)

        await it.run(replace(job, body=b"", claim=True))

        assert error_of(await it.events(job)) == "not_found"
        assert upstream.requests == []


async def test_a_large_body_is_waited_for_while_the_store_is_away(upstream: FakeUpstream) -> None:
    shelf = Shelf()
    async with world(deployment("a", upstream.url), store=shelf) as it:  # type: ignore[arg-type]
        shelf.away = 1
        job = it.job(durable=True)

        await it.run(replace(job, body=b"", claim=True))

        assert [(each.body, each.claim, each.suspect) for each in it.successors] == [(b"", True, True)]
        assert it.endings == []


# Whose job it is


async def test_a_started_note_says_whose_job_it_is(one: World) -> None:
    job = one.job(key="owner")
    await one.run(job)

    notes = [event.meta for event in await one.log.replay(job.id) if event.kind is Kind.STARTED]

    assert [note["key"] for note in notes] == ["owner"]
