"""What a history must have left: what the provider billed, what the ledger has, and what the accounts still hold."""

import asyncio
import bisect
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from broker.account_interfaces import Accounts, AccountState, Admitted, Refused, Unseeded
from broker.directory_interfaces import Bill
from shared.accounts import Account
from tests.e2e.books import UpstreamProcess
from tests.e2e.histories import Request, cost

_GRACE = 0.5  # seconds in which a hang-up on one connection may be noticed after a request on another
_PROMPT = re.compile(r"request (\d+) of (\w+)")
_POLL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Billed:
    """An attempt, as the provider tells it."""

    number: int
    """The request's."""
    job_id: str
    attempt: int
    at: float
    until: float
    tokens: tuple[int, int] | None
    """Of the prompt and of an answer that left in whole."""
    hung_up: bool
    """By the client."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger."""

    job_id: str
    attempt: int
    status: str
    key_hash: str
    cost: int
    started_at: float
    recorded_at: float


def billed(upstream: UpstreamProcess) -> list[Billed]:
    assert upstream.bills is not None
    lines = [json.loads(line) for line in upstream.bills.read_text().splitlines()]
    return sorted((_billed(line) for line in lines), key=lambda each: each.at)


def _billed(line: dict[str, Any]) -> Billed:
    found = _PROMPT.fullmatch(line["prompt"])
    assert found is not None, line
    tokens = None if line["billed"] is None else (line["billed"][0], line["billed"][1])
    return Billed(
        int(found[1]), line["job_id"], int(line["attempt"]), line["at"], line["until"], tokens, line["hung_up"]
    )


async def ledger(database: str) -> list[Row]:
    connection = await asyncpg.connect(database, timeout=30)
    try:
        found = await connection.fetch(
            "SELECT job_id, attempt, status, key_hash, cost_nanodollars, started_at, created_at FROM ledger"
        )
    finally:
        await connection.close(timeout=30)
    return [Row(*row.values()) for row in found]


def wrong_bills(
    bills: Sequence[Billed], rows: Sequence[Row], requests: dict[int, Request], keys: dict[str, str]
) -> list[str]:
    """Rows that say something else than the provider. What was answered in whole is known to the nano-dollar; of what
    was broken off, by whomever, the row has an estimate, which may be anything up to the reservation."""
    by_attempt = {(each.job_id, each.attempt): each for each in bills}
    wrong = []
    for row in rows:
        bill = by_attempt.get((row.job_id, row.attempt))
        if bill is None:
            continue  # `books.balanced_books` has looked at those
        request = requests[bill.number]
        if row.key_hash != keys[request.caller]:
            wrong.append(f"{row} is on another key's bill: {request}")
        if row.status == "success" and (bill.tokens is None or row.cost != cost(bill.tokens)):
            wrong.append(f"{row}, and the provider says {bill}")
        if row.cost > cost(request.reserved):
            wrong.append(f"{row} costs more than {request} may")
    return wrong


async def spent(accounts: Accounts, bill: Bill, account: Account) -> int:
    """Nano-dollars spent and reserved of the account's budget, as the next request would find it."""
    probe = f"probe-{time.time_ns()}"
    async with asyncio.timeout(60):
        while True:
            match await accounts.admit(probe, [account], tokens=0, cost=0, ttl=10.0):
                case Admitted(_, (int() as found,)):
                    await accounts.finish(probe, [account.id], tokens=0, cost=0)
                    return found
                case Refused(used=found):
                    return int(found)
                case Unseeded(budgets):
                    for id, start, end, ticket in budgets:
                        await accounts.seed(id, start, end, await bill.spent(id, start, end), ticket)


async def at_rest(accounts: Accounts, ids: Sequence[str], *, timeout: float) -> list[AccountState]:
    """The states, as soon as nothing is held, else after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while True:
        states = await accounts.states(ids)
        if all(state.in_flight == state.reserved == 0 for state in states) or time.monotonic() > give_up:
            return states
        await asyncio.sleep(_POLL)


@dataclass(frozen=True, slots=True)
class Flow:
    """Something taken from a bucket: a request, or its tokens."""

    sent: float
    """The client asked; it was taken after that."""
    at: float
    """The provider saw it; it was taken before that."""
    until: float
    amount: float
    reserved: float
    """What was taken at first."""


def flows(bills: Iterable[Billed], requests: dict[int, Request], *, tokens: bool) -> list[Flow]:
    """By job, in the order of arrival."""
    by_job: dict[str, list[Billed]] = defaultdict(list)
    for each in bills:
        by_job[each.job_id].append(each)
    found = []
    for attempts in by_job.values():
        request = requests[attempts[0].number]
        used = sum(sum(each.tokens or (0, 0)) for each in attempts) if tokens else 1
        reserved = sum(request.reserved) if tokens else 1
        at, until = min(each.at for each in attempts), max(each.until for each in attempts)
        found.append(Flow(request.sent, at, until, used, reserved))
    return sorted(found, key=lambda flow: flow.at)


def over_the_limit(found: Sequence[Flow], limit: int, flushed: Sequence[float]) -> list[str]:
    """Stretches of time in which more arrived than a bucket of a minute's worth, full at first and refilled at its
    rate, could have given. A bucket that was lost is a new, full one.

    What arrives from one moment to another was taken after the first of it was asked for. Tokens that were taken before
    that and not used come back, too.
    """
    wrong = []
    for first, begin in enumerate(found):
        total, since = 0.0, begin.sent
        for flow in found[first:]:
            total += flow.amount
            since = min(since, flow.sent)
            back = sum(max(each.reserved - each.amount, 0) for each in found[:first] if each.until >= since - _GRACE)
            burst = limit * (1 + sum(since <= each <= flow.at for each in flushed))
            if total > burst + back + limit / 60 * (flow.at - since) + 1e-6:
                wrong.append(f"{total:g} within {flow.at - since:.3f} s of a limit of {limit} a minute")
    return wrong


def most_at_a_time(bills: Iterable[Billed]) -> int:
    ends = [(max(each.at, each.until - _GRACE) if each.hung_up else each.until, -1) for each in bills]
    moments = sorted([(each.at, 1) for each in bills] + ends)
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def between(bills: Sequence[Billed], requests: dict[int, Request], times: Sequence[float]) -> list[list[Billed]]:
    """Attempts of jobs that were asked for and arrived between two of the times, where that is certain."""
    parts: list[list[Billed]] = [[] for _ in range(len(times) + 1)]
    for each in bills:
        first = min(other.at for other in bills if other.job_id == each.job_id)
        sent, arrived = (bisect.bisect(times, moment) for moment in (requests[each.number].sent, first))
        if sent == arrived:
            parts[sent].append(each)
    return parts
