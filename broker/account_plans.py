"""From LiteLLM's fields to the accounts that they limit: of a key, its user, its team, their models and customers.

A value that makes no sense (of an imported row, say) counts as not set. Pure.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from broker.account_records import Entry, Resolved
from shared.accounts import (
    NEVER,
    PROXY,
    Account,
    Budget,
    customer_account,
    key_account,
    member_account,
    team_account,
    user_account,
)
from shared.management import Management
from shared.values import value
from shared.windows import Calendar, Duration

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

MOST_BUDGETS = 8  # of one account

LIMITS = ("rpm_limit", "tpm_limit", "max_parallel_requests")
_FROM_BUDGET = (*LIMITS, "max_budget", "soft_budget", "budget_duration", "model_max_budget")
"""What a subject that names a `budget_id` need not set itself."""

Fields = Mapping[str, Any]


@value(frozen=True, slots=True)
class BudgetPlan:
    """A budget before it is known which of its windows it is now."""

    limit: int
    """Nano-dollars."""
    duration: Duration | None
    """None: it never starts anew."""
    base: int = 0
    """What counts as spent since `since`."""
    since: float = 0.0

    def at(self, now: float, calendar: Calendar) -> Budget:
        start, end = calendar.window(self.duration, now)
        return Budget(self.limit, self.since, end, self.base) if self.since >= start else Budget(self.limit, start, end)


@value(frozen=True, slots=True)
class AccountPlan:
    id: str
    label: str
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    budgets: tuple[BudgetPlan, ...] = ()

    @property
    def limited(self) -> bool:
        return bool(self.budgets) or not self.rpm is self.tpm is self.parallel is None

    def at(self, now: float, calendar: Calendar) -> Account:
        budgets = tuple([each.at(now, calendar) for each in self.budgets])
        return Account(self.id, self.rpm, self.tpm, self.parallel, budgets, self.label)


class Plans:
    """Some accounts, as they are now: computed anew only when one of their windows is over."""

    __slots__ = ("_accounts", "_begin", "_calendar", "_end", "_plans")

    def __init__(self, plans: Iterable[AccountPlan], calendar: Calendar) -> None:
        self._plans = tuple([plan for plan in plans if plan.limited])
        self._calendar = calendar
        self._accounts: tuple[Account, ...] = ()
        self._begin, self._end = (NEVER, NEVER) if self._plans else (-NEVER, NEVER)

    def __bool__(self) -> bool:
        return bool(self._plans)

    def at(self, now: float) -> tuple[Account, ...]:
        if not self._begin <= now < self._end:
            self._accounts = tuple([plan.at(now, self._calendar) for plan in self._plans])
            ends = [budget.end for account in self._accounts for budget in account.budgets]
            self._begin, self._end = now, min(ends, default=NEVER)
        return self._accounts


def fixed_plans(found: Resolved, own: Fields, management: Management) -> Iterator[AccountPlan]:
    key, user, team = found.key, found.user, found.team
    yield proxy_plan(management)
    if own.get("max_parallel_requests") is None and management.max_parallel_requests is not None:
        own = {**own, "max_parallel_requests": management.max_parallel_requests}
    yield _plan(key_account(key.hash), f"Key={key.alias or 'key'} ({key.name})", own)
    if user is not None:
        yield _plan(user_account(user.id), f"User={user.id}", filled(user.fields, found.budgets))
    if team is not None:
        yield _plan(team_account(team.id), f"Team={team.id}", filled(team.fields, found.budgets))
        if key.user:
            label = f"User={key.user} in Team={team.id}"
            yield _plan(member_account(team.id, key.user), label, _member(found, team))


def _member(found: Resolved, team: Entry) -> Fields:
    """Of a member without limits of its own the team's `team_member_...` hold."""
    fields = dict(filled(found.member.fields, found.budgets)) if found.member is not None else {}
    if fields.get("max_budget_in_team") is not None:
        fields["max_budget"] = fields["max_budget_in_team"]
    team_wide = {
        "max_budget": team.fields.get("team_member_budget"),
        "budget_duration": team.fields.get("team_member_budget_duration"),
        "rpm_limit": team.fields.get("team_member_rpm_limit"),
        "tpm_limit": team.fields.get("team_member_tpm_limit"),
    }
    return completed(fields, team_wide)


