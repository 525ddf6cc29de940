"""Durable jobs kept and found: what `broker.store_interfaces.Jobs` promises of it, on every implementation."""

import asyncio
from dataclasses import replace

import pytest

from broker.records import JobQuery, JobRecord
from broker.store.database import Database, connect
from shared.errors import InvalidRequest
from shared.ids import uuid7
from shared.jobs import Job, JobState, Lane, Leg
from tests.conformance.durable_jobs import HOUR, NOW, a_job, a_record, added, an_ending, state_of

DAY = 86_400.0


# --- Adding and getting -----------------------------------------------------------------------------------------------


async def test_every_field_of_a_job_comes_back_as_it_went_in(store: Database) -> None:
    job = Job(
        id=uuid7(),
        endpoint="chat.completions",
        model="fast",
        route=(Leg("openai", "fast", ("d1", "d2")), Leg("anthropic", "slow", ("d3",), fallback=True)),
        body=b'{"a":"\x00\xff"}',
        reply_to="reply",
        accepted_at=NOW + 0.123456,
        deadline=NOW + HOUR,
        stream=True,
        lane=Lane.BATCH,
        attempt=2,
        key="ab" * 32,
        team="t1",
        user="u\x00ü",
        tags=("a", "ü"),
        headers_in={"anthropic-beta": "x"},
        durable=True,
        start_by=NOW + 5,
    )
    record = JobRecord(
        job,
        JobState.DISPATCHING,
        weight=2**40,
        priority=-100,
        result_ttl=60.5,
        custom_id="mine",
        idempotency_key="key",
        request_hash="cd" * 32,
        webhook="https://example.com/" + "x" * 1_000,
        retry_of="another",
        moved_at=NOW + 1,
        dispatches=1,
    )

    await added(store, record)

    assert await store.jobs.get(job.id, bodies=True) == record
    assert await store.jobs.get(job.id) == replace(record, job=replace(job, body=b""))


async def test_a_job_added_again_after_a_lost_answer_is_there_once(store: Database) -> None:
    record = a_record(idempotency_key="key")
    await added(store, record)
    await store.jobs.move([record.job.id], JobState.DISPATCHED, NOW)

    assert await store.jobs.add(record) is None

    assert await state_of(store, record.job.id) is JobState.DISPATCHED


async def test_a_job_is_there_for_its_owner_and_for_those_who_see_everything(store: Database) -> None:
    (job_id,) = await added(store, a_record(a_job(key="k1")))

    found = [await store.jobs.get(job_id, owner) is not None for owner in ("k1", "k2", "", None)]

    assert found == [True, False, False, True]


async def test_nothing_is_found_under_an_id_that_nobody_has(store: Database) -> None:
    assert await store.jobs.get("a\x00b") is None


async def test_a_number_over_64_bits_is_refused(store: Database) -> None:
    with pytest.raises(InvalidRequest):
        await store.jobs.add(a_record(weight=2**70))


async def test_text_that_no_database_holds_can_be_added_and_searched_for(store: Database) -> None:
    (job_id,) = await added(store, a_record(a_job(user="a\x00b", tags=("c\x00d",)), custom_id="\ud800"))

    found = [[each.job.id for each in await store.jobs.find(JobQuery(text=text))] for text in ("a\x00b", "c\x00")]

    assert found == [[job_id], [job_id]]


# --- Idempotency ------------------------------------------------------------------------------------------------------


async def test_the_second_job_under_a_key_is_the_first(store: Database) -> None:
    first = a_record(a_job(key="k1"), idempotency_key="key", request_hash="a")
    second = a_record(a_job(key="k1"), idempotency_key="key", request_hash="b")
    await added(store, first)

    existing = await store.jobs.add(second)

    assert existing == replace(first, job=replace(first.job, body=b""))
    assert await store.jobs.get(second.job.id) is None


async def test_a_key_is_its_owners(store: Database) -> None:
    await added(
        store,
        a_record(a_job(key="k1"), idempotency_key="key"),
        a_record(a_job(key="k2"), idempotency_key="key"),
        a_record(a_job(key="k2"), idempotency_key="another"),
        a_record(a_job(key="k2")),
        a_record(a_job(key="k2")),
    )


async def test_a_finished_job_keeps_its_key_until_it_expires(store: Database) -> None:
    lasting, gone = [a_record(idempotency_key=key, result_ttl=HOUR) for key in ("lasting", "gone")]
    await added(store, lasting, gone)
    await store.jobs.end([an_ending(lasting.job.id), an_ending(gone.job.id, finished_at=NOW - HOUR - 1)])

    existing = [await store.jobs.add(a_record(idempotency_key=key)) for key in ("lasting", "gone")]

    assert [each and each.job.id for each in existing] == [lasting.job.id, None]


