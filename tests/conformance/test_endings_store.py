"""What `broker.store_interfaces.Store.record` promises of the endings of jobs, on every implementation."""

import asyncio

import orjson
import pytest

from broker.records import Progress
from broker.store.database import Database, connect
from shared.errors import InvalidRequest
from shared.jobs import JobState
from tests.conformance.durable_jobs import (
    NOW,
    a_batch,
    a_job,
    a_line,
    a_record,
    an_ending,
    counts,
    running,
)
from tests.conformance.ledgers import an_outcome
from tests.conformance.test_ledger import deadlocks


async def test_endings_are_counted_in_their_batches_together_with_the_ledger(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 6)])
    await store.jobs.add(a_record(a_job("single")))
    states = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED]
    endings = [an_ending(job_id, state) for job_id, state in zip(ids, states, strict=False)]

    new = await store.record([an_outcome(job_id) for job_id in ids], [*endings, an_ending("single"), an_ending("gone")])

    assert new == 5
    assert await counts(store) == (5, 1, 3, 28)
    assert (await store.summary()).attempts == 5
    assert await store.batches.unfinished_lines("batch_1") == {JobState.QUEUED: 1}


async def test_endings_delivered_again_are_not_counted_again(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in (1, 2)])
    endings = [an_ending(job_id) for job_id in ids]
    await store.record([an_outcome(ids[0])], endings[:1])

    new = await store.record([an_outcome(ids[0]), an_outcome(ids[1])], [*endings, *endings])

    assert new == 1
    assert await counts(store) == (2, 2, 0, 14)


async def test_endings_without_outcomes_are_recorded(store: Database) -> None:
    (job_id,) = await running(store, [a_line()])

    assert await store.record([], [an_ending(job_id)]) == 0

    assert await counts(store) == (1, 1, 0, 7)


async def test_outcomes_and_endings_are_recorded_whole_or_not_at_all(store: Database) -> None:
    (job_id,) = await running(store, [a_line()])

    with pytest.raises(InvalidRequest):
        await store.record([an_outcome()], [an_ending(job_id, cost=2**70)])
    with pytest.raises(InvalidRequest):
        await store.record([an_outcome(duration=float("nan"))], [an_ending(job_id)])

    assert (await store.summary()).attempts == 0
    assert await counts(store) == (1, 0, 0, 0)


async def test_recorders_with_the_same_endings_in_any_order_count_them_once(shared_url: str) -> None:
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()
        ids = await running(one, [a_line(line=number) for number in range(1, 301)])
        await one.batches.add(a_batch("batch_2"))
        lines = [a_line("batch_2", number) for number in range(1, 301)]
        await one.batches.take_in("batch_2", lines, Progress(300, 1))
        outcomes = [an_outcome(job_id) for job_id in ids]
        endings = [an_ending(job_id) for job_id in (*ids, *(line.job.id for line in lines))]

        await asyncio.gather(
            one.record(outcomes, endings),
            other.record(outcomes[::-1], endings[::-1]),
            # Without outcomes nothing makes them wait for each other before they reach the jobs.
            *(one.record([], endings) for _ in range(2)),
            *(other.record([], endings[::-1]) for _ in range(2)),
            one.jobs.move(ids[::-1], JobState.DISPATCHED, NOW),
        )

        assert await counts(one) == (300, 300, 0, 2_100)
        assert (await one.summary()).attempts == 300

    assert await deadlocks(shared_url) == 0  # the store would hide one by trying again


@pytest.mark.parametrize("through_record", [True, False])
@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
async def test_a_webhook_is_owed_once_for_a_job_that_ended(
    store: Database, state: JobState, through_record: bool
) -> None:
    url = "https://example.com/hook"
    await store.jobs.add(a_record(a_job("told", key="k1"), webhook=url, custom_id="mine"))
    await store.jobs.add(a_record(a_job("silent", key="k1")))
    endings = [an_ending(job_id, state, finished_at=1_767_225_600.25) for job_id in ("told", "silent")]

    for _ in range(2):
        if through_record:
            await store.record([], endings)
        else:
            await store.jobs.end(endings)

    (delivery,) = await store.webhooks.find("k1")
    assert (delivery.type, delivery.subject, delivery.url, delivery.attempts) == (f"job.{state}", "told", url, 0)
    assert orjson.loads(delivery.payload) == {
        "type": f"job.{state}",
        "timestamp": "2026-01-01T00:00:00.250Z",
        "data": {"id": "told", "object": "job", "status": str(state), "model": "fast", "custom_id": "mine"},
    }
