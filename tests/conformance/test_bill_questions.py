"""What the bill is asked, one question at a time: `broker.directory_interfaces.Bill`."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa

from broker.account_records import Actor
from broker.records import SpendOrder, SpendQuery
from broker.spend_records import Activity, ActivityQuery, Dimension, Subject
from broker.store import bill
from broker.store.database import Database
from broker.store.ledger import PAYLOAD_BYTES
from broker.store.tables import payloads
from shared.accounts import NEVER, key_account, member_account, team_account
from shared.errors import InvalidRequest
from shared.jobs import Outcome, Status, Usage
from tests.conformance.ledgers import MIDNIGHT, an_outcome
from tests.conformance.stores import a_key

DAY = 86_400.0
NOON = MIDNIGHT + DAY / 2

# --- Spent ----------------------------------------------------------------------------------------------------------

WINDOWS = [
    ((0.0, NEVER), 0b11111),
    ((float("-inf"), NEVER), 0b11111),
    ((MIDNIGHT, NEVER), 0b11110),
    ((MIDNIGHT, MIDNIGHT + DAY), 0b00110),
    ((MIDNIGHT + 1e-6, MIDNIGHT + DAY), 0b00100),
    ((NOON, NOON + DAY), 0b01100),
    ((NOON + 1e-6, NOON + DAY + 1e-6), 0b11000),
    ((NOON, NOON), 0),
    ((NOON + DAY, NOON), 0),
    ((MIDNIGHT - 1, MIDNIGHT + 1), 0b00011),
    ((NOON + 7 * DAY, NEVER), 0),
    ((0.0, 1e300), 0b11111),
]


@pytest.mark.parametrize(("window", "expected"), WINDOWS)
async def test_a_budgets_time_is_counted_to_the_nanodollar_and_the_microsecond(
    store: Database, window: tuple[float, float], expected: int
) -> None:
    times = (MIDNIGHT - 1e-6, MIDNIGHT, NOON, MIDNIGHT + DAY, NOON + DAY)
    await store.record(
        [an_outcome(f"job-{bit}", started_at=time, cost=1 << bit, key="k") for bit, time in enumerate(times)]
    )

    assert await store.bill.spent("key:k", *window) == expected
    assert await store.bill.spent("proxy", *window) == expected


async def test_an_id_with_a_slash_is_told_from_a_team_and_its_model(store: Database) -> None:
    await store.record(
        [
            an_outcome("a", team="t", group="openai/m", cost=1),
            an_outcome("b", team="t", group="m", cost=2),
            an_outcome("c", team="t", user="u/v", group="m", cost=4),
            an_outcome("d", team="t/u", user="v", group="m", cost=8),
            an_outcome("e", key="k", group="openai/m", cost=16),
        ]
    )

    accounts = [
        team_account("t"),
        team_account("t", "openai/m"),
        team_account("t", "m"),
        member_account("t", "u/v"),
        key_account("k", "openai/m"),
        key_account("k", "m"),
    ]
    assert [await store.bill.spent(each, 0.0, NEVER) for each in accounts] == [7, 1, 6, 12, 16, 0]


async def test_spend_of_a_regenerated_key_is_counted_for_the_hash_that_it_has_now(store: Database) -> None:
    actor = Actor("admin")
    await store.keys.add(a_key("old"), actor)
    await store.record([an_outcome("a", key="old", group="g", cost=1)])
    await store.keys.change("old", lambda key: replace(key, hash="newer"), actor)
    await store.record([an_outcome("b", key="newer", group="g", cost=2, started_at=NOON)])
    await store.keys.change("newer", lambda key: replace(key, hash="newest"), actor)
    await store.record([an_outcome("c", key="newest", group="g", cost=4), an_outcome("d", key="other", cost=8)])

    assert await store.bill.spent("key:newest", 0.0, NEVER) == 7
    assert await store.bill.spent("key:newest/g", MIDNIGHT, MIDNIGHT + 1) == 5
    assert await store.bill.totals(Subject.KEY, ["newest", "other", "none"]) == {"newest": 7, "other": 8}
    one = await store.bill.activity(ActivityQuery(subject=Subject.KEY, ids=("newest",), by=(Dimension.GROUP,)))
    assert [(each.subject, each.by, each.cost, each.requests) for each in one] == [("newest", ("g",), 7, 3)]
    assert [each.cost for each in await store.bill.activity(ActivityQuery(key="newest"))] == [7]


async def test_an_account_of_an_unknown_kind_is_named(store: Database) -> None:
    with pytest.raises(ValueError, match="unknown account 'planet:earth'"):
        await store.bill.spent("planet:earth", 0.0, NEVER)


@pytest.mark.parametrize("account", ["user:\x00", "customer:'; DROP TABLE ledger; --", "team:////", "member:x", "key:"])
async def test_accounts_of_nobody_have_spent_nothing(store: Database, account: str) -> None:
    await store.record([an_outcome()])

    assert await store.bill.spent(account, 0.0, NEVER) == 0


# --- Reports --------------------------------------------------------------------------------------------------------


async def test_the_newest_day_comes_first(store: Database) -> None:
    usage = Usage(input=1, cache_read=2, cache_write=4, cache_write_1h=8, output=16, reasoning=3)
    await store.record(
        [
            an_outcome("a", team="t", cost=5, usage=usage),
            an_outcome("a", 2, team="t", cost=7, usage=usage, status=Status.CANCELLED),
            an_outcome("b", team="t", cost=9, started_at=MIDNIGHT + DAY),
            an_outcome("c", cost=11),
        ]
    )

    found = await store.bill.activity(ActivityQuery(subject=Subject.TEAM))

    assert found == [
        Activity(date(2026, 1, 2), "t", (), 9, requests=1, succeeded=1),
        Activity(date(2026, 1, 1), "t", (), 12, 30, 32, 4, 24, requests=2, succeeded=1, failed=1),
    ]


@pytest.mark.parametrize(
    "query",
    [
        ActivityQuery(subject=Subject.CUSTOMER, by=(Dimension.KEY,)),
        ActivityQuery(subject=Subject.CUSTOMER, key="k"),
        ActivityQuery(subject=Subject.TAG, by=(Dimension.TEAM,)),
    ],
)
async def test_sums_that_are_not_kept_are_refused(store: Database, query: ActivityQuery) -> None:
    with pytest.raises(InvalidRequest, match=r"There are no sums by (key|team) of customers or tags\."):
        await store.bill.activity(query)


async def test_a_report_that_would_never_end_is_refused(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bill, "MAX_ACTIVITIES", 2)
    await store.record([an_outcome(f"job-{number}", key=f"k{number}") for number in range(3)])

    with pytest.raises(InvalidRequest, match="over 2 lines: ask for fewer days"):
        await store.bill.activity(ActivityQuery(subject=Subject.KEY))
    assert len(await store.bill.activity(ActivityQuery(subject=Subject.KEY, ids=("k1", "k2")))) == 2


async def test_totals_begin_with_a_day(store: Database) -> None:
    await store.record(
        [an_outcome("a", tags=("x",), cost=1), an_outcome("b", tags=("x",), cost=2, started_at=NOON + DAY)]
    )

    assert await store.bill.totals(Subject.TAG, ["x"], MIDNIGHT + DAY + 1) == {"x": 2}
    assert await store.bill.totals(Subject.TAG, []) == {}


async def test_absurdly_long_names_are_no_obstacle(store: Database) -> None:
    def scrambled(seed: int) -> str:
        return "".join(chr(0x1F300 + (number * seed * 7919) % 700) for number in range(600))  # does not compress

    outcome = an_outcome(
        team=scrambled(1), user=scrambled(2), customer=scrambled(3), group=scrambled(4), upstream_model=scrambled(5),
        tags=(scrambled(6),), key=scrambled(7),
    )  # fmt: skip

    assert await store.record([outcome]) == 1
    assert await store.bill.spent(f"customer:{scrambled(3)}", 0.0, NEVER) == 1_000
    assert await store.bill.totals(Subject.TAG, [scrambled(6)]) == {scrambled(6): 1_000}


# --- The ledger's rows ----------------------------------------------------------------------------------------------

ROWS = [
    an_outcome("a", team="t1", customer="c1", group="fast", upstream_model="m1", cost=1, usage=Usage(9, output=1)),
    an_outcome("b", team="t1", customer="c2", group="slow", upstream_model="m2", cost=3, usage=Usage(1, 1, 1, 1, 1)),
    an_outcome("c", team="t2", customer="c1", group="m2", upstream_model="m3", cost=2, status=Status.FAILURE),
    an_outcome("d", cost=4, status=Status.CANCELLED, started_at=NOON, usage=Usage(7)),
]
FAILURES = (Status.FAILURE, Status.CANCELLED, Status.UNKNOWN)
QUESTIONS = [
    (SpendQuery(team="t1"), "ba"),
    (SpendQuery(team=""), "d"),
    (SpendQuery(customer="c1"), "ca"),
    (SpendQuery(customer=""), "d"),
    (SpendQuery(model="m2"), "cb"),
    (SpendQuery(statuses=(Status.SUCCESS,)), "ba"),
    (SpendQuery(statuses=FAILURES), "dc"),
    (SpendQuery(min_cost=2, max_cost=3), "cb"),
    (SpendQuery(team="t1", max_cost=0), ""),
    (SpendQuery(start=datetime(2026, 1, 1, 12, tzinfo=UTC)), "d"),
    (SpendQuery(order=SpendOrder.COST), "dbca"),
    (SpendQuery(order=SpendOrder.COST, ascending=True), "acbd"),
    (SpendQuery(order=SpendOrder.TOKENS), "adbc"),
    (SpendQuery(ascending=True), "abcd"),
]


@pytest.mark.parametrize(("query", "expected"), QUESTIONS)
async def test_rows_are_found_counted_and_sorted(store: Database, query: SpendQuery, expected: str) -> None:
    await store.record(ROWS)

    assert "".join(row.job_id for row in await store.spend(query)) == expected
    assert await store.bill.count(replace(query, limit=1, offset=1)) == len(expected)
    assert await store.bill.count(query, most=1) == min(len(expected), 1)
    assert sum(day.cost for day in await store.daily(query)) == sum(row.cost for row in ROWS if row.job_id in expected)


# --- Prompts and retention ------------------------------------------------------------------------------------------


async def test_prompts_are_kept_where_an_outcome_carries_them(store: Database) -> None:
    plain, told = an_outcome("a"), an_outcome("b", request='{"a": "ü\x00"}', response="é" * PAYLOAD_BYTES)
    await store.record([Outcome.from_wire(each.to_wire()) for each in (plain, told)])
    await store.record([replace(told, request="another")])

    assert await store.spend(SpendQuery()) == [an_outcome("b"), plain]
    found = await store.spend(SpendQuery(payloads=True))
    assert found == [replace(told, response="é" * (PAYLOAD_BYTES // 2)), plain]
    assert await kept_payloads(store) == 1


async def test_old_rows_go_with_their_prompts_and_the_sums_stay(store: Database) -> None:
    await store.record(
        [an_outcome(f"job-{hour}", started_at=MIDNIGHT + hour * 3600, request="?", tags=("t",)) for hour in range(24)]
    )

    purged = [await store.bill.purge(NOON, 10) for _ in range(3)]

    assert purged == [10, 2, 0]
    assert min(row.started_at for row in await store.spend(SpendQuery())) == NOON
    assert await kept_payloads(store) == 12
    assert (await store.summary()).attempts == 24
    assert await store.bill.spent("proxy", MIDNIGHT, MIDNIGHT + DAY) == 24_000


async def kept_payloads(store: Database) -> int:
    count = sa.select(sa.func.count()).select_from(payloads)
    return int(await store._transactions.read(lambda connection: connection.scalar(count)) or 0)
