"""Lines of batches: what `broker.store_interfaces.Batches` promises of them, on every implementation."""

from dataclasses import replace
from itertools import pairwise

import pytest

from broker.records import BatchStatus, EndedLine, Flow, JobQuery, Progress
from broker.store import batch_lines
from broker.store.database import Database
from shared.errors import InvalidRequest
from shared.jobs import JobState
from tests.conformance.durable_jobs import (
    NOW,
    VALIDATING,
    a_bad_line,
    a_batch,
    a_job,
    a_line,
    an_ending,
    counts,
    running,
    the_batch,
)

# --- Taking lines in --------------------------------------------------------------------------------------------------


async def test_lines_are_taken_in_and_counted(store: Database) -> None:
    await store.batches.add(a_batch())

    taken = await store.batches.take_in(
        "batch_1", [a_line(line=1), a_bad_line(line=2), a_line(line=5)], Progress(5, 70)
    )

    batch = await the_batch(store)
    assert taken
    assert (batch.total, batch.completed, batch.failed, batch.lines_read, batch.bytes_read) == (3, 0, 1, 5, 70)
    lines = await store.jobs.find(JobQuery(batch_id="batch_1"))
    assert [(each.line, each.custom_id, each.state) for each in lines] == [
        (5, "request-5", JobState.QUEUED),
        (2, "request-2", JobState.FAILED),
        (1, "request-1", JobState.QUEUED),
    ]
    assert {each.expires_at for each in lines} == {None}


async def test_the_same_lines_are_taken_in_once(store: Database) -> None:
    await store.batches.add(a_batch())
    chunk = [a_line(line=1), a_line(line=2)]
    await store.batches.take_in("batch_1", chunk, Progress(2, 20))

    again = [await store.batches.take_in("batch_1", chunk, Progress(lines, 20)) for lines in (2, 1)]

    assert again == [False, False]
    assert await counts(store) == (2, 0, 0, 0)


async def test_progress_without_lines_is_noted(store: Database) -> None:
    await store.batches.add(a_batch())

    assert await store.batches.take_in("batch_1", [], Progress(7, 70))

    assert ((await the_batch(store)).lines_read, await counts(store)) == (7, (0, 0, 0, 0))


@pytest.mark.parametrize("status", [each for each in BatchStatus if each is not BatchStatus.VALIDATING])
async def test_no_line_comes_to_a_batch_that_is_not_validating(store: Database, status: BatchStatus) -> None:
    await store.batches.add(a_batch(status=status))

    assert not await store.batches.take_in("batch_1", [a_line()], Progress(1, 10))

    assert await store.jobs.find(JobQuery(batch_id="batch_1")) == []


@pytest.mark.parametrize("held", [True, False])
async def test_lines_that_are_held_wait_for_their_batch(store: Database, held: bool) -> None:
    await store.batches.add(a_batch())
    line = a_line()

    await store.batches.take_in("batch_1", [line], Progress(1, 10), held=held)

    validating = await store.jobs.head(line.job.tenant, line.job.provider, 10)
    await store.batches.move("batch_1", BatchStatus.IN_PROGRESS, 0.0, expected=[BatchStatus.VALIDATING])
    released = await store.jobs.head(line.job.tenant, line.job.provider, 10)
    assert (len(validating), len(released)) == (0 if held else 1, 1)


async def test_lines_are_taken_in_whole_or_not_at_all(store: Database) -> None:
    await store.batches.add(a_batch())
    refused = a_line(line=2, job=a_job("x", deadline=float("nan")))

    with pytest.raises(InvalidRequest):
        await store.batches.take_in("batch_1", [a_line(line=1), refused], Progress(2, 20))

    batch = await the_batch(store)
    assert (batch.total, batch.lines_read) == (0, 0)
    assert await store.jobs.find(JobQuery(batch_id="batch_1")) == []


async def test_lines_that_are_in_the_store_already_are_refused(store: Database) -> None:
    await store.batches.add(a_batch())
    await store.batches.take_in("batch_1", [a_line(line=1)], Progress(1, 10))

    for lines in ([a_line(line=1)], [a_line(line=1), a_line(line=2)]):
        with pytest.raises(InvalidRequest):
            await store.batches.take_in("batch_1", lines, Progress(2, 20))

    assert await counts(store) == (1, 0, 0, 0)


async def test_custom_ids_that_lines_have_are_known(store: Database) -> None:
    await store.batches.add(a_batch())
    await store.batches.add(a_batch("batch_2"))
    odd = "a\x00\ud800" + "x" * 1_000
    await store.batches.take_in("batch_1", [a_line(line=1), replace(a_line(line=2), custom_id=odd)], Progress(2, 20))

    known = await store.batches.known_custom_ids("batch_1", ["request-1", "request-2", odd])

    assert known == {"request-1", odd}
    assert await store.batches.known_custom_ids("batch_2", ["request-1"]) == set()
    assert await store.batches.known_custom_ids("batch_1", []) == set()


