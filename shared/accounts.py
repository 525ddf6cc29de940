"""Accounts: whoever may use so much and no more. A key, a user, a team, a member of a team, a customer, or a key or
team with one model has an account if a limit or a budget is set for it.

An account's id names its subject, so that a row of the ledger tells which accounts it is charged to.
"""

from collections.abc import Iterator

from shared.jobs import Job, Outcome
from shared.values import value

NEVER = float("inf")
"""The end of a budget that does not start anew."""

PROXY = "proxy"
"""The account of everybody: `litellm_settings.max_budget`."""


def key_account(key: str, model: str = "") -> str:
    """Of a key, by the hash of its text; with a model, of that key's use of that model group."""
    return f"key:{key}/{model}" if model else f"key:{key}"


def user_account(user: str) -> str:
    return f"user:{user}"


def team_account(team: str, model: str = "") -> str:
    return f"team:{team}/{model}" if model else f"team:{team}"


def member_account(team: str, user: str) -> str:
    """Of a user within a team."""
    return f"member:{team}/{user}"


def customer_account(customer: str) -> str:
    """Of an end user, as the request names it."""
    return f"customer:{customer}"


@value(frozen=True, slots=True)
class Budget:
    """So much money from `start` up to, and not including, `end`."""

    limit: int
    """Nano-dollars, 0 or more."""
    start: float = 0.0
    """Seconds since the epoch."""
    end: float = NEVER
    base: int = 0
    """Nano-dollars that count as spent though the ledger has no rows for them: imported, or set by `reset_spend`."""


@value(frozen=True, slots=True)
class Account:
    """What its subject may use. None means no limit of that kind."""

    id: str
    rpm: int | None = None
    """Requests a minute; so many may go at once."""
    tpm: int | None = None
    """Tokens a minute, prompt and answer; so many may go at once."""
    parallel: int | None = None
    """Requests at a time."""
    budgets: tuple[Budget, ...] = ()
    """All hold at the same time."""
    label: str = ""
    """For people, in refusals: `Key=alias (sk-...abcd)`, `Team=research`."""


def charged(row: Outcome | Job) -> Iterator[str]:
    """The ids of the accounts that the row counts towards, should they exist."""
    group = row.group if isinstance(row, Outcome) else row.current.group
    yield PROXY
    if row.key:
        yield key_account(row.key)
        yield key_account(row.key, group)
    if row.user:
        yield user_account(row.user)
    if row.team:
        yield team_account(row.team)
        yield team_account(row.team, group)
        if row.user:
            yield member_account(row.team, row.user)
    if row.customer:
        yield customer_account(row.customer)
