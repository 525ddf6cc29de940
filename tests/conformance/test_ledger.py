"""Every implementation of `broker.interfaces.Store` keeps what its docstring promises."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from broker.records import DailySpend, SpendQuery, SpendSummary
from broker.store.database import Database, connect
from shared.errors import InvalidRequest
from shared.jobs import Outcome, Status, Usage
from tests.conformance.ledgers import MIDNIGHT, an_outcome

DAY = 86_400.0

# --- Recording ------------------------------------------------------------------------------------------------------


async def test_every_field_of_an_outcome_comes_back_as_it_went_in(store: Database) -> None:
    outcome = Outcome(
        job_id="0198c5f0-0000-7000-8000-000000000001",
        attempt=3,
        started_at=1_767_225_600.123456,
        endpoint="chat.completions",
        model="fast",
        group="fast-group",
        deployment="d7",
        provider="anthropic",
        upstream_model="claude-sonnet-4-5",
        status=Status.FAILURE,
        usage=Usage(input=1, cache_read=2, cache_write=3, cache_write_1h=4, output=2**40, reasoning=6, estimated=True),
        cost=2**53 + 1,
        queue_wait=0.25,
        ttft=0.123456789,
        duration=1.5,
        error_code="upstream_overloaded",
        error_message='it said "no" — \U0001f980',
        stream=True,
        key="ab" * 32,
        team="t1",
        user="u1",
        customer="c1",
        tags=("a", "ü,{}"),
        response_id="chatcmpl-1",
    )

    new = await store.record([outcome, an_outcome(ttft=None)])

    assert new == 2
    assert await store.spend(SpendQuery(request_id=outcome.job_id)) == [outcome]
    assert await store.spend(SpendQuery(request_id="job-1")) == [an_outcome(ttft=None)]


async def test_an_attempt_is_recorded_once_however_often_it_is_delivered(store: Database) -> None:
    first = an_outcome(cost=5)
    again = an_outcome(cost=7)
    retry = an_outcome(attempt=2, cost=11)
    await store.record([first])

    new = await store.record([again, retry, retry, first])

    assert new == 1
    assert (await store.summary()).cost == 16


async def test_of_two_versions_of_an_attempt_the_first_counts(store: Database) -> None:
    await store.record([an_outcome(cost=5), an_outcome(cost=7)])

    assert [row.cost for row in await store.spend(SpendQuery())] == [5]
    assert (await store.summary()).cost == 5


async def test_the_last_attempt_of_a_job_is_known(store: Database) -> None:
    await store.record([an_outcome("job-1", 1), an_outcome("job-1", 3), an_outcome("job-2", 1)])

    assert await store.last_attempts(["job-1", "job-2", "job-3"]) == {"job-1": 3, "job-2": 1}
    assert await store.last_attempts([]) == {}


async def test_recording_nothing_adds_nothing(store: Database) -> None:
    assert await store.record([]) == 0


async def test_recorded_rows_are_committed_when_record_returns(shared_url: str) -> None:
    async with connect(shared_url) as writer, connect(shared_url) as reader:
        await writer.migrate()

        await writer.record([an_outcome()])

        assert await reader.spend(SpendQuery()) == [an_outcome()]


async def test_recorded_rows_are_still_there_after_a_restart(shared_url: str) -> None:
    async with connect(shared_url) as store:
        await store.migrate()
        await store.record([an_outcome()])

    async with connect(shared_url) as store:
        await store.migrate()

        assert await store.spend(SpendQuery()) == [an_outcome()]


async def test_recorders_with_the_same_outcomes_in_any_order_never_deadlock(shared_url: str) -> None:
    outcomes = [an_outcome(f"job-{number}") for number in range(500)]
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()

        new = await asyncio.gather(
            *(one.record(outcomes) for _ in range(4)), *(other.record(outcomes[::-1]) for _ in range(4))
        )

        assert sum(new) == 500
        assert (await one.summary()).attempts == 500

    assert await deadlocks(shared_url) == 0  # the store would hide one by trying again


async def deadlocks(url: str) -> int:
    """What PostgreSQL counted, once every other connection has reported and gone."""
    if url.startswith("sqlite"):
        return 0
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            others = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            while await connection.fetchval(others):
                await asyncio.sleep(0.01)
        return int(
            await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
    finally:
        await connection.close()


async def test_a_batch_is_recorded_whole_or_not_at_all(store: Database) -> None:
    refused = an_outcome("job-2", duration=float("nan"))

    with pytest.raises(InvalidRequest):
        await store.record([an_outcome("job-1"), refused, an_outcome("job-3")])

    assert await store.spend(SpendQuery()) == []


async def test_a_number_over_64_bits_is_refused(store: Database) -> None:
    with pytest.raises(InvalidRequest):
        await store.record([an_outcome(cost=2**70)])


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("\\u0000", "\\u0000"),
        ("\U0001f980", "\U0001f980"),
    ],
    ids=["NUL", "lone surrogate", "an escape spelled out", "astral"],
)
async def test_text_that_no_database_holds_is_replaced(store: Database, message: str, kept: str) -> None:
    await store.record([an_outcome(error_message=message, tags=(message,))])

    (row,) = await store.spend(SpendQuery())
    assert (row.error_message, row.tags) == (kept, (kept,))


async def test_huge_texts_are_cut(store: Database) -> None:
    huge = "x" * 100_000
    await store.record([an_outcome(error_message=huge, user=huge, key=huge, response_id=huge, tags=(huge,) * 100)])

    (row,) = await store.spend(SpendQuery())
    assert len(row.error_message) == 500
    assert (len(row.user), len(row.key), len(row.response_id)) == (512, 512, 512)
    assert [len(tag) for tag in row.tags] == [512] * 64


async def test_texts_are_cut_by_characters_not_by_bytes(store: Database) -> None:
    await store.record([an_outcome(error_message="ü" * 501)])

    (row,) = await store.spend(SpendQuery())
    assert row.error_message == "ü" * 500


# --- Asking ---------------------------------------------------------------------------------------------------------


async def test_the_newest_attempts_come_first_page_by_page(store: Database) -> None:
    await store.record([an_outcome(f"job-{second}", started_at=MIDNIGHT + second) for second in (3, 1, 5, 2, 4)])

    pages = [[row.job_id for row in await store.spend(SpendQuery(limit=2, offset=offset))] for offset in (0, 2, 4, 6)]

    assert pages == [["job-5", "job-4"], ["job-3", "job-2"], ["job-1"], []]


FILTERS = [
    (SpendQuery(), "cba"),
    (SpendQuery(key="k1"), "ba"),
    (SpendQuery(user="u2"), "cb"),
    (SpendQuery(key="k1", user="u2"), "b"),
    (SpendQuery(key=""), ""),
    (SpendQuery(request_id="b"), "b"),
    (SpendQuery(request_id="chatcmpl-c"), "c"),
    (SpendQuery(request_id="chatcmpl-z"), ""),
    (SpendQuery(start=datetime(2026, 1, 2, tzinfo=UTC)), "cb"),
    (SpendQuery(end=datetime(2026, 1, 2, tzinfo=UTC)), "a"),
    (SpendQuery(start=datetime(2026, 1, 2), end=datetime(2026, 1, 3)), "b"),  # naive means UTC
    (SpendQuery(user="u'; DROP TABLE ledger; --"), ""),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
async def test_a_query_is_answered_with_the_rows_that_match_all_of_it(
    store: Database, query: SpendQuery, expected: str
) -> None:
    await store.record(
        [
            an_outcome("a", started_at=MIDNIGHT, key="k1", user="u1"),
            an_outcome("b", started_at=MIDNIGHT + DAY, key="k1", user="u2"),
            an_outcome("c", started_at=MIDNIGHT + 2 * DAY, key="k2", user="u2"),
        ]
    )

    rows = await store.spend(query)

    assert "".join(row.job_id for row in rows) == expected


@pytest.mark.parametrize("limit", [-1, 0, 1])
async def test_a_page_has_at_least_one_row(store: Database, limit: int) -> None:
    await store.record([an_outcome("a"), an_outcome("b")])

    assert len(await store.spend(SpendQuery(limit=limit, offset=-1))) == 1


async def test_days_are_utc_and_begin_at_midnight_sharp(store: Database) -> None:
    await store.record(
        [
            an_outcome("a", started_at=MIDNIGHT - 1e-6, cost=1),
            an_outcome("b", started_at=MIDNIGHT, cost=2),
            an_outcome("c", started_at=MIDNIGHT + DAY / 2 + 1, cost=4),
            an_outcome("d", started_at=MIDNIGHT + DAY - 1e-6, cost=8),
            an_outcome("e", started_at=MIDNIGHT + DAY, cost=16),
        ]
    )

    days = await store.daily(SpendQuery())

    assert [(day.date, day.cost) for day in days] == [("2025-12-31", 1), ("2026-01-01", 14), ("2026-01-02", 16)]


async def test_daily_spend_is_split_by_user_and_by_model(store: Database) -> None:
    await store.record(
        [
            an_outcome("a", user="u1", upstream_model="m1", cost=1, key="k"),
            an_outcome("b", user="u1", upstream_model="m2", cost=2, key="k"),
            an_outcome("c", user="u2", upstream_model="m1", cost=4, key="k"),
            an_outcome("d", user="u2", upstream_model="m1", cost=8, key="another"),
        ]
    )

    days = await store.daily(SpendQuery(key="k", limit=1, offset=1))

    assert days == [DailySpend("2026-01-01", 7, {"u1": 3, "u2": 4}, {"m1": 5, "m2": 2})]


async def test_the_summary_adds_up_every_attempt(store: Database) -> None:
    await store.record(
        [
            an_outcome("a", cost=10**18, upstream_model="m1"),
            an_outcome("a", 2, cost=1, upstream_model="m1"),
            an_outcome("b", cost=5, upstream_model="m2", status=Status.UNKNOWN),
        ]
    )

    assert await store.summary() == SpendSummary(10**18 + 6, 3, {"m1": 10**18 + 1, "m2": 5})


async def test_an_empty_ledger_sums_to_nothing(store: Database) -> None:
    assert await store.summary() == SpendSummary(0, 0, {})
    assert await store.daily(SpendQuery()) == []
