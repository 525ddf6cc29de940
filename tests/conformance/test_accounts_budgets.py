"""What every Accounts promises of budgets: what is spent, reserved and left is the whole budget."""

import math

import pytest

from broker.account_interfaces import Accounts, Limit, Refused
from broker.accounts.account import CHARGE_TTL
from shared.accounts import Account, Budget
from tests.conformance.accounts import (
    EVER,
    admitted,
    ask,
    budgeted,
    charge,
    refused,
    seed,
    spent,
    state,
    unseeded,
)
from tests.fakes.clock import FakeClock

KEY = budgeted(1000)
NOON = FakeClock().now()


async def test_the_ledger_is_asked_before_the_first_admission(accounts: Accounts) -> None:
    team = Account("team:t", rpm=5, budgets=(Budget(500), Budget(50, NOON, NOON + 60), Budget(400)))

    answer = await unseeded(accounts, Account("user:u", rpm=1), KEY, team)

    assert [each[:3] for each in answer.budgets] == [
        ("key:a", *EVER),
        ("team:t", *EVER),
        ("team:t", NOON, NOON + 60),
    ]
    assert [(each.requests, each.in_flight) for each in await accounts.states(["user:u", "team:t"])] == [(None, 0)] * 2


async def test_a_budget_lets_in_what_fits_and_nothing_more(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=400)

    first = await admitted(accounts, "job/1", KEY, cost=350)
    second = await admitted(accounts, "job/2", KEY, cost=250)

    assert (first.spent, second.spent) == ((400,), (750,))
    assert await refused(accounts, KEY, cost=1) == Refused("key:a", Limit.BUDGET, math.inf, 1000, 1000)


async def test_a_burst_spends_no_more_than_the_budget(accounts: Accounts) -> None:
    await seed(accounts, KEY)

    answers = [await ask(accounts, f"job/{n}", KEY, cost=20) for n in range(200)]

    assert sum(not isinstance(each, Refused) for each in answers) == 50


async def test_all_budgets_of_an_account_hold(accounts: Accounts, clock: FakeClock) -> None:
    key = Account("key:a", budgets=(Budget(1000), Budget(100, NOON, NOON + 60), Budget(500, NOON, NOON + 3600)))
    await seed(accounts, key, ledger=10)

    await admitted(accounts, "job", key, cost=90)
    refusal = await refused(accounts, key, cost=1)

    assert refusal == Refused("key:a", Limit.BUDGET, 60.0, 100, 100)


async def test_a_refusal_ends_with_the_window(accounts: Accounts, clock: FakeClock) -> None:
    hourly = budgeted(100, start=NOON, end=NOON + 3600)
    await seed(accounts, hourly, ledger=100)
    clock.advance(600)

    refusal = await refused(accounts, hourly, cost=10)
    clock.advance(refusal.wait)
    following = budgeted(100, start=NOON + 3600, end=NOON + 7200)
    await seed(accounts, following)

    assert refusal == Refused("key:a", Limit.BUDGET, 3000.0, 100, 100)
    await admitted(accounts, "job", following, cost=10)


@pytest.mark.parametrize(("limit", "cost", "wait"), [(0, 1, math.inf), (-5, 1, math.inf), (1, 1, 60.0)])
async def test_a_budget_of_nothing_never_lets_a_cost_in(accounts: Accounts, limit: int, cost: int, wait: float) -> None:
    account = budgeted(limit, start=NOON, end=NOON + 60)
    await seed(accounts, account, ledger=1)

    assert (await refused(accounts, account, cost=cost)).wait == wait


async def test_whoever_is_behind_the_servers_clock_is_not_told_to_come_back_at_once(
    accounts: Accounts, clock: FakeClock
) -> None:
    over = budgeted(100, start=NOON - 60, end=NOON - 0.5)
    await seed(accounts, over, ledger=100)

    assert 0 < (await refused(accounts, over, cost=1)).wait < 0.1


async def test_what_is_free_passes_a_budget_that_is_used_up(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=1000)

    await admitted(accounts, "job", KEY, cost=0)


async def test_what_the_budget_began_with_counts_as_spent(accounts: Accounts) -> None:
    based = budgeted(1000, base=600)
    await seed(accounts, based, ledger=100)

    answer = await admitted(accounts, "job", based, cost=200)

    assert answer.spent == (700,)
    assert await spent(accounts) == 100
    assert await refused(accounts, based, cost=101) == Refused("key:a", Limit.BUDGET, math.inf, 1000, 900)