async def test_no_line_may_run_before_its_batch_is_validated(store: Database) -> None:
    await store.batches.add(a_batch())
    line = a_line()
    await store.batches.take_in("batch_1", [line], Progress(1, 10))

    before = await store.jobs.flows(), await store.jobs.head("", "openai", 10), await store.jobs.position(line.job.id)
    await store.batches.move("batch_1", BatchStatus.IN_PROGRESS, NOW, expected=VALIDATING)
    after = await store.jobs.flows(), await store.jobs.head("", "openai", 10), await store.jobs.position(line.job.id)

    assert before == ([], [], None)
    assert after == ([Flow("", "openai", 1)], [line], 0)


async def test_jobs_of_a_flow_are_counted_up_to_a_hundred(store: Database) -> None:
    await running(store, [a_line(line=number) for number in range(1, 122)])

    assert await store.jobs.flows() == [Flow("", "openai", 100)]


async def test_lines_of_the_same_age_go_in_the_order_of_the_file(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in (10, 2, 33, 1)])

    head = await store.jobs.head("", "openai", 10)

    assert [each.line for each in head] == [1, 2, 10, 33]
    assert [await store.jobs.position(job_id) for job_id in ids] == [2, 1, 3, 0]


# --- Lines ------------------------------------------------------------------------------------------------------------


async def test_unfinished_lines_are_counted_by_state(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 8)])
    await store.jobs.move(ids[:1], JobState.DISPATCHING, NOW)
    await store.jobs.move(ids[1:3], JobState.DISPATCHED, NOW)
    await store.jobs.consign(ids[3:4], "pb", NOW)
    await store.record([], [an_ending(ids[4])])

    unfinished = await store.batches.unfinished_lines("batch_1")

    assert unfinished == {
        JobState.QUEUED: 2,
        JobState.DISPATCHING: 1,
        JobState.DISPATCHED: 2,
        JobState.CONSIGNED: 1,
    }
    assert await store.batches.unfinished_lines("nobody") == {}


@pytest.mark.parametrize(
    ("state", "code"), [(JobState.CANCELLED, "cancelled"), (JobState.EXPIRED, "deadline_exceeded")]
)
async def test_queued_lines_are_cancelled_at_once_and_counted(store: Database, state: JobState, code: str) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 5)])
    await store.jobs.move(ids[:1], JobState.DISPATCHED, NOW)
    await store.record([], [an_ending(ids[1])])

    cancelled = [await store.batches.cancel_lines("batch_1", state, NOW + 1) for _ in range(2)]

    line = await store.jobs.get(ids[3], bodies=True)
    assert cancelled == [2, 0]
    assert await counts(store) == (4, 1, 2, 7)
    assert await store.batches.unfinished_lines("batch_1") == {JobState.DISPATCHED: 1}
    assert line is not None
    assert line.ending is not None
    assert (line.state, line.ending.finished_at, line.ending.attempts) == (state, NOW + 1, 0)
    assert line.ending.error is not None
    assert line.ending.error["code"] == code


async def test_queued_lines_are_not_completed_at_once(store: Database) -> None:
    await running(store, [a_line()])

    with pytest.raises(InvalidRequest):
        await store.batches.cancel_lines("batch_1", JobState.COMPLETED, NOW)


async def test_lines_on_their_way_are_listed_in_line_order(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 6)])
    await store.jobs.move(ids[2:4], JobState.DISPATCHING, NOW)
    await store.jobs.move([ids[4], ids[0]], JobState.DISPATCHED, NOW)

    pages = [
        await store.batches.dispatched_lines("batch_1"),
        await store.batches.dispatched_lines("batch_1", limit=2),
        await store.batches.dispatched_lines("batch_1", after_line=3),
    ]

    assert pages == [[ids[0], *ids[2:]], [ids[0], ids[2]], ids[3:]]


async def test_consigned_lines_are_listed_in_line_order_with_bodies(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 6)])
    await store.jobs.consign(ids[:3][::-1], "pb-1", NOW)
    await store.jobs.consign(ids[3:], "pb-2", NOW)
    await store.record([], [an_ending(ids[0])])

    lines = await store.batches.consigned("pb-1")

    assert [each.job.id for each in lines] == ids[1:3]
    assert lines[0].job.body == a_job().body
    assert [each.job.id for each in await store.batches.consigned("pb-2", after_line=4, limit=1)] == ids[4:]


async def test_queued_lines_of_a_provider_are_listed_before_their_batch_is_validated(store: Database) -> None:
    await store.batches.add(a_batch())
    lines = [a_line(line=number) for number in range(1, 6)]
    other = a_line(line=6, job=a_job("elsewhere", provider="gemini"))
    await store.batches.take_in("batch_1", [*lines, other, a_bad_line(line=7)], Progress(7, 100))
    ids = [line.job.id for line in lines]
    await store.jobs.consign(ids[1:2], "pb-1", NOW)

    listed = await store.batches.queued_lines("batch_1", "openai")

    assert [each.job.id for each in listed] == [ids[0], *ids[2:]]
    assert listed[0].job.body == a_job().body
    page = await store.batches.queued_lines("batch_1", "openai", after_line=1, limit=2)
    assert [each.job.id for each in page] == ids[2:4]
    assert await store.batches.queued_lines("batch_1", "openai", after_line=5) == []


