"""How durable jobs move and end: what `broker.store_interfaces.Jobs` promises of it, on every implementation."""

import asyncio

import pytest

from broker.records import Flow
from broker.store.database import Database, connect
from shared.errors import InvalidRequest
from shared.jobs import FINAL_STATES, Ending, JobState
from tests.conformance.durable_jobs import HOUR, NOW, a_job, a_record, added, an_ending, state_of

UNFINISHED = [JobState.QUEUED, JobState.DISPATCHING, JobState.DISPATCHED, JobState.CONSIGNED]
FINAL = sorted(FINAL_STATES)


# --- Moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", UNFINISHED)
@pytest.mark.parametrize("after", UNFINISHED)
async def test_an_unfinished_job_moves_to_any_unfinished_state(
    store: Database, before: JobState, after: JobState
) -> None:
    (job_id,) = await added(store, a_record(state=before))

    moved = await store.jobs.move([job_id, "nobody"], after, NOW + 5)

    found = await store.jobs.get(job_id)
    assert moved == [job_id]
    assert found is not None
    assert (found.state, found.moved_at, found.dispatches) == (after, NOW + 5, int(after is JobState.DISPATCHING))


async def test_only_jobs_in_the_expected_state_move(store: Database) -> None:
    queued, sent = await added(store, a_record(), a_record(state=JobState.DISPATCHED))

    moved = await store.jobs.move([queued, sent], JobState.DISPATCHING, NOW, expected=JobState.QUEUED)

    assert moved == [queued]
    assert await state_of(store, sent) is JobState.DISPATCHED


async def test_no_job_moves_to_an_end(store: Database) -> None:
    (job_id,) = await added(store, a_record())

    for state in FINAL:
        with pytest.raises(InvalidRequest):
            await store.jobs.move([job_id], state, NOW)


@pytest.mark.parametrize("final", FINAL)
async def test_nothing_moves_a_job_from_its_end(store: Database, final: JobState) -> None:
    (job_id,) = await added(store, a_record())
    await store.jobs.end([an_ending(job_id, final)])

    changed = [
        await store.jobs.move([job_id], JobState.QUEUED, NOW),
        await store.jobs.consign([job_id], "pb", NOW),
        await store.jobs.end([an_ending(job_id, JobState.FAILED, answer=b"later")]),
    ]

    found = await store.jobs.get(job_id, bodies=True)
    assert changed == [[], [], []]
    assert found is not None
    assert (found.state, found.ending and found.ending.answer) == (final, an_ending(job_id).answer)


async def test_moving_nothing_moves_nothing(store: Database) -> None:
    assert await store.jobs.move([], JobState.QUEUED, NOW) == []


async def test_two_that_move_the_same_jobs_in_any_order_never_wait_in_a_circle(shared_url: str) -> None:
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()
        ids = await added(one, *(a_record(a_job(f"job-{n:03}")) for n in range(100)))

        moved = await asyncio.gather(
            *(one.jobs.move(ids, JobState.DISPATCHING, NOW, expected=JobState.QUEUED) for _ in range(3)),
            *(other.jobs.move(ids[::-1], JobState.DISPATCHING, NOW, expected=JobState.QUEUED) for _ in range(3)),
        )

        assert sorted(job_id for ids in moved for job_id in ids) == ids


async def test_queued_jobs_are_consigned_and_may_come_back(store: Database) -> None:
    queued, sent = await added(store, a_record(), a_record(state=JobState.DISPATCHED))

    consigned = await store.jobs.consign([queued, sent], "pb", NOW + 1)
    again = await store.jobs.consign([queued, sent], "pb", NOW + 1)

    there = await store.jobs.get(queued)
    await store.jobs.move([queued], JobState.QUEUED, NOW + 2)
    back = await store.jobs.get(queued)
    assert consigned == again == [queued]
    assert there is not None
    assert back is not None
    assert (there.state, there.provider_batch) == (JobState.CONSIGNED, "pb")
    assert (back.state, back.provider_batch) == (JobState.QUEUED, "")


async def test_a_job_is_consigned_once(store: Database) -> None:
    (job_id,) = await added(store, a_record())
    await store.jobs.consign([job_id], "pb", NOW)

    assert await store.jobs.consign([job_id], "another", NOW) == []


# --- Ending -----------------------------------------------------------------------------------------------------------


async def test_every_field_of_an_ending_comes_back_as_it_went_in(store: Database) -> None:
    (job_id,) = await added(store, a_record(result_ttl=2 * HOUR))
    ending = Ending(
        job_id,
        JobState.FAILED,
        finished_at=NOW + 0.5,
        attempts=3,
        answer=b"id: 1\n\x00\xff",
        error={"code": "upstream_error", "message": "it said \x00 \U0001f980", "retry_after": None},
        served={"deployment": "d1", "duration": 1.25},
        cost=2**53 + 1,
    )

    ended = await store.jobs.end([ending])

    found = await store.jobs.get(job_id, bodies=True)
    assert ended == [job_id]
    assert found is not None
    assert found.ending == ending
    assert (found.state, found.moved_at, found.expires_at) == (JobState.FAILED, NOW + 0.5, NOW + 2 * HOUR + 0.5)


async def test_an_error_with_text_that_is_no_unicode_is_kept(store: Database) -> None:
    (job_id,) = await added(store, a_record())

    await store.jobs.end([an_ending(job_id, JobState.FAILED, error={"message": "a\ud800b"})])

    found = await store.jobs.get(job_id)
    assert found is not None
    assert found.ending is not None
    assert found.ending.error == {"message": "a\ufffdb"}


