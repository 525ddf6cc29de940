"""The purge: what has outlived its time goes, page by page, and nothing else."""

import time
from dataclasses import replace

import pytest

from broker.records import DeadLetter, FileRecord, SpendQuery
from shared.jobs import Ending, JobState, Outcome, Status
from tests.fakes.batching import a_job, a_record, memory_backends
from tests.fakes.clock import FakeClock
from workers import purge
from workers.purge import Purge


async def test_expired_results_and_files_and_old_letters_go_and_the_rest_stays() -> None:
    clock = FakeClock(time.time() - 40 * 86_400)
    async with memory_backends(clock) as backends:
        store = backends.store
        job, kept = a_job(clock), a_job(clock)
        for each in (job, kept):
            await store.jobs.add(a_record(each, result_ttl=60.0))
        await store.jobs.end([Ending(job.id, JobState.CANCELLED, clock.now(), attempts=0)])
        await store.files.create(FileRecord("file-abandoned", "alice", "a", "batch", clock.now()))
        letter = DeadLetter("job-1", "simulated", "crashed", b"{}", b"", clock.now())
        await store.dead_letters.add([letter, replace(letter, job_id="job-2", died_at=clock.now() + 20 * 86_400)])
        clock.advance(31 * 86_400)

        assert await Purge(store, clock).round() == purge.PAUSE

        assert await store.jobs.get(job.id) is None
        assert await store.jobs.get(kept.id) is not None
        assert [each.job_id for each in await store.dead_letters.find()] == ["job-2"]


async def test_a_round_that_left_something_is_followed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "_PAGE", 2)
    monkeypatch.setattr(purge, "_MOST_PAGES", 2)
    clock = FakeClock(time.time())
    async with memory_backends(clock) as backends:
        jobs = [a_job(clock) for _ in range(5)]
        for job in jobs:
            await backends.store.jobs.add(a_record(job, result_ttl=0.0))
        await backends.store.jobs.end([Ending(job.id, JobState.CANCELLED, clock.now(), attempts=0) for job in jobs])
        clock.advance(1)
        part = Purge(backends.store, clock)

        assert await part.round() < purge.PAUSE
        assert await part.round() == purge.PAUSE


async def test_rows_of_the_ledger_go_when_their_time_is_over_and_only_if_the_config_says_so() -> None:
    clock = FakeClock(time.time())
    async with memory_backends(clock) as backends:
        rows = [
            Outcome(
                f"job-{age}", 1, clock.now() - age * 86_400, "chat.completions", "m", "m", "d", "p", "m", Status.SUCCESS
            )
            for age in (1, 29, 31)
        ]
        await backends.store.record(rows)

        await Purge(backends.store, clock).round()
        kept = {row.job_id for row in await backends.store.spend(SpendQuery())}
        await Purge(backends.store, clock, retention=30 * 86_400).round()

        assert kept == {"job-1", "job-29", "job-31"}
        assert {row.job_id for row in await backends.store.spend(SpendQuery())} == {"job-1", "job-29"}