async def test_a_page_of_lines_has_about_four_mebibytes_of_bodies(store: Database) -> None:
    large = [a_line(line=number, job=a_job(f"large-{number}", body=b"{" + b" " * 3_000_000)) for number in (1, 2, 3)]
    ids = await running(store, large)
    queued = [each.job.id for each in await store.batches.queued_lines("batch_1", "openai")]
    await store.jobs.consign(ids, "pb-1", NOW)

    consigned = [each.job.id for each in await store.batches.consigned("pb-1")]

    assert queued == consigned == ids[:1]
    assert [each.job.id for each in await store.batches.consigned("pb-1", after_line=1)] == ids[1:2]


async def test_lines_are_found_by_their_jobs_whatever_became_of_them(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 4)])
    await store.batches.add(a_batch("batch_2"))
    await store.batches.take_in("batch_2", [a_line("batch_2", 1)], Progress(1, 10))
    await store.record([], [an_ending(ids[0])])

    found = await store.batches.lines("batch_1", [*ids[:2], "batch_2-00001", "nobody"])

    assert {each.job.id: each.state for each in found} == {ids[0]: JobState.COMPLETED, ids[1]: JobState.QUEUED}
    assert {each.job.body for each in found} == {a_job().body}


async def test_lines_of_a_batch_are_found_from_the_last_page_by_page(store: Database) -> None:
    ids = await running(store, [a_line(line=number) for number in range(1, 8)], owner="k1")
    await store.record([], [an_ending(ids[4]), an_ending(ids[1], JobState.FAILED)])

    def query(**fields: object) -> JobQuery:
        return replace(JobQuery(batch_id="batch_1"), **fields)  # type: ignore[arg-type]

    found = {
        query(): [7, 6, 5, 4, 3, 2, 1],
        query(limit=3): [7, 6, 5],
        query(limit=3, after=ids[4]): [4, 3, 2],
        query(states=(JobState.COMPLETED, JobState.FAILED)): [5, 2],
        query(text="request-3"): [3],
        query(model="slow"): [],
        query(owner="k1"): [],  # a line's own owner is its job's key
        query(after="nowhere"): [],
    }

    for each, lines in found.items():
        assert [line.line for line in await store.jobs.find(each)] == lines


async def test_lines_are_no_jobs_of_their_own(store: Database) -> None:
    ids = await running(store, [a_line(result_ttl=60.0)])
    await store.record([], [an_ending(ids[0], finished_at=NOW - 100)])

    assert await store.jobs.find(JobQuery()) == []
    assert await store.jobs.purge(NOW + 1e9, 10) == 0
    line = await store.jobs.get(ids[0])
    assert line is not None
    assert line.expires_at is None


# --- Reading out ------------------------------------------------------------------------------------------------------


async def read_out(store: Database, *, completed: bool) -> list[list[EndedLine]]:
    return [page async for page in store.batches.endings("batch_1", completed=completed)]


async def test_finished_lines_are_read_out_in_line_order(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "_PAGE", 2)
    ids = await running(store, [a_bad_line(line=1), *(a_line(line=number) for number in range(2, 10))])
    endings = [an_ending(job_id, answer=job_id.encode()) for job_id in ids[1:6]]
    others = [an_ending(ids[6], JobState.EXPIRED), an_ending(ids[7], JobState.CANCELLED)]
    await store.record([], [*others, *endings[::-1]])

    completed, failed = await read_out(store, completed=True), await read_out(store, completed=False)

    assert [[line.line for line in page] for page in completed] == [[2, 3], [4, 5], [6]]
    assert [[line.line for line in page] for page in failed] == [[1, 7], [8]]
    assert [line.ending for page in completed for line in page] == endings
    assert [line.custom_id for page in completed for line in page] == [f"request-{number}" for number in range(2, 7)]


async def test_a_page_of_large_answers_has_few_lines(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "_PAGE_BYTES", 1_000)
    sizes = [400, 600, 1, 5_000, 999, 10]
    ids = await running(store, [a_line(line=number) for number in range(1, 7)])
    await store.record([], [an_ending(job_id, answer=b"x" * size) for job_id, size in zip(ids, sizes, strict=True)])

    pages = await read_out(store, completed=True)

    assert [[line.line for line in page] for page in pages] == [[1, 2], [3], [4], [5], [6]]


async def test_lines_that_finish_while_others_are_read_come_later_or_not_but_never_twice(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lines, "_PAGE", 2)
    ids = await running(store, [a_line(line=number) for number in range(1, 7)])
    await store.record([], [an_ending(job_id) for job_id in ids[1:4]])

    lines = []
    async for page in store.batches.endings("batch_1", completed=True):
        lines += [line.line for line in page]
        await store.record([], [an_ending(ids[0]), an_ending(ids[5])])

    assert lines == [2, 3, 4, 6]
    assert all(one < other for one, other in pairwise(lines))