async def test_the_first_ending_of_a_job_counts(store: Database) -> None:
    (job_id,) = await added(store, a_record())

    ended = await store.jobs.end([an_ending(job_id, JobState.CANCELLED), an_ending(job_id), an_ending("nobody")])

    assert ended == [job_id]
    assert await state_of(store, job_id) is JobState.CANCELLED


async def test_a_job_does_not_end_in_an_unfinished_state(store: Database) -> None:
    (job_id,) = await added(store, a_record())

    with pytest.raises(InvalidRequest):
        await store.jobs.end([an_ending(job_id, JobState.QUEUED)])

    assert await state_of(store, job_id) is JobState.QUEUED


async def test_many_large_answers_end_up_with_their_own_jobs(store: Database) -> None:
    ids = sorted(await added(store, *(a_record() for _ in range(5))))
    answers = {job_id: bytes([number]) * 6 * 1024 * 1024 for number, job_id in enumerate(ids)}

    await store.jobs.end([an_ending(job_id, answer=answer) for job_id, answer in answers.items()])

    for job_id, answer in answers.items():
        found = await store.jobs.get(job_id, bodies=True)
        assert found is not None
        assert found.ending is not None
        assert found.ending.answer == answer


# --- Releasing --------------------------------------------------------------------------------------------------------


async def test_flows_are_the_queued_jobs_by_tenant_and_provider(store: Database) -> None:
    await added(
        store,
        a_record(a_job(key="k1")),
        a_record(a_job(key="k2", team="k1")),
        a_record(a_job(key="k2")),
        a_record(a_job(key="k1", provider="anthropic")),
        a_record(a_job(provider="anthropic")),
        a_record(a_job(key="k3", provider="gemini"), JobState.DISPATCHED),
    )

    flows = await store.jobs.flows()

    assert sorted(flows, key=lambda flow: (flow.provider, flow.tenant)) == [
        Flow("", "anthropic", 1),
        Flow("k1", "anthropic", 1),
        Flow("k1", "openai", 2),
        Flow("k2", "openai", 1),
    ]


async def test_no_queued_jobs_make_no_flows(store: Database) -> None:
    assert await store.jobs.flows() == []


async def test_the_head_of_a_flow_goes_by_priority_then_deadline_then_age(store: Database) -> None:
    await added(
        store,
        a_record(a_job("late", deadline=NOW + 20, accepted_at=NOW - 5)),
        a_record(a_job("young", deadline=NOW + 10, accepted_at=NOW)),
        a_record(a_job("old", deadline=NOW + 10, accepted_at=NOW - 1)),
        a_record(a_job("first", deadline=NOW + 30), priority=1),
        a_record(a_job("last", deadline=NOW + 1), priority=-1),
        a_record(a_job("elsewhere", provider="anthropic")),
        a_record(a_job("anothers", key="k1")),
        a_record(a_job("gone"), JobState.DISPATCHING, priority=9),
    )

    head = await store.jobs.head("", "openai", 10)

    assert [each.job.id for each in head] == ["first", "old", "young", "late", "last"]
    assert head[0].job.body == a_job().body
    assert [each.job.id for each in await store.jobs.head("", "openai", 2)] == ["first", "old"]
    positions = [await store.jobs.position(each.job.id) for each in head]
    assert positions == [0, 1, 2, 3, 4]


async def test_a_job_that_is_not_queued_has_no_position(store: Database) -> None:
    (job_id,) = await added(store, a_record(state=JobState.DISPATCHED))

    assert [await store.jobs.position(each) for each in (job_id, "nobody")] == [None, None]


# --- Watching over ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", UNFINISHED)
async def test_jobs_stuck_in_a_state_are_found_the_longest_first(store: Database, state: JobState) -> None:
    other = JobState.QUEUED if state is not JobState.QUEUED else JobState.DISPATCHED
    await added(
        store,
        a_record(a_job("later"), state, moved_at=NOW - 10),
        a_record(a_job("longest"), state, moved_at=NOW - 20),
        a_record(a_job("just"), state, moved_at=NOW),
        a_record(a_job("other"), other, moved_at=NOW - 30),
        a_record(a_job("done"), state, moved_at=NOW - 30),
    )
    await store.jobs.end([an_ending("done", finished_at=NOW - 30)])

    stuck = await store.jobs.unfinished(state, NOW, 10)

    assert [each.job.id for each in stuck] == ["longest", "later"]
    assert stuck[0].job.body == a_job().body
    assert [each.job.id for each in await store.jobs.unfinished(state, NOW, 1)] == ["longest"]


async def test_unfinished_jobs_past_their_deadline_are_overdue(store: Database) -> None:
    for number, state in enumerate(UNFINISHED):
        await added(store, a_record(a_job(f"{state}", deadline=NOW - number), state))
    await added(store, a_record(a_job("in time", deadline=NOW + 1)), a_record(a_job("done", deadline=NOW - 9)))
    await store.jobs.end([an_ending("done")])

    overdue = await store.jobs.overdue(NOW, 10)

    assert [each.job.id for each in overdue] == [str(state) for state in UNFINISHED[::-1]]
    assert all(each.job.body == b"" for each in overdue)
    assert len(await store.jobs.overdue(NOW, 2)) == 2
