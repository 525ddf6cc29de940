"""Batches from the file to the output, all in one process: keeper, worker, memory seams, simulated model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.backends import Backends
from broker.events.memory import MemoryEventLog
from broker.queues.memory import MemoryQueue
from broker.records import BatchRecord, BatchStatus, JobRecord, Progress
from shared.clock import SystemClock
from shared.errors import Unavailable
from shared.jobs import JobState
from shared.settings import Settings
from tests.fakes.batching import (
    Desk,
    a_job,
    a_line,
    a_record,
    eventually,
    json_lines,
    memory_backends,
    simulated_catalog,
)
from workers import keeper
from workers.keeper import PARTS, Keeper, Surroundings
from workers.pipeline import Seams
from workers.worker import Worker

CLOCK = SystemClock()


async def _prepared() -> bool:
    return True


def surroundings(backends: Backends, **fields: Any) -> Surroundings:
    return replace(Surroundings(backends, simulated_catalog(), Settings(), CLOCK, _prepared), **fields)


@asynccontextmanager
async def kept(around: Surroundings, *parts: str) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Keeper(around, parts or PARTS).run())
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def worked(backends: Backends) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    seams = Seams(backends.queue, backends.log, backends.limiter, simulated_catalog(), CLOCK, backends.store)
    async with asyncio.TaskGroup() as group:
        group.create_task(Worker(seams, ["simulated"], concurrency=64, grace=5).run(stopping))
        try:
            yield
        finally:
            stopping.set()


async def ended(desk: Desk, *batches: BatchRecord) -> list[BatchRecord]:
    async def final() -> bool:
        return all([(await desk.batch_of(batch.id)).status.final for batch in batches])

    await eventually(final, seconds=90)
    return [await desk.batch_of(batch.id) for batch in batches]


async def test_batches_of_two_tenants_complete_with_the_right_counts_and_files() -> None:
    async with memory_backends(CLOCK) as backends, kept(surroundings(backends)), worked(backends):
        desk = Desk(backends, CLOCK)
        good = json_lines([a_line(number) for number in range(300)])
        bad = [b"not json\n", json_lines([a_line(5)]), json_lines([a_line(601, body={"model": "nobody"})])]

        alices, bobs = await ended(desk, await desk.batch(good + b"".join(bad), "alice"), await desk.batch(good, "bob"))

        assert (alices.status, alices.total, alices.completed, alices.failed) == (BatchStatus.COMPLETED, 303, 300, 3)
        assert (bobs.status, bobs.total, bobs.completed, bobs.failed) == (BatchStatus.COMPLETED, 300, 300, 0)
        answers = await desk.rows_of(alices.output_file_id)
        assert [row["custom_id"] for row in answers] == [f"line-{number}" for number in range(300)]
        assert answers[7]["response"]["body"]["choices"][0]["message"]["content"] == "question 7"
        errors = await desk.rows_of(alices.error_file_id)
        assert [(row["custom_id"], row["line"], row["response"]["body"]["error"]["code"]) for row in errors] == [
            (None, 301, "invalid_json_line"), ("line-5", 302, "duplicate_custom_id"),
            ("line-601", 303, "model_not_found"),
        ]  # fmt: skip
        assert bobs.error_file_id == ""
        assert (await backends.store.summary()).attempts == 600


async def test_a_batch_that_is_cancelled_while_it_runs_keeps_what_is_done() -> None:
    async with memory_backends(CLOCK) as backends, kept(surroundings(backends)), worked(backends):
        desk = Desk(backends, CLOCK)
        # All would take a quarter of a minute: it runs when it is cancelled, however late this test has its turn.
        slow = {"simulated": {"latency": 1.0}}
        lines = [a_line(number, body=slow if number >= 100 else {}) for number in range(1000)]
        batch = await desk.batch(json_lines(lines))

        async def some_are_done() -> bool:
            now = await desk.batch_of(batch.id)
            return now.status is BatchStatus.IN_PROGRESS and now.completed > 50

        await eventually(some_are_done)
        await backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, CLOCK.now(), expected=[BatchStatus.IN_PROGRESS]
        )

        (after,) = await ended(desk, batch)
        assert after.status is BatchStatus.CANCELLED
        assert after.completed + after.failed == 1000
        assert len(await desk.rows_of(after.output_file_id)) == after.completed


async def test_a_batch_that_is_cancelled_while_its_file_is_read_keeps_what_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_backends(CLOCK) as backends:
        desk, batches = Desk(backends, CLOCK), backends.store.batches
        reading_on = asyncio.Event()
        really = batches.take_in

        async def take_in(batch_id: str, records: Sequence[JobRecord], progress: Progress, *, held: bool) -> bool:
            if progress.lines_read > 200:
                await reading_on.wait()
            return await really(batch_id, records, progress, held=held)

        monkeypatch.setattr(batches, "take_in", take_in)
        async with kept(surroundings(backends)), worked(backends):
            batch = await desk.batch(json_lines([a_line(number) for number in range(1000)]))

            async def what_was_read_is_done() -> bool:
                return (await desk.batch_of(batch.id)).completed == 200

            await eventually(what_was_read_is_done)
            await batches.move(batch.id, BatchStatus.CANCELLING, CLOCK.now(), expected=[BatchStatus.VALIDATING])
            reading_on.set()

            (after,) = await ended(desk, batch)
        assert (after.status, after.total, after.completed) == (BatchStatus.CANCELLED, 200, 200)
        assert len(await desk.rows_of(after.output_file_id)) == 200


async def test_the_next_process_goes_on_with_what_the_last_had_in_memory() -> None:
    async with memory_backends(CLOCK) as backends:
        desk = Desk(backends, CLOCK)
        batch = await desk.batch(json_lines([a_line(number) for number in range(100)]))
        async with kept(surroundings(backends), "batches", "feeder"):
            await eventually(lambda: backends.queue.head("simulated", "batch"))  # type: ignore[attr-defined]

        async with MemoryQueue(1_000) as queue, MemoryEventLog() as log:
            await queue.declare(["simulated"])
            after_restart = replace(backends, queue=queue, log=log)
            async with kept(surroundings(after_restart)), worked(after_restart):
                (after,) = await ended(desk, batch)

        assert (after.status, after.completed) == (BatchStatus.COMPLETED, 100)
        assert (await backends.store.summary()).attempts == 100


async def test_only_the_chosen_parts_run() -> None:
    async with memory_backends(CLOCK) as backends, kept(surroundings(backends), "batches"):
        desk = Desk(backends, CLOCK)
        batch = await desk.batch(json_lines([a_line(1)]))

        async def in_progress() -> bool:
            return (await desk.batch_of(batch.id)).status is BatchStatus.IN_PROGRESS

        await eventually(in_progress)
        assert [flow.jobs for flow in await backends.store.jobs.flows()] == [1]


async def test_parts_wait_for_the_stores_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_FIRST_BACKOFF", 0.001)
    asked = 0

    async def prepared() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    async with memory_backends(CLOCK) as backends:
        job = a_job(CLOCK)
        await backends.store.jobs.add(a_record(job))
        async with kept(surroundings(backends, prepared=prepared), "feeder"):

            async def released() -> bool:
                record = await backends.store.jobs.get(job.id)
                return record is not None and record.state is JobState.DISPATCHED

            await eventually(released)

    assert asked == 4


async def test_a_part_whose_server_was_away_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_FIRST_BACKOFF", 0.001)
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise Unavailable("the queue is away")
        if runs == 2:
            raise RuntimeError("a bug")

    with capture_logs() as logs:
        await keeper._going_on("part", run, once=True)

    assert [entry["event"] for entry in logs] == ["part_waits_for_a_server", "part_failed"]


async def test_a_lease_is_kept_while_the_keeper_runs_and_given_up_when_it_stops() -> None:
    async with memory_backends(CLOCK) as backends:
        job = a_job(CLOCK)
        await backends.store.jobs.add(a_record(job))
        async with kept(surroundings(backends, settings=Settings(rabbitmq_url="amqp://somewhere")), "feeder"):

            async def released() -> bool:
                record = await backends.store.jobs.get(job.id)
                return record is not None and record.state is JobState.DISPATCHED

            await eventually(released)
            assert not await backends.store.lease("feeder", "another", 1, CLOCK.now())

        assert await backends.store.lease("feeder", "another", 1, CLOCK.now())
