"""The output: a batch ends as what happened to it says, with every line in one of its files."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from broker.records import BatchRecord, BatchStatus
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import Ending, JobState
from tests.fakes.accounts import NotedAccounts
from tests.fakes.batching import Desk, a_line, json_lines, memory_backends, simulated_catalog
from tests.fakes.clock import FakeClock
from workers import batch_output
from workers.batch_intake import BatchIntake
from workers.batch_output import BatchOutput

DAY = 86_400.0


@dataclass
class Scene(Desk):
    clock: FakeClock
    output: BatchOutput

    async def running(self, lines: int, *, released: int = 0, **fields: Any) -> tuple[BatchRecord, list[str]]:
        """A batch in progress, its first lines on their lane; with the ids of its lines."""
        batch = await self.batch(json_lines([a_line(number) for number in range(1, lines + 1)]), **fields)
        await BatchIntake(self.backends.store, simulated_catalog(), self.clock).round()
        ids = [record.job.id for record in await self.backends.store.jobs.head("alice", "simulated", lines)]
        await self.backends.store.jobs.move(ids[:released], JobState.DISPATCHED, self.clock.now())
        return await self.batch_of(batch.id), ids

    async def end(self, ids: Sequence[str], state: JobState = JobState.COMPLETED) -> None:
        """What the recorder does."""
        error = None if state is JobState.COMPLETED else InvalidRequest("wrong").to_wire()
        answer = b'{"answer": 42}' if state is JobState.COMPLETED else b""
        now = self.clock.now()
        await self.backends.store.record([], [Ending(id, state, now, 1, answer=answer, error=error) for id in ids])

    async def rounds(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            await self.output.round()
            self.clock.advance(step)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock(time.time())  # the store of files has no other
    async with memory_backends(clock) as backends:
        yield Scene(backends, clock, BatchOutput(backends, clock))


async def test_a_batch_completes_when_its_last_line_ends_with_every_line_in_a_file() -> None:
    async with scene() as it:
        batch, ids = await it.running(3, released=3)
        await it.end(ids[:2])
        await it.output.round()
        assert (await it.batch_of(batch.id)).status is BatchStatus.IN_PROGRESS

        await it.end(ids[2:], JobState.FAILED)
        await it.output.round()

        after = await it.batch_of(batch.id)
        assert (after.status, after.completed, after.failed) == (BatchStatus.COMPLETED, 2, 1)
        assert set(after.stamps) >= {"in_progress", "finalizing", "completed"}
        answers = await it.rows_of(after.output_file_id)
        assert [(row["custom_id"], row["response"]["body"]) for row in answers] == [
            ("line-1", {"answer": 42}), ("line-2", {"answer": 42}),
        ]  # fmt: skip
        errors = await it.rows_of(after.error_file_id)
        assert [(row["custom_id"], row["response"]["status_code"]) for row in errors] == [("line-3", 400)]


async def test_the_files_are_the_owners_and_live_for_30_days_from_their_creation() -> None:
    async with scene() as it:
        batch, ids = await it.running(1, released=1)
        await it.end(ids)
        it.clock.advance(100)
        await it.output.round()

        after = await it.batch_of(batch.id)
        file = await it.backends.store.files.get(after.output_file_id, "alice")
        assert file is not None
        assert (file.purpose, file.created_at, file.expires_at) == (
            "batch_output", it.clock.now(), it.clock.now() + 30 * DAY,
        )  # fmt: skip
        assert file.bytes == len(await it.text_of(file.id))


async def test_the_batch_may_ask_for_another_life_of_its_files() -> None:
    async with scene() as it:
        batch, ids = await it.running(1, released=1, output_expires_after=3600.0)
        await it.end(ids)
        await it.output.round()

        file = await it.backends.store.files.get((await it.batch_of(batch.id)).output_file_id)
        assert file is not None
        assert file.expires_at == it.clock.now() + 3600


async def test_a_batch_without_failed_lines_has_no_error_file() -> None:
    async with scene() as it:
        batch, ids = await it.running(1, released=1)
        await it.end(ids)
        await it.output.round()

        assert (await it.batch_of(batch.id)).error_file_id == ""


async def test_a_large_output_is_written_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_output, "_FILE_CHUNK", 100)
    async with scene() as it:
        batch, ids = await it.running(20, released=20)
        await it.end(ids)
        await it.output.round()

        rows = await it.rows_of((await it.batch_of(batch.id)).output_file_id)
        assert [row["custom_id"] for row in rows] == [f"line-{number}" for number in range(1, 21)]


async def test_an_output_that_died_in_the_middle_starts_over_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_output, "_FILE_CHUNK", 100)
    async with scene() as it:
        batch, ids = await it.running(20, released=20)
        await it.end(ids)
        files = it.backends.store.files
        really, written = files.write, 0

        async def write(file_id: str, number: int, data: bytes) -> None:
            nonlocal written
            written += 1
            if written > 3:
                raise Unavailable("the store went away")
            await really(file_id, number, data)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
            patch.setattr(files, "write", write)
            await it.output.round()
        assert (await it.batch_of(batch.id)).status is BatchStatus.FINALIZING

        await BatchOutput(it.backends, it.clock).round()

        after = await it.batch_of(batch.id)
        assert after.status is BatchStatus.COMPLETED
        assert len(await it.rows_of(after.output_file_id)) == 20


async def test_a_sealed_file_of_a_crash_before_the_last_step_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as it:
        batch, ids = await it.running(2, released=2)
        await it.end(ids)
        batches = it.backends.store.batches
        really = batches.move

        async def move(batch_id: str, status: BatchStatus, now: float, **fields: Any) -> BatchRecord | None:
            if status is BatchStatus.COMPLETED:
                raise Unavailable("the store went away")
            return await really(batch_id, status, now, **fields)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
            patch.setattr(batches, "move", move)
            await it.output.round()

        await it.output.round()

        after = await it.batch_of(batch.id)
        assert after.status is BatchStatus.COMPLETED
        assert len(await it.rows_of(after.output_file_id)) == 2


async def test_cancelling_ends_queued_lines_at_once_and_waits_for_those_that_run() -> None:
    async with scene() as it:
        batch, ids = await it.running(5, released=2)
        await it.end(ids[:1])
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.IN_PROGRESS]
        )

        await it.rounds(5)

        assert await it.backends.log.is_cancelled(ids[1], since=0)
        waiting = await it.batch_of(batch.id)
        assert (waiting.status, waiting.failed) == (BatchStatus.CANCELLING, 3)

        await it.end([ids[1]], JobState.CANCELLED)
        await it.output.round()

        after = await it.batch_of(batch.id)
        assert (after.status, after.completed, after.failed) == (BatchStatus.CANCELLED, 1, 4)
        assert len(await it.rows_of(after.output_file_id)) == 1
        assert {row["error"]["code"] for row in await it.rows_of(after.error_file_id)} == {"batch_cancelled"}


async def test_a_line_that_does_not_stop_is_ended_in_the_store_after_two_minutes() -> None:
    async with scene() as it:
        batch, _ = await it.running(1, released=1)
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.IN_PROGRESS]
        )

        await it.rounds(118, step=2)
        assert (await it.batch_of(batch.id)).status is BatchStatus.CANCELLING

        await it.rounds(8, step=2)

        after = await it.batch_of(batch.id)
        assert (after.status, after.failed) == (BatchStatus.CANCELLED, 1)


async def test_a_line_that_its_lane_refused_during_the_cancellation_is_cancelled_too() -> None:
    async with scene() as it:
        batch, ids = await it.running(1, released=1)
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.IN_PROGRESS]
        )
        await it.rounds(2)
        await it.backends.store.jobs.move(ids, JobState.QUEUED, it.clock.now())

        await it.rounds(3)

        assert (await it.batch_of(batch.id)).status is BatchStatus.CANCELLED


async def test_a_batch_cancelled_before_any_line_was_taken_in_ends_without_files() -> None:
    async with scene() as it:
        batch = await it.batch(json_lines([a_line(1)]))
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.VALIDATING]
        )

        await it.output.round()

        after = await it.batch_of(batch.id)
        assert (after.status, after.output_file_id, after.error_file_id) == (BatchStatus.CANCELLED, "", "")


async def test_when_its_window_has_passed_the_rest_of_a_batch_expires() -> None:
    async with scene() as it:
        batch, ids = await it.running(4, released=2)
        await it.end(ids[:1])
        it.clock.advance(DAY)

        await it.rounds(3)
        assert (await it.batch_of(batch.id)).failed == 2

        await it.rounds(12)

        after = await it.batch_of(batch.id)
        assert (after.status, after.completed, after.failed) == (BatchStatus.EXPIRED, 1, 3)
        assert {row["error"]["code"] for row in await it.rows_of(after.error_file_id)} == {"batch_expired"}
        assert len(await it.rows_of(after.output_file_id)) == 1


async def test_lines_of_a_providers_batch_get_longer_to_be_called_back() -> None:
    async with scene() as it:
        batch, ids = await it.running(1)
        await it.backends.store.jobs.consign(ids, "pb-1", it.clock.now())
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.IN_PROGRESS]
        )

        await it.rounds(600, step=10)
        assert (await it.batch_of(batch.id)).status is BatchStatus.CANCELLING

        await it.rounds(330, step=10)
        assert (await it.batch_of(batch.id)).status is BatchStatus.CANCELLED


async def test_looks_are_rarer_while_no_batch_is_unfinished_and_most_frequent_when_few_lines_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_output, "_FEW", 2)
    async with scene() as it:
        assert await it.output.round() == batch_output.IDLE
        _, ids = await it.running(4, released=4)
        assert await it.output.round() == batch_output.BUSY

        await it.end(ids[:2])
        assert await it.output.round() == batch_output.SOON


@pytest.mark.parametrize(("per_batch", "pause"), [(0.4, 0.8), (60.0, batch_output.LONGEST)])
async def test_looks_are_rarer_with_many_batches(
    monkeypatch: pytest.MonkeyPatch, per_batch: float, pause: float
) -> None:
    monkeypatch.setattr(batch_output, "PER_BATCH", per_batch)
    async with scene() as it:
        await it.running(1)
        await it.running(1)

        assert await it.output.round() == pause


async def test_lines_that_are_ended_while_they_run_give_back_what_they_hold() -> None:
    async with scene() as it:
        accounts = NotedAccounts()
        it.output = BatchOutput(replace(it.backends, accounts=accounts), it.clock)
        _, ids = await it.running(3, released=2)
        it.clock.advance(DAY)

        await it.rounds(20)

        assert sorted(each.job_id for each in accounts.finished) == sorted(ids[:2])
