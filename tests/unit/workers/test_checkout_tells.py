"""What accounts are told of a job's end, and how long anybody waits for them."""

import asyncio
import time
from dataclasses import dataclass, replace

import pytest

from shared.accounts import charged
from shared.jobs import Job, Outcome, Status, Usage
from tests.fakes.accounts import Finish, NotedAccounts
from tests.fakes.seams import leg
from workers import checkout
from workers.checkout import Checkout

KEY = "key:abc"


def _job() -> Job:
    return Job(
        id="job", endpoint="chat.completions", model="m", route=(leg("a"),), body=b"", reply_to="", accepted_at=0.0,
        deadline=1.0, key="abc", accounts=(KEY,),
    )  # fmt: skip


@dataclass(frozen=True)
class Told:
    accounts: tuple[str, ...]
    tokens: int | None
    cost: int


ROW = Outcome(
    "job", 1, 0.0, "chat.completions", "m", "chat", "a", "openai", "m", Status.SUCCESS,
    usage=Usage(input=10, output=5), cost=700, key="abc",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ROW], [Told((KEY,), 15, 700)]),
        ([], [Told((KEY,), 0, 0)]),
        (None, [Told((KEY,), None, 0)]),
        ([replace(ROW, last=False)], [Told((KEY,), 15, 0)]),
        ([replace(ROW, last=False), ROW], [Told((KEY,), 30, 1400)]),
    ],
    ids=["one row", "never ran", "unknown", "no charge will end it", "two rows"],
)
async def test_tokens_are_those_used_and_money_stays_for_a_charge_that_will_come(
    rows: list[Outcome] | None, told: list[Told]
) -> None:
    accounts = NotedAccounts()

    task = Checkout(accounts).start(_job(), rows)
    assert task is not None
    await task

    assert [Told(each.accounts, each.tokens, each.cost) for each in accounts.finished] == told


async def test_an_account_of_the_first_model_does_not_wait_for_the_charge_of_a_fallback() -> None:
    accounts = NotedAccounts()
    job = replace(_job(), accounts=(KEY, f"{KEY}/chat"))

    task = Checkout(accounts).start(job, [replace(ROW, group="other")])
    assert task is not None
    await task

    assert accounts.finished == [Finish("job", (KEY,), 15, 700), Finish("job", (f"{KEY}/chat",), 15, 0)]


async def test_without_a_ledger_no_money_waits_for_a_row() -> None:
    accounts = NotedAccounts()

    task = Checkout(accounts, ledger=False).start(_job(), [ROW])
    assert task is not None
    await task

    assert [(each.tokens, each.cost) for each in accounts.finished] == [(15, 0)]


async def test_a_job_that_ended_without_a_worker_is_told_to_all_accounts_that_it_may_have() -> None:
    accounts = NotedAccounts()
    named, unnamed = _job(), replace(_job(), id="line", accounts=())

    await Checkout(accounts).all_abandoned([named, unnamed])

    assert accounts.finished == [
        Finish("job", (KEY,), None, 0),
        Finish("line", tuple(charged(unnamed)), None, 0),
    ]


class Silent(NotedAccounts):
    async def finish(self, job_id: str, accounts: object, *, tokens: int | None, cost: int) -> None:
        await asyncio.Event().wait()


async def test_accounts_that_do_not_answer_hold_up_neither_an_ack_nor_the_workers_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkout, "_LAST", 0.01)
    desk = Checkout(Silent())
    began = time.monotonic()

    task = desk.start(_job(), [])
    await desk.close()

    assert task is not None
    assert time.monotonic() - began < 4  # less than it would wait otherwise
    task.cancel()


async def test_no_more_than_so_many_wait_for_accounts_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "_MOST", 2)
    desk = Checkout(Silent())

    tasks = [desk.start(_job(), []) for _ in range(3)]

    assert [task is not None for task in tasks] == [True, True, False]
    for task in tasks:
        if task is not None:
            task.cancel()
