"""Charges: the accounts hear of every row that is committed, sooner or later, and nothing waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from broker.account_interfaces import Charge
from shared.jobs import Outcome, Status
from tests.fakes.accounts import NotedAccounts
from workers import charges
from workers.charges import Charges

ROW = Outcome(
    "job", 1, 5.0, "chat.completions", "m", "chat", "d", "p", "m", Status.SUCCESS, cost=700, key="abc", team="t"
)  # fmt: skip


@asynccontextmanager
async def running(desk: Charges) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "_RETRY", 0.001)


async def test_rows_are_charged_to_all_accounts_that_they_may_count_towards() -> None:
    accounts = NotedAccounts()

    await Charges(accounts).charge([ROW])

    names = ("proxy", "key:abc", "key:abc/chat", "team:t", "team:t/chat")
    assert accounts.charges == [[Charge("job", names, 5.0, 700, last=True)]]


@pytest.mark.parametrize(
    ("row", "told"),
    [(ROW, True), (replace(ROW, cost=0), True), (replace(ROW, last=False), True),
     (replace(ROW, cost=0, last=False), False)],
    ids=["costs", "free and last", "costs and goes on", "free and goes on"],
)  # fmt: skip
async def test_a_row_that_changes_nothing_is_not_told(row: Outcome, told: bool) -> None:
    accounts = NotedAccounts()

    await Charges(accounts).charge([row])

    assert bool(accounts.charges) is told


async def test_all_is_forgotten_once_at_the_start() -> None:
    accounts = NotedAccounts()
    desk = Charges(accounts)

    async with running(desk):
        await until(lambda: accounts.forgotten)
        await desk.charge([ROW])
        await asyncio.sleep(0.01)

    assert accounts.journal == ["forget", "charge"]


async def test_what_accounts_missed_is_forgotten_and_charged_as_soon_as_they_answer() -> None:
    accounts = NotedAccounts()
    desk = Charges(accounts)
    async with running(desk):
        await until(lambda: accounts.forgotten)
        accounts.away = True

        with capture_logs() as logs:
            await desk.charge([ROW])
            await desk.charge([replace(ROW, job_id="another")])
            asked = accounts.attempts
            await until(lambda: accounts.attempts > asked + 2)
            accounts.away = False
            await until(lambda: accounts.charges)

    assert accounts.journal == ["forget", "forget", "charge"]
    assert [row.job_id for row in accounts.charges[0]] == ["job", "another"]
    assert [each["event"] for each in logs] == ["accounts_unavailable", "accounts_available"]


async def test_while_they_are_away_a_commit_waits_for_them_once() -> None:
    accounts = NotedAccounts(away=True)
    desk = Charges(accounts)

    for _ in range(5):
        await desk.charge([ROW])

    assert accounts.attempts == 1


async def test_no_more_than_so_many_rows_are_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "_MOST_OWED", 3)
    accounts = NotedAccounts(away=True)
    desk = Charges(accounts)
    for number in range(5):
        await desk.charge([replace(ROW, job_id=str(number))])
    accounts.away = False

    async with running(desk):
        await until(lambda: accounts.charges)

    assert [row.job_id for row in accounts.charges[0]] == ["2", "3", "4"]
