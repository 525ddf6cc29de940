"""Sums by day are those of the ledger, whatever was recorded in whatever order: `broker.directory_interfaces.Bill`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import SpendQuery
from broker.spend_records import Activity, ActivityQuery, Dimension, Subject
from broker.store.database import Database, connect
from broker.store.tables import daily_customers, daily_keys, daily_spend, daily_tags, daily_totals, ledger
from shared.accounts import NEVER, charged
from shared.jobs import Outcome, Status, Usage
from tests.conformance.ledgers import MIDNIGHT, an_outcome
from tests.conformance.test_ledger import deadlocks

DAY = 86_400.0

# --- Random histories -----------------------------------------------------------------------------------------------

moments = st.builds(
    lambda day, second: MIDNIGHT + day * DAY + second,
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-6, -1e-6, 1.5, DAY / 2]),
)
names = st.sampled_from(["", "a", "b", "a/b", "ü", "x" * 600])
tokens = st.integers(0, 2**40)
outcomes = st.builds(
    Outcome,
    job_id=st.sampled_from([f"job-{number}" for number in range(12)]),
    attempt=st.integers(1, 2),
    started_at=moments,
    endpoint=st.sampled_from(["chat.completions", "embeddings"]),
    model=st.just("m"),
    group=st.sampled_from(["a", "b", "a/b"]),
    deployment=st.just("d"),
    provider=st.sampled_from(["openai", "anthropic"]),
    upstream_model=st.sampled_from(["m1", "m2"]),
    status=st.sampled_from(Status),
    usage=st.builds(Usage, tokens, tokens, tokens, tokens, tokens),
    cost=st.integers(0, 2**50),
    key=st.sampled_from(["", "k1", "k2"]),
    team=names,
    user=names,
    customer=names,
    tags=st.lists(names, max_size=3).map(tuple),
)
histories = st.lists(st.lists(outcomes, max_size=8), max_size=5)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories, start=moments, length=st.floats(0, 4 * DAY))
async def test_the_bill_is_the_sum_of_the_ledger(
    store: Database, history: list[list[Outcome]], start: float, length: float
) -> None:
    await empty(store)
    rows = await record(store, history)

    windows = [(0.0, NEVER), (start, NEVER), (start, start + length)]
    accounts = {account for row in rows for account in charged(row)} | {"key:other", "member:a/b/c"}
    for account in accounts:
        for window in windows:
            assert await store.bill.spent(account, *window) == spent(rows, account, *window)
    for query in QUERIES:
        assert await store.bill.activity(query) == activity(rows, query)
    for subject in Subject:
        assert await store.bill.totals(subject, ["a", "b", "k1", "none"]) == totals(rows, subject)
    assert (await store.summary()).cost == sum(row.cost for row in rows)
    whole = await store.daily(SpendQuery(user="a"))
    assert whole == await store.daily(SpendQuery(user="a", min_cost=0))  # from the ledger itself
    assert sum(each.cost for each in whole) == sum(row.cost for row in rows if row.user == "a")


async def empty(store: Database) -> None:
    async def delete(connection: AsyncConnection) -> None:
        for table in (ledger, daily_spend, daily_customers, daily_tags, daily_keys, daily_totals):
            await connection.execute(sa.delete(table))

    await store._transactions.write(delete)


async def record(store: Database, history: Iterable[Sequence[Outcome]]) -> list[Outcome]:
    """What the ledger must have then: of each attempt what came first."""
    first: dict[tuple[str, int], Outcome] = {}
    for batch in history:
        await store.record(batch)
        for outcome in batch:
            first.setdefault((outcome.job_id, outcome.attempt), kept(outcome))
    return list(first.values())


def kept(outcome: Outcome) -> Outcome:
    cut = {name: getattr(outcome, name)[:512] for name in ("team", "user", "customer")}
    return replace(outcome, **cut, tags=tuple(tag[:512] for tag in outcome.tags))


def spent(rows: Iterable[Outcome], account: str, start: float, end: float) -> int:
    return sum(row.cost for row in rows if account in charged(row) and start <= row.started_at < end)


def totals(rows: Sequence[Outcome], subject: Subject) -> dict[str, int]:
    named = {each: [row.cost for row in rows if each in SUBJECTS[subject](row)] for each in ("a", "b", "k1")}
    return {each: sum(costs) for each, costs in named.items() if costs}


SUBJECTS: dict[Subject, Callable[[Outcome], set[str]]] = {
    Subject.KEY: lambda row: {row.key},
    Subject.USER: lambda row: {row.user},
    Subject.TEAM: lambda row: {row.team},
    Subject.CUSTOMER: lambda row: {row.customer},
    Subject.TAG: lambda row: set(row.tags),
}
DIMENSIONS: dict[Dimension, Callable[[Outcome], str]] = {
    Dimension.KEY: lambda row: row.key,
    Dimension.USER: lambda row: row.user,
    Dimension.TEAM: lambda row: row.team,
    Dimension.GROUP: lambda row: row.group,
    Dimension.MODEL: lambda row: row.upstream_model,
    Dimension.PROVIDER: lambda row: row.provider,
    Dimension.ENDPOINT: lambda row: row.endpoint,
}
QUERIES = [
    ActivityQuery(),
    ActivityQuery(daily=False),
    ActivityQuery(by=(Dimension.MODEL, Dimension.ENDPOINT), start=date(2026, 1, 1), end=date(2026, 1, 2)),
    ActivityQuery(by=tuple(Dimension)),
    ActivityQuery(key="k1", group="a"),
    ActivityQuery(start=date(2026, 1, 2), subject=Subject.KEY, by=(Dimension.KEY, Dimension.TEAM)),
    ActivityQuery(subject=Subject.TEAM, ids=("a", "a/b", "")),
    ActivityQuery(subject=Subject.USER, daily=False, by=(Dimension.PROVIDER,)),
    ActivityQuery(subject=Subject.CUSTOMER, by=(Dimension.GROUP, Dimension.MODEL, Dimension.PROVIDER)),
    ActivityQuery(subject=Subject.TAG, by=(Dimension.KEY, Dimension.GROUP), key="k1"),
    ActivityQuery(subject=Subject.TAG, ids=("a", "ü"), daily=False, group="b"),
]


def activity(rows: Sequence[Outcome], query: ActivityQuery) -> list[Activity]:
    sums: dict[tuple[date | None, str, tuple[str, ...]], Activity] = {}
    for row in rows:
        day = date(1970, 1, 1) + timedelta(days=int(row.started_at // DAY))
        if (query.start and day < query.start) or (query.end and day > query.end):
            continue
        if (query.key is not None and row.key != query.key) or (query.group is not None and row.group != query.group):
            continue
        subjects = SUBJECTS[query.subject](row) - {""} if query.subject else {""}
        for subject in subjects & set(query.ids) if query.ids else subjects:
            key = (day if query.daily else None, subject, tuple(DIMENSIONS[each](row) for each in query.by))
            sums[key] = plus(sums.get(key) or Activity(*key), row)
    return sorted(sums.values(), key=lambda each: (-each.day.toordinal() if each.day else 0, each.subject, each.by))


def plus(so_far: Activity, row: Outcome) -> Activity:
    return replace(
        so_far,
        cost=so_far.cost + row.cost,
        prompt_tokens=so_far.prompt_tokens + row.usage.prompt,
        completion_tokens=so_far.completion_tokens + row.usage.output,
        cache_read_tokens=so_far.cache_read_tokens + row.usage.cache_read,
        cache_write_tokens=so_far.cache_write_tokens + row.usage.cache_write + row.usage.cache_write_1h,
        requests=so_far.requests + 1,
        succeeded=so_far.succeeded + (row.status is Status.SUCCESS),
        failed=so_far.failed + (row.status is not Status.SUCCESS),
    )


# --- Several recorders ----------------------------------------------------------------------------------------------


async def test_recorders_that_add_to_the_same_sums_lose_none_and_never_deadlock(shared_url: str) -> None:
    batches = [
        [
            an_outcome(f"job-{batch}-{row}", key=f"k{row % 7}", customer=f"c{row % 5}", tags=(f"t{row % 3}",), cost=1)
            for row in sorted(range(100), key=lambda row: (row * 37 + batch) % 101)
        ]
        for batch in range(20)
    ]
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()

        await asyncio.gather(*((one, other)[number % 2].record(batch) for number, batch in enumerate(batches)))
        await asyncio.gather(*((other, one)[number % 2].record(batch) for number, batch in enumerate(batches)))

        for table in (daily_spend, daily_customers, daily_tags, daily_keys, daily_totals):
            statement = sa.select(sa.func.sum(table.c.cost_nanodollars), sa.func.sum(table.c.requests))
            rows = await one._transactions.read(lambda connection, statement=statement: connection.execute(statement))
            assert [tuple(map(int, row)) for row in rows] == [(2_000, 2_000)]

    assert await deadlocks(shared_url) == 0


async def test_a_window_that_is_asked_while_rows_are_recorded_misses_none_and_doubles_none(shared_url: str) -> None:
    """Every commit adds 3 to a whole day and 3 to the part of another, so that any sum but a multiple of 6 is torn."""
    async with connect(shared_url) as recorder, connect(shared_url) as reader:
        await recorder.migrate()
        seen: list[int] = []

        async def write() -> None:
            for number in range(40):
                whole = an_outcome(f"w-{number}", started_at=MIDNIGHT + 5, key="k", cost=3)
                await recorder.record(
                    [whole, an_outcome(f"r-{number}", started_at=MIDNIGHT + DAY + 5, key="k", cost=3)]
                )

        async def read(writing: asyncio.Task[None]) -> None:
            while not writing.done():
                seen.append(await reader.bill.spent("key:k", MIDNIGHT, MIDNIGHT + DAY + 10))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read(tasks.create_task(write())))

        assert [each for each in seen if each % 6] == []
        assert await reader.bill.spent("key:k", MIDNIGHT, MIDNIGHT + DAY + 10) == 240
