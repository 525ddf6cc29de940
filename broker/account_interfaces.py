"""The fifth seam: what callers may use. Promises as in `broker.interfaces`, checked by `tests/conformance/`.

Three moments of a job touch its accounts. `admit` reserves its estimate before it is published. `finish` gives back, at
its end, what belongs to its life: parallel slots, and tokens that it did not use; its money stays reserved, at what it
really cost. `charge` follows when the ledger has the row: the money moves from reserved to spent. So at any time

    budget = ledger + reserved + what is left

and nothing that a process does when it dies between two of these moments makes more of it: what it leaves is reserved
until the row is there or the reservation's time is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.accounts import Account
from shared.values import value


class Limit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "max_parallel_requests"
    BUDGET = "budget"


@value(frozen=True, slots=True)
class Admitted:
    remaining: tuple[tuple[float | None, float | None], ...] = ()
    """Requests and tokens left, for each account in the order given; None where there is no such limit."""
    spent: tuple[int | None, ...] = ()
    """Nano-dollars spent and reserved, without this job, of each account's first budget, its base included; None
    without a budget. What is in doubt (`Accounts.charge`) counts as spent."""


@value(frozen=True, slots=True)
class Refused:
    """Nothing was taken."""

    account: str
    """The one that must wait longest."""
    limit: Limit
    wait: float
    """Seconds until all accounts would let the job in: exact for requests, tokens and budgets that start anew; for a
    parallel slot, which is free when its holder is done, an estimate of 1 s; infinite for a budget that never starts
    anew, and for what is more than a limit could ever give."""
    allowed: float
    """The limit: requests or tokens a minute, requests at a time, nano-dollars."""
    used: float
    """Of it: for a budget what is spent and reserved, else what is not there now."""


@dataclass(frozen=True, slots=True)
class Unseeded:
    """Nothing was taken, because it is not known, or not for certain, what these budgets have spent: ask the ledger,
    `seed` them and ask again. When the ledger is away, asking again lets the job in if only certainty was missing."""

    budgets: tuple[tuple[str, float, float, int], ...]
    """Account, start, end, and the ticket that `seed` wants back."""


@value(frozen=True, slots=True)
class Charge:
    """A committed row of the ledger."""

    job_id: str
    accounts: tuple[str, ...]
    """`shared.accounts.charged`."""
    started_at: float
    cost: int
    """Nano-dollars."""
    last: bool
    """No further attempt of the job will follow."""


@dataclass(frozen=True, slots=True)
class AccountState:
    requests: float | None
    tokens: float | None
    """Balances, refilled up to now; None when never used."""
    in_flight: int
    reserved: int
    """Nano-dollars."""
    spent: dict[tuple[float, float], int]
    """Nano-dollars by the budget's start and end, without base; those that are not known for certain are left out."""


class Accounts(Protocol):
    async def admit(
        self, job_id: str, accounts: Sequence[Account], *, tokens: int, cost: int, ttl: float
    ) -> Admitted | Refused | Unseeded:
        """Take one request, `tokens`, a parallel slot and `cost` nano-dollars from every account that limits them: all
        or nothing, in one atomic step on the server's clock for all processes. At most 16 accounts with 8 budgets each
        (`ValueError` beyond, and for an account named twice). Asked again for the same job, it is admitted again and
        pays once; its `ttl` begins anew.

        Tokens are clamped to the account's limit, or a large request could never pass. A budget lets a job in while
        spent + reserved + cost <= limit; so that an estimate larger than what is left does not shut the door on money
        that is there, it also does, with the reservation clamped to what is left, while no other job is under way and
        spent + reserved is under the limit. Of what is neither finished nor charged within `ttl` seconds, slot and
        money are given back by themselves; tokens are not, because nobody said that they were not used.

        Accounts without any limit or budget cost nothing and need no round trip."""
        ...

    async def seed(self, account: str, start: float, end: float, spent: int, ticket: int) -> None:
        """What the ledger had for the budget, read after the ticket was given out. What was charged to it in between
        is in doubt. Nothing happens if the account was forgotten in between, or somebody else was faster."""
        ...

    async def finish(self, job_id: str, accounts: Sequence[str], *, tokens: int | None, cost: int) -> None:
        """The job is over, or will never run: its slots are free, unused tokens return (`tokens` were really used; None
        keeps the reservation), and of its money `cost` stays reserved until it is charged, nothing if 0. What stays
        reserved is kept for 7 days. Twice changes nothing more."""
        ...

    async def charge(self, rows: Sequence[Charge]) -> None:
        """The ledger has these rows. Their costs are now spent, and no longer reserved, in those accounts that exist
        and those budgets in whose time they began.

        A row with a cost is *in doubt* when nothing was reserved for it (so the second time as well), when it is not
        its job's last, and when it may be in what was seeded already. It counts on top, so that no budget is overshot,
        until the ledger has been asked again: `admit` asks (`Unseeded`) rather than refuse on account of it, and else
        5 s after it asked the last time. Under load some row is always on its way here from the ledger: if it made
        every seed void, a busy account would ask without end."""
        ...

    async def forget(self, account: str | None = None) -> None:
        """Ask the ledger again before the next `admit`: of one account, or of all. Reservations stay."""
        ...

    async def states(self, accounts: Sequence[str]) -> list[AccountState]: ...

    async def ping(self) -> None: ...
