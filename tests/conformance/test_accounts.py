"""What every Accounts promises of requests, tokens and parallel slots."""

import math

import pytest

from broker.account_interfaces import Accounts, Admitted, Limit, Refused
from broker.accounts.account import MAX_ACCOUNTS, MAX_BUDGETS, SLOT_RETRY
from shared.accounts import Account, Budget
from tests.conformance.accounts import about, admitted, ask, budgeted, refused, seed, state
from tests.fakes.clock import FakeClock

KEY = Account("key:a", rpm=60, tpm=6000, parallel=3)


async def test_admission_takes_from_every_account_and_says_what_is_left(accounts: Accounts) -> None:
    team, user = Account("team:t", tpm=1000), Account("user:u")

    answer = await admitted(accounts, "job", KEY, team, user, tokens=400)

    assert answer == Admitted(remaining=((59, 5600), (None, 600), (None, None)), spent=(None, None, None))


async def test_a_whole_minutes_worth_may_go_at_once_and_no_more(accounts: Accounts) -> None:
    key = Account("key:a", rpm=20)
    for n in range(20):
        await admitted(accounts, f"job/{n}", key)

    assert await refused(accounts, key) == Refused("key:a", Limit.REQUESTS, about(3.0), 20, 20)


@pytest.mark.parametrize(
    ("account", "tokens", "wait"),
    [
        (Account("key:a", rpm=60), 0, 1.0),
        (Account("key:a", tpm=6000), 6000, 60.0),
        (Account("key:a", tpm=600), 900, 60.0),
    ],
)
async def test_a_refusal_says_exactly_how_long_to_wait(
    accounts: Accounts, clock: FakeClock, account: Account, tokens: int, wait: float
) -> None:
    for n in range(account.rpm or 1):
        await admitted(accounts, f"job/{n}", account, tokens=tokens)

    refusal = await refused(accounts, account, tokens=tokens)

    assert refusal.wait == about(wait)
    clock.advance(refusal.wait - 0.001)
    assert (await refused(accounts, account, tokens=tokens)).wait == pytest.approx(0.001, abs=2e-6)
    clock.advance(0.001)
    await admitted(accounts, "job/again", account, tokens=tokens)


async def test_the_longest_wait_of_all_accounts_counts(accounts: Accounts) -> None:
    team = Account("team:t", rpm=6, tpm=60_000)
    for n in range(6):
        await admitted(accounts, f"job/{n}", KEY, team, tokens=500)
        await accounts.finish(f"job/{n}", ["key:a", "team:t"], tokens=None, cost=0)

    refusal = await refused(accounts, KEY, team, tokens=500)

    assert refusal == Refused("team:t", Limit.REQUESTS, about(10.0), 6, 6)


async def test_a_refusal_takes_nothing_from_anybody(accounts: Accounts) -> None:
    narrow = Account("team:t", tpm=100, budgets=(Budget(1000),))
    await seed(accounts, narrow)
    await admitted(accounts, "job/1", KEY, narrow, tokens=100, cost=10)
    before = await accounts.states(["key:a", "team:t"])

    await refused(accounts, KEY, narrow, tokens=50, cost=10)

    assert await accounts.states(["key:a", "team:t"]) == before


async def test_a_limit_of_zero_closes_the_account(accounts: Accounts) -> None:
    for closed, limit in [
        (Account("key:a", rpm=0), Limit.REQUESTS),
        (Account("key:a", tpm=0), Limit.TOKENS),
        (Account("key:a", parallel=0), Limit.PARALLEL),
    ]:
        assert await refused(accounts, closed, tokens=1) == Refused("key:a", limit, math.inf, 0, 0)


async def test_a_parallel_slot_is_free_again_when_its_job_is_over(accounts: Accounts) -> None:
    key = Account("key:a", parallel=1)
    await admitted(accounts, "job/1", key)

    refusal = await refused(accounts, key)
    await accounts.finish("job/1", ["key:a"], tokens=None, cost=0)

    assert refusal == Refused("key:a", Limit.PARALLEL, SLOT_RETRY, 1, 1)
    await admitted(accounts, "job/2", key)


async def test_a_job_that_nobody_finishes_frees_its_slot_and_keeps_its_tokens(
    accounts: Accounts, clock: FakeClock
) -> None:
    key = Account("key:a", parallel=1, tpm=60_000)
    await admitted(accounts, "lost", key, tokens=50_000, ttl=10)
    clock.advance(9.9)
    assert (await state(accounts)).in_flight == 1

    clock.advance(0.1)
    await accounts.finish("lost", ["key:a"], tokens=0, cost=0)

    after = await state(accounts)
    assert (after.in_flight, after.tokens) == (0, pytest.approx(20_000))
    await admitted(accounts, "job/2", key)


async def test_a_job_that_is_admitted_twice_pays_once(accounts: Accounts, clock: FakeClock) -> None:
    key = Account("key:a", rpm=1, tpm=100, parallel=1, budgets=(Budget(100),))
    await seed(accounts, key)
    first = await admitted(accounts, "job", key, tokens=100, cost=100, ttl=10)
    before = await state(accounts)

    again = await admitted(accounts, "job", key, tokens=100, cost=100, ttl=10)

    assert again == first
    assert await state(accounts) == before


async def test_its_time_begins_anew_when_it_is_admitted_again(accounts: Accounts, clock: FakeClock) -> None:
    key = Account("key:a", parallel=1)
    await admitted(accounts, "job", key, ttl=10)
    clock.advance(9)

    await admitted(accounts, "job", key, ttl=10)

    clock.advance(9)
    assert (await state(accounts)).in_flight == 1
    clock.advance(1)
    assert (await state(accounts)).in_flight == 0


