"""The reaper: a lost job runs again, a slow one is left alone, a late one ends."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from broker.backends import Backends
from broker.records import JobRecord
from shared.accounts import charged
from shared.events import Event, Kind
from shared.jobs import Ending, Job, JobState, Lane, Outcome, Status
from tests.fakes.accounts import NotedAccounts
from tests.fakes.batching import a_job, a_record, memory_backends
from tests.fakes.clock import FakeClock
from workers import reaper
from workers.reaper import Reaper, patience


@dataclass
class Scene:
    clock: FakeClock
    backends: Backends
    reaper: Reaper

    async def add(self, state: JobState, *, dispatches: int = 1, **changes: Any) -> Job:
        job = a_job(self.clock, **changes)
        await self.backends.store.jobs.add(a_record(job, state, dispatches=dispatches))
        return job

    async def row(self, job: Job) -> JobRecord:
        record = await self.backends.store.jobs.get(job.id)
        assert record is not None
        return record

    async def state(self, job: Job) -> JobState:
        return (await self.row(job)).state

    async def waiting(self, lane: Lane = Lane.BATCH) -> list[Job]:
        """Jobs on the lane, taken off it."""
        (stats,) = [each for each in await self.backends.queue.stats() if each.lane is lane]
        taken = []
        async with self.backends.queue.consume(["simulated"], 10_000, [lane]) as consumer:
            for _ in range(stats.depth):
                delivery = await consumer.get()
                taken.append(delivery.job)
                await delivery.ack()
        return taken

    async def note(self, job: Job, worker: str, attempt: int = 1, **meta: Any) -> None:
        note = {"attempt": attempt, "worker": worker, "deployment": "d", "at": self.clock.now(), "queue_wait": 0.0}
        await self.backends.log.mark_started(Event(job.id, 0, Kind.STARTED, meta=note | meta))

    async def pass_(self, seconds: float, step: float = 3.0) -> None:
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            await self.reaper.round()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock(time.time())
    async with memory_backends(clock) as backends:
        yield Scene(clock, backends, Reaper(backends, clock))


@pytest.mark.parametrize(
    ("dispatches", "seconds"), [(0, 60), (1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (50, 600)]
)
def test_patience_doubles_with_each_dispatch_up_to_ten_minutes(dispatches: int, seconds: float) -> None:
    assert patience(dispatches) == seconds


async def test_a_publish_that_nobody_finished_is_made_again_after_five_seconds() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHING)

        await it.pass_(3)
        assert await it.waiting() == []

        await it.pass_(6)
        (again,) = await it.waiting()
        assert (again.id, again.suspect, again.body) == (job.id, True, job.body)
        row = await it.row(job)
        assert (row.state, row.dispatches) == (JobState.DISPATCHED, 2)


async def test_a_publish_that_was_only_not_noted_is_noted() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHING)
        await it.backends.log.announce("alive", 600)
        await it.note(job, "alive")

        await it.pass_(9)

        assert await it.state(job) is JobState.DISPATCHED
        assert await it.waiting() == []


async def test_a_job_of_which_no_worker_knows_is_published_again_after_a_minute() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)

        await it.pass_(57)
        assert await it.waiting() == []

        await it.pass_(9)
        (again,) = await it.waiting()
        assert (again.id, again.suspect) == (job.id, True)


async def test_the_next_copy_takes_twice_as_long() -> None:
    async with scene() as it:
        await it.add(JobState.DISPATCHED)
        await it.pass_(66)
        assert len(await it.waiting()) == 1

        await it.pass_(111)
        assert await it.waiting() == []

        await it.pass_(30)
        assert len(await it.waiting()) == 1


async def test_a_job_that_a_living_worker_has_is_left_alone_for_as_long_as_it_takes() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.backends.log.announce("alive", 100_000)
        await it.note(job, "alive")

        await it.pass_(1_800, step=30)

        assert await it.waiting() == []
        assert (await it.row(job)).dispatches == 1


async def test_a_job_whose_worker_died_is_published_again() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.note(job, "dead", attempt=2)

        await it.pass_(66)

        (again,) = await it.waiting()
        assert (again.id, again.attempt) == (job.id, 1)


async def test_a_job_that_was_lost_between_two_attempts_goes_on_with_the_next() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.note(job, "worker")
        await it.backends.log.mark_started(Event(job.id, 0, Kind.STARTED, meta={"attempt": 1, "moved": True}))

        await it.pass_(66)

        (again,) = await it.waiting()
        assert again.attempt == 2


async def test_a_job_behind_others_on_a_lane_that_stands_still_is_not_lost() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.backends.queue.publish(job)

        await it.pass_(1_200, step=30)

        assert len(await it.waiting()) == 1


async def test_a_job_on_a_paused_lane_is_not_lost() -> None:
    async with scene() as it:
        await it.add(JobState.DISPATCHED)
        await it.backends.log.pause_lane("simulated.batch", True)

        await it.pass_(1_200, step=30)

        assert await it.waiting() == []


async def test_a_job_that_ended_is_not_run_again_while_its_ending_waits_for_the_recorder() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.backends.log.emit("", [Event(job.id, 1, Kind.COMPLETED, b"{}", {})])
        await it.backends.queue.record([an_outcome(job)], [Ending(job.id, JobState.COMPLETED, 1.0, 1)])

        await it.pass_(120)
        assert await it.waiting() == []

        async with it.backends.queue.outcomes(1) as batches:
            await (await anext(batches)).ack()
        await it.pass_(66)
        assert [each.id for each in await it.waiting()] == [job.id]


async def test_long_running_jobs_do_not_hide_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_PAGE", 2)
    monkeypatch.setattr(reaper, "_MOST_PAGES", 1)
    async with scene() as it:
        await it.backends.log.announce("alive", 100_000)
        for _ in range(6):
            await it.note(await it.add(JobState.DISPATCHED), "alive")
        it.clock.advance(1)
        lost = await it.add(JobState.DISPATCHED)

        await it.pass_(90)

        assert [job.id for job in await it.waiting()] == [lost.id]


async def test_a_queued_job_past_its_deadline_expires() -> None:
    async with scene() as it:
        job = await it.add(JobState.QUEUED, deadline=it.clock.now() + 10)

        await it.pass_(12)
        assert await it.state(job) is JobState.QUEUED

        await it.pass_(6)
        row = await it.row(job)
        assert row.state is JobState.EXPIRED
        assert row.ending is not None
        assert row.ending.error is not None
        assert row.ending.error["code"] == "deadline_exceeded"


async def test_a_running_job_past_its_deadline_is_cancelled_and_its_followers_are_told() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED, deadline=it.clock.now() + 10)
        await it.backends.log.emit("", [Event(job.id, 1, Kind.CHUNK, b"data: x\n\n")])

        await it.pass_(18)

        assert await it.state(job) is JobState.EXPIRED
        assert await it.backends.log.is_cancelled(job.id, since=0)
        last = (await it.backends.log.replay(job.id))[-1]
        assert (last.seq, last.kind, last.meta["error"]["code"]) == (2, Kind.FAILED, "deadline_exceeded")


async def test_a_job_that_comes_again_goes_on_after_the_attempts_on_the_bill() -> None:
    async with scene() as it:
        job = await it.add(JobState.DISPATCHED)
        await it.backends.store.record([an_outcome(job), replace(an_outcome(job), attempt=2)])

        await it.pass_(66)

        (again,) = await it.waiting()
        assert again.attempt == 3


async def test_what_the_last_process_had_on_its_queue_waits_again_and_comes_back_as_suspect() -> None:
    async with scene() as it:
        old = [await it.add(state) for state in (JobState.DISPATCHING, JobState.DISPATCHED, JobState.DISPATCHED)]
        consigned = await it.add(JobState.CONSIGNED)
        it.clock.advance(1)
        began = it.clock.now()
        it.clock.advance(1)
        new = await it.add(JobState.DISPATCHED)

        await it.reaper.put_back(began)

        assert [await it.state(job) for job in old] == [JobState.QUEUED] * 3
        assert [await it.state(job) for job in (consigned, new)] == [JobState.CONSIGNED, JobState.DISPATCHED]


async def test_putting_back_goes_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_PAGE", 2)
    async with scene() as it:
        jobs = [await it.add(JobState.DISPATCHED) for _ in range(7)]
        it.clock.advance(1)

        await it.reaper.put_back(it.clock.now())

        assert {await it.state(job) for job in jobs} == {JobState.QUEUED}


def an_outcome(job: Job) -> Outcome:
    return Outcome(
        job_id=job.id, attempt=1, started_at=0.0, endpoint=job.endpoint, model="echo", group="echo", deployment="d",
        provider="simulated", upstream_model="echo", status=Status.SUCCESS,
    )  # fmt: skip


async def test_what_ends_late_gives_back_what_it_holds_unless_it_was_never_released() -> None:
    async with scene() as it:
        accounts = NotedAccounts()
        late = it.clock.now() + 10
        running = await it.add(JobState.DISPATCHED, deadline=late, accounts=("key:alice",))
        line = await it.add(JobState.DISPATCHING, deadline=late)
        await it.add(JobState.CONSIGNED, deadline=late)
        it.reaper = Reaper(replace(it.backends, accounts=accounts), it.clock)

        await it.pass_(18)

        assert {each.job_id: each.accounts for each in accounts.finished} == {
            running.id: ("key:alice",),
            line.id: tuple(charged(line)),
        }


async def test_a_line_that_is_published_again_names_all_accounts_that_it_may_have() -> None:
    async with scene() as it:
        line = await it.add(JobState.DISPATCHED)

        await it.pass_(66)

        (again,) = await it.waiting()
        assert again.accounts == tuple(charged(line))
