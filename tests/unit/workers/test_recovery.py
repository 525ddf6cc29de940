"""What a redelivered job's log says about the attempt that went before, case by case."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.interfaces import Candidate, Grant, Limits
from shared.events import Event, Kind
from shared.jobs import Job, Outcome, Status
from tests.fakes.seams import World, deployment, world
from workers.outcomes import OutcomeWriter
from workers.recovery import Finished, Lost, Recovery
from workers.reports import Reports


@pytest.fixture
async def it() -> AsyncIterator[World]:
    async with world(deployment("a", "http://127.0.0.1:1")) as one:
        yield one


def recovery(it: World) -> Recovery:
    return Recovery(it.queue, it.log, it.limiter, it.catalog, Reports(it.clock), OutcomeWriter(it.queue))


def note(it: World, job: Job, attempt: int, worker: str = "dead", deployment: str = "a") -> None:
    meta = {"attempt": attempt, "deployment": deployment, "worker": worker, "at": job.accepted_at, "queue_wait": 0.5}
    it.log.mark_started(Event(job.id, 0, Kind.STARTED, meta=meta))


async def test_a_job_without_a_history_runs_as_it_is(it: World) -> None:
    job = it.job()

    assert await recovery(it).take_over(job) is job


async def test_a_failed_job_is_finished_too(it: World) -> None:
    job = it.job()
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.FAILED, b"", {"error": {}})])

    assert await recovery(it).take_over(job) == Finished(rows=[])
    assert it.outcomes == []


async def test_notes_of_earlier_attempts_do_not_concern_a_retry(it: World) -> None:
    job = it.job(attempt=2)
    note(it, job, 1)

    assert await recovery(it).take_over(job) is job
    assert it.outcomes == []


async def test_a_crash_is_on_the_bill_once_and_the_next_attempt_has_the_next_number(it: World) -> None:
    job = it.job(attempt=2)
    note(it, job, 2)

    successor = await recovery(it).take_over(job)

    assert isinstance(successor, Job)
    assert successor.attempt == 3
    (row,) = it.outcomes
    assert (row.attempt, row.status, row.error_code, row.queue_wait) == (2, Status.UNKNOWN, "worker_lost", 0.5)
    assert row.usage.estimated
    assert row.usage.input > 0


async def test_two_crashes_are_not_yet_poison(it: World) -> None:
    job = it.job()
    note(it, job, 1)
    note(it, job, 2)

    successor = await recovery(it).take_over(job)

    assert isinstance(successor, Job)
    assert successor.attempt == 3


async def test_three_crashes_are_poison(it: World) -> None:
    job = it.job()
    for attempt in (1, 2, 3):
        note(it, job, attempt)

    found = await recovery(it).take_over(job)

    assert isinstance(found, Lost)
    assert (found.error.code, found.poison, found.job.attempt) == ("quarantined", "crashed 3 workers", 4)


async def test_a_crash_in_an_attempt_of_another_config_still_goes_on(it: World) -> None:
    job = it.job()
    note(it, job, 1, deployment="gone")

    successor = await recovery(it).take_over(job)

    assert isinstance(successor, Job)
    assert successor.attempt == 2


async def test_a_neighbour_that_fell_silent_is_taken_for_dead(it: World) -> None:
    job = it.job()
    await it.log.announce("neighbour", 60)
    note(it, job, 1, worker="neighbour")
    waiting = await recovery(it).take_over(job)
    await it.log.announce("neighbour", 0)

    successor = await recovery(it).take_over(job)

    assert waiting == Finished()
    assert isinstance(successor, Job)


async def test_a_successor_on_the_queue_finishes_its_predecessor_and_not_itself(it: World) -> None:
    job = it.job()
    rescue = recovery(it)
    note(it, job, 1)
    rescue.note_moved(job)
    retry = job.next_retry()

    assert await rescue.take_over(job) == Finished()
    assert await rescue.take_over(retry) is retry
    assert it.outcomes == []


async def test_the_tokens_that_a_crash_reserved_stay_taken(it: World) -> None:
    """The provider may have served them."""
    job = it.job()
    candidate = Candidate("a", "bucket-a", "c", Limits(1000.0, 100_000.0, 10), 700)
    assert isinstance(await it.limiter.take(f"{job.id}/1", [candidate]), Grant)
    note(it, job, 1)

    await recovery(it).take_over(job)

    state = await it.bucket("a")
    assert (state.in_flight, state.tokens) == (0, 99_300)


async def test_a_lease_without_a_note_is_given_back(it: World) -> None:
    """The worker died between its grant and its note."""
    job = it.job()
    candidate = Candidate("a", "bucket-a", "c", Limits(1000.0, 100_000.0, 10), 700)
    assert isinstance(await it.limiter.take(f"{job.id}/1", [candidate]), Grant)

    assert await recovery(it).take_over(job) is job

    assert (await it.bucket("a")).in_flight == 0


async def test_a_lease_of_an_answered_job_is_given_back(it: World) -> None:
    """The worker died between the answer and its settlement."""
    job = it.job()
    candidate = Candidate("a", "bucket-a", "c", Limits(1000.0, 100_000.0, 10), 700)
    assert isinstance(await it.limiter.take(f"{job.id}/1", [candidate]), Grant)
    row = Outcome(job.id, 1, 0.0, "chat.completions", "m", "m", "a", "openai", "m", Status.SUCCESS)
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.COMPLETED, b"{}", {"outcome": row})])

    assert await recovery(it).take_over(job) == Finished(rows=[row])

    assert (await it.bucket("a")).in_flight == 0
    assert it.outcomes == [row]


async def test_of_two_copies_of_a_job_one_runs_and_the_other_waits(it: World) -> None:
    job = it.job()
    note(it, job, 1)

    first, second = await asyncio.gather(recovery(it).take_over(job), recovery(it).take_over(job))

    assert sorted(type(each).__name__ for each in (first, second)) == ["Finished", "Job"]
    ((copy, delay),) = it.queue.published
    assert (copy.attempt, copy.suspect) == (1, True)
    assert delay > 0
