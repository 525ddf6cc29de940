"""What may be in the ledger's answer already, and what may not: rows in doubt, seeds and windows."""

import math

import pytest

from broker.account_interfaces import Accounts, Charge, Limit, Refused
from broker.accounts.account import ASK_AGAIN, MAX_BUDGETS, MAX_MONEY
from shared.accounts import Account, Budget
from tests.conformance.accounts import (
    EVER,
    admitted,
    budgeted,
    charge,
    names,
    refused,
    seed,
    spent,
    state,
    unseeded,
)
from tests.fakes.clock import FakeClock

KEY = budgeted(1000)
NOON = FakeClock().now()


async def test_a_row_that_is_charged_twice_is_settled_by_the_ledger(accounts: Accounts) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=500)
    await accounts.charge([charge("job", 500)])

    await accounts.charge([charge("job", 500)])
    in_doubt = await spent(accounts)
    await seed(accounts, KEY, ledger=500, cost=400)

    assert in_doubt is None
    assert await spent(accounts) == 500
    await admitted(accounts, "job/2", KEY, cost=500)


@pytest.mark.parametrize(
    "row",
    [charge("never admitted", 300), charge("job", 300, last=False)],
    ids=["nothing was reserved", "more will follow"],
)
async def test_a_row_in_doubt_counts_until_the_ledger_has_been_asked(
    accounts: Accounts, clock: FakeClock, row: Charge
) -> None:
    await seed(accounts, KEY, ledger=100)
    await admitted(accounts, "job", KEY, cost=50)

    await accounts.charge([row])

    assert await spent(accounts) is None
    assert (await admitted(accounts, "small", KEY, cost=50)).spent == (450,), "it fits in any case"
    clock.advance(ASK_AGAIN)
    await seed(accounts, KEY, ledger=400)
    assert await spent(accounts) == 400


async def test_nobody_is_turned_away_over_a_doubt(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=500)
    await accounts.charge([charge("unknown", 500)])

    asked = await unseeded(accounts, KEY, cost=300)
    await accounts.seed(*asked.budgets[0][:3], 500, asked.budgets[0][3])

    await admitted(accounts, "job", KEY, cost=300)


async def test_what_is_refused_without_the_doubt_is_refused(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=900)
    await accounts.charge([charge("unknown", 100)])
    await admitted(accounts, "job", budgeted(10_000), cost=10)

    assert await refused(accounts, KEY, cost=300) == Refused("key:a", Limit.BUDGET, math.inf, 1000, 1010)


async def test_while_the_ledger_is_away_a_doubt_lets_in_what_fits_in_any_case(
    accounts: Accounts, clock: FakeClock
) -> None:
    await seed(accounts, KEY)
    await accounts.charge([charge("unknown", 100)])
    clock.advance(ASK_AGAIN)

    await unseeded(accounts, KEY, cost=10)

    await admitted(accounts, "job", KEY, cost=10)


async def test_a_free_row_is_never_in_doubt(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=100)

    await accounts.charge([charge("unknown", 0), charge("unknown", 0, last=False)])

    assert await spent(accounts) == 100


async def test_a_row_that_may_be_in_the_seed_is_in_doubt(accounts: Accounts) -> None:
    """The job was admitted before the seed: its row may have been committed before the ledger was read, or after."""
    await seed(accounts, KEY)
    await admitted(accounts, "before", KEY, cost=300)
    await accounts.forget("key:a")
    await seed(accounts, KEY, ledger=300)
    await admitted(accounts, "after", KEY, cost=100)

    await accounts.charge([charge("after", 100)])
    certain = await spent(accounts)
    await accounts.charge([charge("before", 300)])

    assert certain == 400
    after = await state(accounts)
    assert (after.spent, after.reserved) == ({}, 0)


async def test_what_is_charged_while_the_ledger_is_read_is_in_doubt(accounts: Accounts) -> None:
    ((name, start, end, ticket),) = (await unseeded(accounts, KEY)).budgets
    await accounts.charge([charge("meanwhile", 300)])

    await accounts.seed(name, start, end, 300, ticket)

    assert await spent(accounts) is None
    assert (await admitted(accounts, "job", KEY, cost=100)).spent == (600,)
    await unseeded(accounts, KEY, cost=400)


async def test_of_all_who_ask_the_first_answer_counts(accounts: Accounts) -> None:
    ((*window, ticket),) = (await unseeded(accounts, KEY)).budgets
    ((*_, other),) = (await unseeded(accounts, KEY)).budgets

    await accounts.seed(*window, 300, ticket)
    await accounts.seed(*window, 999, other)

    assert await spent(accounts) == 300


@pytest.mark.parametrize("account", ["key:a", None])
async def test_a_seed_that_was_forgotten_meanwhile_is_void(accounts: Accounts, account: str | None) -> None:
    ((*window, ticket),) = (await unseeded(accounts, KEY)).budgets
    await accounts.forget(account)

    await accounts.seed(*window, 300, ticket)

    await unseeded(accounts, KEY)
    await accounts.seed(*window, 300, ticket)
    await unseeded(accounts, KEY)


