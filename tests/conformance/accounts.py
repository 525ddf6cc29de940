"""Accounts of each kind, and what their tests ask of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker.account_interfaces import Accounts, AccountState, Admitted, Charge, Refused, Unseeded
from broker.accounts import memory, redis
from shared.accounts import NEVER, Account, Budget
from tests.fakes.clock import FakeClock

Connect = Callable[[], memory.MemoryAccounts | redis.RedisAccounts]

EVER = (0.0, NEVER)


def opener(url: str, namespace: str, clock: FakeClock | None) -> Connect:
    if url == "memory://":
        accounts = memory.connect(url, clock=clock)
        return lambda: accounts
    return lambda: redis.connect(url, namespace=namespace, clock=clock.now if clock else None)


def budgeted(limit: int, name: str = "key:a", **of_budget: Any) -> Account:
    return Account(name, budgets=(Budget(limit, **of_budget),))


def charge(job_id: str, cost: int, *accounts: str, at: float = 1.0, last: bool = True) -> Charge:
    return Charge(job_id, accounts or ("key:a",), at, cost, last)


async def ask(
    accounts: Accounts, job_id: str, *asked: Account, tokens: int = 0, cost: int = 0, ttl: float = 60.0
) -> Admitted | Refused | Unseeded:
    return await accounts.admit(job_id, asked, tokens=tokens, cost=cost, ttl=ttl)


async def admitted(accounts: Accounts, job_id: str, *asked: Account, **amounts: Any) -> Admitted:
    answer = await ask(accounts, job_id, *asked, **amounts)
    assert isinstance(answer, Admitted), answer
    return answer


async def refused(accounts: Accounts, *asked: Account, **amounts: Any) -> Refused:
    answer = await ask(accounts, "refused", *asked, **amounts)
    assert isinstance(answer, Refused), answer
    return answer


async def unseeded(accounts: Accounts, *asked: Account, **amounts: Any) -> Unseeded:
    answer = await ask(accounts, "unseeded", *asked, **amounts)
    assert isinstance(answer, Unseeded), answer
    return answer


async def seed(accounts: Accounts, *asked: Account, ledger: int = 0, cost: int = 0) -> None:
    """Ask and answer, as the gate does; `ledger` is what it has of each account."""
    for name, start, end, ticket in (await unseeded(accounts, *asked, cost=cost)).budgets:
        await accounts.seed(name, start, end, ledger, ticket)


async def state(accounts: Accounts, name: str = "key:a") -> AccountState:
    (state,) = await accounts.states([name])
    return state


async def spent(accounts: Accounts, window: tuple[float, float] = EVER, name: str = "key:a") -> int | None:
    return (await state(accounts, name)).spent.get(window)


def names(asked: Sequence[Account]) -> list[str]:
    return [account.id for account in asked]


def about(seconds: float) -> Any:
    """A wait, which is rounded up to a microsecond."""
    return pytest.approx(seconds, abs=2e-6)