async def test_what_a_job_holds_already_is_not_asked_of_it_again(accounts: Accounts) -> None:
    """Its team got a limit between two admissions: only the team is asked."""
    key = Account("key:a", rpm=1)
    await admitted(accounts, "job", key)

    await admitted(accounts, "job", key, Account("team:t", rpm=5))

    assert [each.requests for each in await accounts.states(["key:a", "team:t"])] == [0, 4]


@pytest.mark.parametrize(("used", "balance"), [(None, 200), (0, 1000), (800, 200), (100, 900), (2000, -1000)])
async def test_finishing_replaces_the_tokens_taken_by_those_used(
    accounts: Accounts, used: int | None, balance: float
) -> None:
    await admitted(accounts, "job", Account("key:a", tpm=1000), tokens=800)

    await accounts.finish("job", ["key:a"], tokens=used, cost=0)

    after = await state(accounts)
    assert (after.tokens, after.in_flight) == (balance, 0)


async def test_returned_tokens_never_overfill_the_bucket(accounts: Accounts, clock: FakeClock) -> None:
    await admitted(accounts, "job", Account("key:a", tpm=1000), tokens=800)
    clock.advance(59)

    await accounts.finish("job", ["key:a"], tokens=0, cost=0)

    assert (await state(accounts)).tokens == 1000


async def test_finishing_twice_changes_nothing_more(accounts: Accounts) -> None:
    key = Account("key:a", tpm=1000, budgets=(Budget(1000),))
    await seed(accounts, key)
    await admitted(accounts, "job", key, tokens=800, cost=700)
    await accounts.finish("job", ["key:a"], tokens=500, cost=300)
    before = await state(accounts)

    await accounts.finish("job", ["key:a"], tokens=0, cost=0)

    assert (before.tokens, before.in_flight, before.reserved) == (500, 0, 300)
    assert await state(accounts) == before


async def test_finishing_knows_nothing_of_jobs_and_accounts_that_are_not_there(accounts: Accounts) -> None:
    await admitted(accounts, "job", KEY)
    before = await accounts.states(["key:a", "team:unknown"])

    await accounts.finish("another", ["key:a"], tokens=0, cost=5)
    await accounts.finish("job", ["team:unknown"], tokens=0, cost=5)
    await accounts.finish("job", [], tokens=0, cost=5)

    assert await accounts.states(["key:a", "team:unknown"]) == before


async def test_a_lowered_limit_holds_at_once_and_a_raised_one_fills_up(accounts: Accounts, clock: FakeClock) -> None:
    await admitted(accounts, "job/1", Account("key:a", rpm=60))

    lowered = await admitted(accounts, "job/2", Account("key:a", rpm=6))
    raised = await admitted(accounts, "job/3", Account("key:a", rpm=600))
    clock.advance(1)

    assert (lowered.remaining[0][0], raised.remaining[0][0]) == (5, 4)
    assert (await state(accounts)).requests == pytest.approx(14)


async def test_accounts_without_limits_cost_nothing(accounts: Accounts) -> None:
    free = [Account("key:a"), Account("user:u")]

    answers = [await admitted(accounts, f"job/{n}", *free, tokens=10**9, cost=10**9) for n in range(50)]

    assert set(answers) == {Admitted(remaining=((None, None), (None, None)), spent=(None, None))}
    assert await admitted(accounts, "job") == Admitted()


async def test_an_admission_has_a_bound(accounts: Accounts) -> None:
    many = [Account(f"user:{n}", rpm=5) for n in range(MAX_ACCOUNTS + 1)]
    budgets = tuple(Budget(100, start=float(n)) for n in range(MAX_BUDGETS + 1))

    await admitted(accounts, "job", *many[1:])
    for asked in (many, [Account("key:a", budgets=budgets)], [KEY, KEY]):
        with pytest.raises(ValueError, match=r"admission|at most"):
            await ask(accounts, "job", *asked)
    for amounts in ({"cost": 2**53}, {"cost": -1}, {"tokens": -1}, {"ttl": 0.0}):
        with pytest.raises(ValueError, match="admission"):
            await ask(accounts, "job", KEY, **amounts)  # type: ignore[arg-type]


async def test_the_largest_admission_is_possible(accounts: Accounts) -> None:
    budgets = tuple(Budget(100, start=float(n)) for n in range(MAX_BUDGETS))
    many = [Account(f"user:{n}", rpm=5, budgets=budgets) for n in range(MAX_ACCOUNTS)]
    await seed(accounts, *many, ledger=7)

    answer = await admitted(accounts, "job", *many, cost=93)

    assert answer.spent == (7,) * MAX_ACCOUNTS


async def test_names_may_hold_anything(accounts: Accounts) -> None:
    names = ["customer:a b;c\n- } {", "customer:\x00é", "customer:*", "team:a/b c"]
    for name in names:
        await seed(accounts, budgeted(100, name))

    await admitted(accounts, "job id; 1 2\n-", *[budgeted(100, name) for name in names], cost=5)

    assert [each.reserved for each in await accounts.states(names)] == [5] * 4


async def test_the_state_of_an_unknown_account_is_empty(accounts: Accounts) -> None:
    await admitted(accounts, "job", Account("key:a", rpm=5))

    used, unknown = await accounts.states(["key:a", "key:b"])

    assert (used.requests, used.tokens, used.in_flight, used.reserved, used.spent) == (4, None, 1, 0, {})
    assert (unknown.requests, unknown.tokens, unknown.in_flight, unknown.reserved) == (None, None, 0, 0)
    assert await accounts.states([]) == []


async def test_it_answers_a_ping(accounts: Accounts) -> None:
    await accounts.ping()
