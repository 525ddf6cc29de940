"""Batches as a whole: what `broker.store_interfaces.Batches` promises of them, on every implementation."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from broker.records import BatchQuery, BatchRecord, BatchStatus, Progress, ProviderBatch
from broker.store.database import Database, connect
from tests.conformance.durable_jobs import (
    ANY,
    HOUR,
    NOW,
    VALIDATING,
    a_bad_line,
    a_batch,
    a_line,
    running,
    the_batch,
)

# --- Batches ----------------------------------------------------------------------------------------------------------


async def test_every_field_of_a_batch_comes_back_as_it_went_in(store: Database) -> None:
    batch = BatchRecord(
        id="batch_1",
        owner="ab" * 32,
        tenant="t1",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_at=NOW + 0.123456,
        expires_at=NOW + HOUR,
        status=BatchStatus.FINALIZING,
        metadata={"a": "b\x00\U0001f980"},
        priority=-100,
        output_expires_after=3600.5,
        webhook="https://example.com/" + "x" * 1_000,
        user="u1",
        stamps={"validating": NOW, "finalizing": NOW + 1},
        errors=({"code": "x", "message": "y", "param": None, "line": 3},),
        total=50_000,
        completed=2,
        failed=3,
        cost=2**53 + 1,
        lines_read=4,
        bytes_read=2**40,
        output_file_id="file-2",
        error_file_id="file-3",
        idempotency_key="key",
        request_hash="cd" * 32,
    )

    await store.batches.add(batch)
    await store.batches.add(replace(batch, priority=5))

    assert await store.batches.get("batch_1") == batch


async def test_a_batch_is_there_for_its_owner_and_for_those_who_see_everything(store: Database) -> None:
    await store.batches.add(a_batch(owner="k1"))

    found = [await store.batches.get("batch_1", owner) is not None for owner in ("k1", "k2", "", None)]

    assert found == [True, False, False, True]
    assert await store.batches.get("another") is None


BATCH_QUERIES = [
    (BatchQuery(), "dcba"),
    (BatchQuery(limit=0), "d"),
    (BatchQuery(limit=2), "dc"),
    (BatchQuery(limit=2, after="c"), "ba"),
    (BatchQuery(owner="k1"), "ca"),
    (BatchQuery(owner="k1", after="c"), "a"),
    (BatchQuery(owner="k1", after="d"), ""),
    (BatchQuery(statuses=(BatchStatus.FAILED, BatchStatus.COMPLETED)), "ba"),
    (BatchQuery(after="nowhere"), ""),
]


@pytest.mark.parametrize(("query", "expected"), BATCH_QUERIES)
async def test_batches_are_found_newest_first(store: Database, query: BatchQuery, expected: str) -> None:
    statuses = {"a": BatchStatus.FAILED, "b": BatchStatus.COMPLETED}
    for age, name in enumerate("dcba"):
        status = statuses.get(name, BatchStatus.IN_PROGRESS)
        await store.batches.add(
            a_batch(name, owner="k1" if name in "ac" else "k2", created_at=NOW - age, status=status)
        )

    found = await store.batches.find(query)

    assert "".join(batch.id for batch in found) == expected


# --- Idempotency ------------------------------------------------------------------------------------------------------


async def test_the_second_batch_under_a_key_is_the_first(store: Database) -> None:
    first = a_batch("a", owner="k1", idempotency_key="key", request_hash="1")

    added = await store.batches.add(first)
    existing = await store.batches.add(a_batch("b", owner="k1", idempotency_key="key", request_hash="2"))

    assert (added, existing) == (None, first)
    assert await store.batches.keyed("k1", "key") == first
    assert await store.batches.get("b") is None


async def test_a_batchs_key_is_its_owners_and_none_is_no_key(store: Database) -> None:
    for name, owner, key in (
        ("a", "k1", "key"),
        ("b", "k2", "key"),
        ("c", "k2", "other"),
        ("d", "k2", ""),
        ("e", "k2", ""),
    ):
        assert await store.batches.add(a_batch(name, owner=owner, idempotency_key=key)) is None

    assert await store.batches.keyed("k3", "key") is None
    assert await store.batches.keyed("k2", "") is None


@pytest.mark.parametrize(("age", "taken"), [(23 * HOUR, False), (24 * HOUR + 1, True)])
async def test_a_key_older_than_a_day_is_taken_from_its_batch(store: Database, age: float, taken: bool) -> None:
    old = a_batch("old", created_at=NOW - age, idempotency_key="key")
    await store.batches.add(old)

    found = await store.batches.keyed("", "key")
    existing = await store.batches.add(a_batch("new", idempotency_key="key"))

    assert (found is None, existing is None) == (taken, taken)
    assert await store.batches.get("old") == (replace(old, idempotency_key="") if taken else old)


async def test_of_many_batches_at_once_under_a_key_one_is_added(shared_url: str) -> None:
    records = [a_batch(f"batch_{n}", idempotency_key="key") for n in range(20)]
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()

        answers = await asyncio.gather(
            *(store.batches.add(record) for record, store in zip(records, [one, other] * 10, strict=True))
        )

        (batch,) = await one.batches.find(BatchQuery())
        assert answers.count(None) == 1
        assert {each.id for each in answers if each} == {batch.id}


# --- Moving -----------------------------------------------------------------------------------------------------------


async def test_a_batch_moves_from_the_expected_statuses_only(store: Database) -> None:
    await store.batches.add(a_batch())

    refused = await store.batches.move("batch_1", BatchStatus.FINALIZING, NOW, expected=(BatchStatus.IN_PROGRESS,))
    moved = await store.batches.move("batch_1", BatchStatus.IN_PROGRESS, NOW + 1, expected=VALIDATING)

    assert refused is None
    assert moved == await store.batches.get("batch_1")
    assert moved is not None
    assert (moved.status, moved.stamps) == (BatchStatus.IN_PROGRESS, {"in_progress": NOW + 1})
    assert await store.batches.move("nobody", BatchStatus.FAILED, NOW, expected=ANY) is None


async def test_a_batch_learns_its_files_and_errors_and_keeps_them(store: Database) -> None:
    await store.batches.add(a_batch())
    error: dict[str, object] = {"code": "empty_file", "message": "a\x00b", "param": None, "line": None}

    await store.batches.move("batch_1", BatchStatus.FINALIZING, NOW, expected=ANY, output_file_id="file-2")
    await store.batches.move("batch_1", BatchStatus.FAILED, NOW, expected=ANY, error_file_id="file-3", errors=[error])

    batch = await the_batch(store)
    assert (batch.output_file_id, batch.error_file_id, batch.errors) == ("file-2", "file-3", (error,))


async def test_the_first_time_in_a_status_is_stamped(store: Database) -> None:
    await store.batches.add(a_batch())

    for time in (NOW + 1, NOW + 2):
        await store.batches.move("batch_1", BatchStatus.FINALIZING, time, expected=ANY)

    assert (await the_batch(store)).stamps == {"finalizing": NOW + 1}


async def test_of_many_that_move_a_batch_at_once_one_does(shared_url: str) -> None:
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()
        await one.batches.add(a_batch())

        moved = await asyncio.gather(
            *(
                store.batches.move("batch_1", BatchStatus.IN_PROGRESS, NOW, expected=VALIDATING)
                for store in (one, other) * 4
            )
        )

        assert sum(batch is not None for batch in moved) == 1


@pytest.mark.parametrize("status", [each for each in BatchStatus if each.final])
async def test_a_webhook_is_owed_once_for_a_batch_that_ended(store: Database, status: BatchStatus) -> None:
    await running(store, [a_line(), a_bad_line(line=2)], webhook="https://example.com/hook", owner="k1")
    await store.batches.move("batch_1", BatchStatus.FINALIZING, NOW, expected=ANY)

    await store.batches.move("batch_1", status, 1_767_225_600.25, expected=(BatchStatus.FINALIZING,))
    await store.batches.move("batch_1", status, NOW, expected=ANY)

    (delivery,) = await store.webhooks.find("k1")
    assert (delivery.type, delivery.subject, delivery.url) == (f"batch.{status}", "batch_1", "https://example.com/hook")
    assert orjson.loads(delivery.payload) == {
        "type": f"batch.{status}",
        "timestamp": "2026-01-01T00:00:00.250Z",
        "data": {
            "id": "batch_1",
            "object": "batch",
            "status": str(status),
            "request_counts": {"total": 2, "completed": 0, "failed": 1},
        },
    }
    assert [each.id for each in await store.webhooks.due(NOW + 60, 10, 10)] == [delivery.id]


# --- Purging ----------------------------------------------------------------------------------------------------------


async def test_old_batches_are_purged_with_their_lines_page_by_page(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 4)])
    await store.batches.add_provider_batch(a_provider_batch())
    await store.batches.move("batch_1", BatchStatus.FAILED, NOW - 100, expected=ANY)
    for name, status in (("young", BatchStatus.COMPLETED), ("open", BatchStatus.IN_PROGRESS)):
        await store.batches.add(a_batch(name, created_at=NOW - 1_000))
        await store.batches.take_in(name, [a_line(name)], Progress(1, 1))
        await store.batches.move(name, status, NOW, expected=ANY)

    purged = [await store.batches.purge(NOW, NOW - 50, 2) for _ in range(4)]

    assert purged == [2, 2, 0, 0]
    assert [await store.jobs.get(job_id) for job_id in ids] == [None] * 3
    assert sorted(batch.id for batch in await store.batches.find(BatchQuery())) == ["open", "young"]
    assert await store.jobs.get(a_line("young").job.id) is not None
    assert await store.batches.provider_batches() == []


# --- Providers' batches -----------------------------------------------------------------------------------------------


def a_provider_batch(identifier: str = "pb_1", **fields: object) -> ProviderBatch:
    record = ProviderBatch(
        id=identifier,
        batch_id="batch_1",
        deployment="d1",
        provider="openai",
        created_at=NOW,
        pull_back_at=NOW + HOUR,
        remote_files={"input": "file-x"},
        lines=7,
    )
    return replace(record, **fields)  # type: ignore[arg-type]


async def test_what_is_known_of_a_providers_batch_is_replaced(store: Database) -> None:
    record = a_provider_batch()
    await store.batches.add_provider_batch(record)
    await store.batches.add_provider_batch(replace(record, lines=8))
    assert await store.batches.provider_batches() == [record]

    later = replace(record, remote_id="b", remote_files={"output": "y"}, state="running", checked_at=NOW + 1)
    await store.batches.save_provider_batch(later)

    assert await store.batches.provider_batches("batch_1") == [later]
    assert await store.batches.provider_batches("another") == []


async def test_providers_batches_that_are_not_settled_come_by_their_last_check(store: Database) -> None:
    for name, state, checked_at in (
        ("a", "running", NOW + 3),
        ("b", "creating", NOW + 1),
        ("c", "done", NOW),
        ("d", "pulled_back", NOW),
        ("e", "ended", NOW + 2),
    ):
        await store.batches.add_provider_batch(a_provider_batch(name, state=state, checked_at=checked_at))

    assert "".join(each.id for each in await store.batches.provider_batches()) == "bea"