def model_plans(found: Resolved, own: Fields, calendar: Calendar) -> dict[str, Plans]:
    key, team = found.key, found.team
    label = f"Key={key.alias or 'key'} ({key.name})"
    plans = [(model, _model_plan(key_account(key.hash, model), label, model, own)) for model in _models(own)]
    if team is not None:
        fields = filled(team.fields, found.budgets)
        plans += [
            (model, _model_plan(team_account(team.id, model), f"Team={team.id}", model, fields))
            for model in _models(fields)
        ]
    by_model: dict[str, list[AccountPlan]] = {}
    for model, plan in plans:
        if plan.limited:
            by_model.setdefault(model, []).append(plan)
    return {model: Plans(each, calendar) for model, each in by_model.items()}


def _models(fields: Fields) -> set[str]:
    """Those that have limits of their own."""
    tables = (fields.get(name) for name in ("model_rpm_limit", "model_tpm_limit", "model_max_budget"))
    return {model for table in tables if isinstance(table, Mapping) for model in table}


def _model_plan(id: str, label: str, model: str, fields: Fields) -> AccountPlan:
    def of(table: str) -> Any:
        found = fields.get(table)
        return found.get(model) if isinstance(found, Mapping) else None

    budget = of("model_max_budget")
    budgets: tuple[BudgetPlan, ...] = ()
    if isinstance(budget, Mapping):  # {budget_limit, time_period}, or as elsewhere {max_budget, budget_duration}
        limit = budget.get("budget_limit", budget.get("max_budget"))
        period = budget.get("time_period", budget.get("budget_duration"))
        budgets = tuple(_budget(limit, period, {}))
    elif budget is not None:
        budgets = tuple(_budget(budget, None, {}))
    return AccountPlan(
        id, f"{label} Model={model}", _count(of("model_rpm_limit")), _count(of("model_tpm_limit")), None, budgets
    )


def proxy_plan(management: Management) -> AccountPlan:
    return AccountPlan(PROXY, "", budgets=tuple(_budget(management.max_budget, management.budget_duration, {})))


def _plan(id: str, label: str, fields: Fields) -> AccountPlan:
    budgets = [*_budget(fields.get("max_budget"), fields.get("budget_duration"), fields)]
    more = fields.get("budget_limits")
    for each in more if isinstance(more, list) else ():
        if isinstance(each, Mapping):
            budgets += _budget(each.get("max_budget"), each.get("budget_duration"), fields)
    rpm, tpm, parallel = (_count(fields.get(name)) for name in LIMITS)
    return AccountPlan(id, label, rpm, tpm, parallel, tuple(budgets[:MOST_BUDGETS]))


def _budget(dollars: Any, duration: Any, fields: Fields) -> Iterator[BudgetPlan]:
    limit = number(dollars)
    if limit is not None:
        base, since = number(fields.get("spend_base")), number(fields.get("spend_since"))
        yield BudgetPlan(nano(limit), _duration(duration), nano(base or 0.0), since or 0.0)


def nano(dollars: float) -> int:
    return round(dollars * NANO)


def filled(fields: Fields, budgets: Mapping[str, Entry]) -> Fields:
    """With what the budget says that the fields name."""
    named = fields.get("budget_id")
    budget = budgets.get(str(named)) if named else None
    return fields if budget is None else completed(fields, budget.fields)


def completed(fields: Fields, defaults: Fields) -> dict[str, Any]:
    missing = {name: defaults[name] for name in _FROM_BUDGET if fields.get(name) is None and name in defaults}
    return {**fields, **missing}


def number(value: Any) -> float | None:
    """One that is 0 or more and finite; LiteLLM takes it as text, too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if found >= 0 and math.isfinite(found) else None


def _count(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _duration(value: Any) -> Duration | None:
    try:
        return Duration.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def customer_plan(id: str, fields: Fields) -> AccountPlan:
    return _plan(customer_account(id), f"End User={id}", fields)