@pytest.mark.parametrize(("age", "taken"), [(DAY - HOUR, False), (DAY + 1, True)])
async def test_a_key_older_than_a_day_is_taken_from_its_job(store: Database, age: float, taken: bool) -> None:
    old = a_record(a_job(accepted_at=NOW - age), idempotency_key="key")
    new = a_record(idempotency_key="key")
    await added(store, old)

    existing = await store.jobs.add(new)

    assert (existing is None) == taken
    kept = await store.jobs.get(old.job.id)
    assert kept is not None
    assert kept.idempotency_key == ("" if taken else "key")


async def test_a_released_key_is_free_for_the_next_job(store: Database) -> None:
    (job_id,) = await added(store, a_record(idempotency_key="key"))

    await store.jobs.release_key(job_id)

    await added(store, a_record(idempotency_key="key"))
    assert await state_of(store, job_id) is JobState.QUEUED


async def test_of_many_jobs_at_once_under_a_key_one_is_added(shared_url: str) -> None:
    records = [a_record(idempotency_key="key") for _ in range(20)]
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()

        answers = await asyncio.gather(
            *(store.jobs.add(record) for record, store in zip(records, [one, other] * 10, strict=True))
        )

        (job,) = await one.jobs.find(JobQuery())
        assert answers.count(None) == 1
        assert {each.job.id for each in answers if each} == {job.job.id}


# --- Finding ----------------------------------------------------------------------------------------------------------


async def test_jobs_are_found_newest_first_page_by_page(store: Database) -> None:
    ids = await added(store, *(a_record(a_job(f"job-{n}", accepted_at=NOW + n)) for n in (2, 1, 3, 5, 4)))

    pages, after = [], None
    for _ in range(4):
        page = [each.job.id for each in await store.jobs.find(JobQuery(limit=2, after=after))]
        pages.append(page)
        after = page[-1] if page else after

    assert pages == [["job-5", "job-4"], ["job-3", "job-2"], ["job-1"], []]
    assert len(ids) == 5


FILTERS = [
    (JobQuery(), "cba"),
    (JobQuery(owner="k1"), "ca"),
    (JobQuery(owner=""), ""),
    (JobQuery(owner="k1", after="c"), "a"),
    (JobQuery(owner="k1", after="b"), ""),
    (JobQuery(after="nowhere"), ""),
    (JobQuery(states=(JobState.QUEUED,)), "a"),
    (JobQuery(states=(JobState.DISPATCHED, JobState.COMPLETED)), "cb"),
    (JobQuery(model="fast"), "ba"),
    (JobQuery(text="U_1"), "a"),
    (JobQuery(text="%"), "b"),
    (JobQuery(text="invoice"), "cb"),
    (JobQuery(text="mine/"), "c"),
    (JobQuery(text=""), "cba"),
    (JobQuery(text="'; DROP TABLE jobs; --"), ""),
    (JobQuery(batch_id="none"), ""),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
async def test_a_query_is_answered_with_the_jobs_that_match_all_of_it(
    store: Database, query: JobQuery, expected: str
) -> None:
    await added(
        store,
        a_record(a_job("a", key="k1", user="u_1")),
        a_record(a_job("b", key="k2", user="ux1", tags=("100%", "invoices"), accepted_at=NOW + 1), JobState.DISPATCHED),
        a_record(
            a_job("c", key="k1", model="slow", tags=("Invoice",), accepted_at=NOW + 2),
            JobState.DISPATCHED,
            custom_id="mine/1",
        ),
    )
    await store.jobs.end([an_ending("c")])

    found = await store.jobs.find(query)

    assert "".join(each.job.id for each in found) == expected
    assert all(each.job.body == b"" and (each.ending is None or each.ending.answer == b"") for each in found)


@pytest.mark.parametrize("limit", [-1, 0, 1])
async def test_a_page_has_at_least_one_job(store: Database, limit: int) -> None:
    await added(store, a_record(), a_record())

    assert len(await store.jobs.find(JobQuery(limit=limit))) == 1


# --- Expiring ---------------------------------------------------------------------------------------------------------


async def test_an_expired_job_is_as_good_as_gone(store: Database) -> None:
    gone, there = await added(store, a_record(result_ttl=HOUR), a_record(result_ttl=HOUR))

    await store.jobs.end([an_ending(gone, finished_at=NOW - HOUR - 1), an_ending(there, finished_at=NOW)])

    assert await store.jobs.get(gone) is None
    assert [each.job.id for each in await store.jobs.find(JobQuery())] == [there]


async def test_expired_jobs_are_purged_page_by_page(store: Database) -> None:
    ids = await added(store, *(a_record(result_ttl=HOUR) for _ in range(5)))
    await store.jobs.end([an_ending(job_id, finished_at=NOW - HOUR - 1) for job_id in ids[:3]] + [an_ending(ids[3])])

    purged = [await store.jobs.purge(NOW, 2) for _ in range(3)]

    left = {each.job.id for each in await store.jobs.find(JobQuery())}
    assert purged == [2, 1, 0]
    assert left == set(ids[3:])
    assert await store.jobs.purge(NOW + HOUR, 10) == 1