async def test_an_estimate_larger_than_what_is_left_may_have_what_is_left_alone(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=900)

    await admitted(accounts, "large", KEY, cost=5000)

    assert (await state(accounts)).reserved == 100
    assert await refused(accounts, KEY, cost=1) == Refused("key:a", Limit.BUDGET, math.inf, 1000, 1000)
    await accounts.finish("large", ["key:a"], tokens=None, cost=300)
    assert (await state(accounts)).reserved == 300, "what it really cost, though that is more"


async def test_what_finished_jobs_have_reserved_does_not_shut_the_door(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=900)
    await admitted(accounts, "first", KEY, cost=60)
    await accounts.finish("first", ["key:a"], tokens=None, cost=60)

    await admitted(accounts, "second", KEY, cost=5000)

    assert (await state(accounts)).reserved == 100
    assert await refused(accounts, KEY, cost=1) == Refused("key:a", Limit.BUDGET, math.inf, 1000, 1000)


async def test_the_smallest_rest_of_all_budgets_is_what_a_large_estimate_reserves(accounts: Accounts) -> None:
    key = Account("key:a", budgets=(Budget(1000), Budget(50, NOON, NOON + 60)))
    await seed(accounts, key, budgeted(10_000, "team:t"))

    await admitted(accounts, "large", key, budgeted(10_000, "team:t"), cost=400)

    assert [each.reserved for each in await accounts.states(["key:a", "team:t"])] == [50, 400]


async def test_money_moves_from_reserved_to_spent(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=100)
    await admitted(accounts, "job", KEY, cost=500)
    on_admission = await state(accounts)

    await accounts.finish("job", ["key:a"], tokens=None, cost=300)
    on_finish = await state(accounts)
    await accounts.charge([charge("job", 300)])
    on_charge = await state(accounts)

    assert [(each.spent[EVER], each.reserved, each.in_flight) for each in (on_admission, on_finish, on_charge)] == [
        (100, 500, 1),
        (100, 300, 0),
        (400, 0, 0),
    ]


async def test_the_row_may_be_there_before_the_job_is_over(accounts: Accounts) -> None:
    key = Account("key:a", parallel=1, tpm=1000, budgets=(Budget(1000),))
    await seed(accounts, key)
    await admitted(accounts, "job", key, tokens=800, cost=500)

    await accounts.charge([charge("job", 300)])
    on_charge = await state(accounts)
    await accounts.finish("job", ["key:a"], tokens=100, cost=300)
    on_finish = await state(accounts)

    assert (on_charge.spent[EVER], on_charge.reserved, on_charge.in_flight) == (300, 0, 1)
    assert (on_finish.spent[EVER], on_finish.reserved, on_finish.in_flight) == (300, 0, 0)
    assert on_finish.tokens == 900


async def test_a_job_that_cost_nothing_leaves_nothing(accounts: Accounts) -> None:
    await seed(accounts, KEY, ledger=100)
    await admitted(accounts, "job", KEY, cost=500)
    await accounts.finish("job", ["key:a"], tokens=0, cost=0)

    await accounts.charge([charge("job", 0)])

    after = await state(accounts)
    assert (after.spent, after.reserved, after.in_flight) == ({EVER: 100}, 0, 0)


async def test_a_failed_attempts_free_row_leaves_the_reservation(accounts: Accounts) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=500)

    await accounts.charge([charge("job", 0, last=False)])

    assert ((await state(accounts)).reserved, await spent(accounts)) == (500, 0)


async def test_what_was_finished_and_is_never_charged_comes_back_after_a_week(
    accounts: Accounts, clock: FakeClock
) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=500)
    await accounts.finish("job", ["key:a"], tokens=None, cost=400)

    clock.advance(CHARGE_TTL - 1)
    assert (await state(accounts)).reserved == 400
    clock.advance(1)

    assert (await state(accounts)).reserved == 0


async def test_what_is_neither_finished_nor_charged_comes_back_when_its_time_is_over(
    accounts: Accounts, clock: FakeClock
) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "lost", KEY, cost=1000, ttl=30)
    await refused(accounts, KEY, cost=1)

    clock.advance(30)

    await admitted(accounts, "job", KEY, cost=1000)