async def test_a_seed_that_nobody_asked_for_is_void(accounts: Accounts) -> None:
    await accounts.seed("key:a", *EVER, 0, 1)

    await unseeded(accounts, KEY)


@pytest.mark.parametrize(("account", "known"), [("key:a", [None, 20]), (None, [None, None]), ("key:c", [20, 20])])
async def test_forgetting_keeps_what_is_reserved(
    accounts: Accounts, account: str | None, known: list[int | None]
) -> None:
    both = [KEY, budgeted(1000, "key:b")]
    await seed(accounts, *both, ledger=20)
    await admitted(accounts, "job", *both, cost=300)

    await accounts.forget(account)

    assert [await spent(accounts, name=name) for name in names(both)] == known
    assert [each.reserved for each in await accounts.states(names(both))] == [300, 300]


async def test_a_row_counts_in_the_window_in_which_it_began(accounts: Accounts, clock: FakeClock) -> None:
    old, new = (NOON, NOON + 60), (NOON + 60, NOON + 120)
    first, second = (Account("key:a", budgets=(Budget(1000, *window), Budget(5000))) for window in (old, new))
    await seed(accounts, first)
    await admitted(accounts, "early", first, cost=300, ttl=600)
    await admitted(accounts, "late", first, cost=200, ttl=600)
    clock.advance(60)
    await seed(accounts, second)
    reserved_in_the_new = (await admitted(accounts, "job", second, cost=1)).spent

    await accounts.charge([charge("early", 300, at=NOON + 59.9), charge("job", 1, at=NOON + 60)])
    after_the_early = (await state(accounts)).spent
    await accounts.charge([charge("late", 200, at=NOON + 60)])

    assert reserved_in_the_new == (500,), "who knows when they begin"
    assert after_the_early == {old: 300, new: 1, EVER: 301}
    assert (await state(accounts)).spent == {old: 300, EVER: 501}, "the new one was seeded after `late` was admitted"


async def test_windows_that_are_over_are_forgotten(accounts: Accounts, clock: FakeClock) -> None:
    for _ in range(50):
        start = clock.now()
        minute = budgeted(1000, start=start, end=start + 60)
        await seed(accounts, minute)
        await admitted(accounts, f"job/{start}", minute, cost=1, ttl=5)
        clock.advance(60)

    assert len((await state(accounts)).spent) <= 3


async def test_windows_that_do_not_end_are_bounded_too(accounts: Accounts) -> None:
    for n in range(100):
        await seed(accounts, budgeted(1000, start=float(n)))
    latest = Account("key:a", budgets=tuple(Budget(1000, start=1000.0 + n) for n in range(MAX_BUDGETS)))
    await seed(accounts, latest)

    known = (await state(accounts)).spent

    assert len(known) <= 3 * MAX_BUDGETS
    assert {(each.start, each.end) for each in latest.budgets} <= set(known)


async def test_a_changed_limit_needs_no_seed(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=900)

    await admitted(accounts, "job", budgeted(2000), cost=1000)

    assert (await refused(accounts, KEY, cost=1)).used == 1900


async def test_accounts_without_a_budget_keep_no_money(accounts: Accounts) -> None:
    key = Account("key:a", rpm=5)
    await admitted(accounts, "job", key, cost=300)
    await accounts.finish("job", ["key:a"], tokens=None, cost=300)

    await accounts.charge([charge("job", 300)])

    after = await state(accounts)
    assert (after.reserved, after.in_flight, after.spent) == (0, 0, {})


async def test_many_rows_are_charged_at_once(accounts: Accounts) -> None:
    team = budgeted(10**9, "team:t")
    await seed(accounts, budgeted(10**9), team)
    for n in range(300):
        await admitted(accounts, f"job/{n}", budgeted(10**9), team, cost=10)

    await accounts.charge([charge(f"job/{n}", 7, "proxy", "key:a", "user:none", "team:t") for n in range(300)])
    await accounts.charge([])

    assert [(each.spent, each.reserved) for each in await accounts.states(["key:a", "team:t"])] == [
        ({EVER: 2100}, 0)
    ] * 2


async def test_money_is_exact_to_the_last_nano_dollar(accounts: Accounts) -> None:
    rich = budgeted(MAX_MONEY - 1)
    await seed(accounts, rich, ledger=MAX_MONEY - 10_000_001)
    await admitted(accounts, "job", rich, cost=9_999_999)

    await accounts.charge([charge("job", 9_999_999)])

    assert await spent(accounts) == MAX_MONEY - 2
    await admitted(accounts, "one", rich, cost=1)
    assert (await refused(accounts, rich, cost=1)).used == MAX_MONEY - 1
