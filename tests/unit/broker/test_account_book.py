"""When the embedded profile may forget an account."""

import pytest

from broker.account_interfaces import Admitted
from broker.accounts import memory
from broker.accounts.account import CHARGE_TTL, IDLE_TTL
from shared.accounts import Account, Budget
from tests.fakes.clock import FakeClock


async def test_idle_accounts_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SWEEP_AT", 3)
    clock = FakeClock()
    accounts = memory.connect(clock=clock)
    for name in ("a", "b", "c"):
        await accounts.admit(f"job/{name}", [Account(name, rpm=5)], tokens=0, cost=0, ttl=60)
    clock.advance(IDLE_TTL + 1)
    await accounts.admit("job/again", [Account("c", rpm=5)], tokens=0, cost=0, ttl=60)

    await accounts.admit("job/d", [Account("d", rpm=5)], tokens=0, cost=0, ttl=60)

    states = await accounts.states(["a", "b", "c", "d"])
    assert [each.requests for each in states] == [None, None, 4, 4]


async def test_an_account_that_somebody_holds_something_of_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SWEEP_AT", 1)
    clock = FakeClock()
    accounts = memory.connect(clock=clock)
    held = Account("held", budgets=(Budget(100),))
    answer = await accounts.admit("job", [held], tokens=0, cost=50, ttl=60)
    await accounts.seed("held", *answer.budgets[0][1:3], 0, answer.budgets[0][3])  # type: ignore[union-attr]
    assert isinstance(await accounts.admit("job", [held], tokens=0, cost=50, ttl=60), Admitted)
    await accounts.finish("job", ["held"], tokens=None, cost=30)
    clock.advance(CHARGE_TTL - 1)

    await accounts.admit("other", [Account("another", rpm=5)], tokens=0, cost=0, ttl=60)
    (kept,) = await accounts.states(["held"])
    clock.advance(IDLE_TTL + 2)
    await accounts.admit("other", [Account("a third", rpm=5)], tokens=0, cost=0, ttl=60)
    (gone,) = await accounts.states(["held"])

    assert (kept.reserved, gone.reserved, gone.spent) == (30, 0, {})


async def test_an_overdrawn_bucket_is_remembered_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SWEEP_AT", 1)
    clock = FakeClock()
    accounts = memory.connect(clock=clock)
    await accounts.admit("job", [Account("key:a", tpm=60)], tokens=60, cost=0, ttl=60)
    await accounts.finish("job", ["key:a"], tokens=20_060, cost=0)
    clock.advance(IDLE_TTL + 1)

    await accounts.admit("other", [Account("another", rpm=5)], tokens=0, cost=0, ttl=60)

    assert (await accounts.states(["key:a"]))[0].tokens == pytest.approx(IDLE_TTL + 1 - 20_000)
