"""Which budgets a key, a user or a team has, and what is to be told of one by what it has spent. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from broker.account_plans import NANO, BudgetPlan, filled, nano
from broker.account_records import Entry, Kind
from broker.records import KeyRecord
from broker.spend_records import Subject
from shared.accounts import Budget
from shared.windows import Calendar, Duration

_THRESHOLDS = (95, 85)
"""Percent of a budget; LiteLLM tells of 5 % and 15 % that are left."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A budget in its current window."""

    account: str
    subject: Subject
    id: str
    names: Mapping[str, Any]
    """Of its subject, as LiteLLM's alerts call them."""
    limit: int | None
    """Nano-dollars."""
    soft: int | None
    budget: Budget
    """Its window, and what counts beside the ledger's rows."""


@dataclass(frozen=True, slots=True)
class Alert:
    about: Watched
    event: str
    """LiteLLM's: budget_crossed, threshold_crossed or soft_budget_crossed."""
    mark: str
    """Tells alerts about the same budget apart."""
    message: str
    limit: int
    """The one that was crossed."""
    spent: int


def watched(
    record: KeyRecord | Entry, account: str, budgets: Mapping[str, Entry], calendar: Calendar, now: float
) -> Iterator[Watched]:
    """The budgets of a key, a user or a team; `budgets` are those that it may name, by id."""
    fields = filled(record.fields, budgets)
    subject, names = _subject(record, fields)
    limits = [(fields.get("max_budget"), fields.get("soft_budget"), fields.get("budget_duration"))]
    several = fields.get("budget_limits")
    for each in several if isinstance(several, list) else ():
        if isinstance(each, Mapping):
            limits.append((each.get("max_budget"), None, each.get("budget_duration")))
    base, since = _nano(fields.get("spend_base")) or 0, float(fields.get("spend_since") or 0.0)
    for max_budget, soft_budget, duration in limits:
        limit, soft = _nano(max_budget), _nano(soft_budget)
        if limit is not None or soft is not None:
            plan = BudgetPlan(limit or 0, _duration(duration), base, since)
            yield Watched(
                account=account,
                subject=subject,
                id=record.hash if isinstance(record, KeyRecord) else record.id,
                names=names,
                limit=limit,
                soft=soft,
                budget=plan.at(now, calendar),
            )


def alerts(about: Watched, spent: int) -> list[Alert]:
    """What is to be told of a budget that has `spent` nano-dollars: of the hard limit the highest mark only."""
    told = []
    if about.soft is not None and spent >= about.soft:
        told.append(Alert(about, "soft_budget_crossed", "soft", "Soft Budget Crossed", about.soft, spent))
    limit = about.limit
    if limit is None or spent <= 0:
        return told
    if spent >= limit:
        told.append(Alert(about, "budget_crossed", "max", "Budget Crossed", limit, spent))
        return told
    for percent in _THRESHOLDS:
        if spent * 100 >= limit * percent:
            message = f"{100 - percent}% Threshold Crossed"
            told.append(Alert(about, "threshold_crossed", str(percent), message, limit, spent))
            break
    return told


_EVENT_GROUPS = {Subject.KEY: "key", Subject.USER: "internal_user", Subject.TEAM: "team"}
_TITLES = {Subject.KEY: "Key", Subject.USER: "User", Subject.TEAM: "Team"}


def payload(alert: Alert) -> dict[str, Any]:
    """The alert as LiteLLM's webhook has it; money is in dollars."""
    about = alert.about
    title = "" if alert.mark == "soft" else f"{_TITLES[about.subject]} Budget: "
    return {
        "spend": alert.spent / NANO,
        "max_budget": None if about.limit is None else about.limit / NANO,
        "soft_budget": None if about.soft is None else about.soft / NANO,
        "token": None,
        "customer_id": None,
        "user_id": None,
        "team_id": None,
        "team_alias": None,
        "user_email": None,
        "key_alias": None,
        **about.names,
        "projected_exceeded_date": None,
        "projected_spend": None,
        "event": alert.event,
        "event_group": _EVENT_GROUPS[about.subject],
        "event_message": f"{title}{alert.message}",
    }


def _subject(record: KeyRecord | Entry, fields: Mapping[str, Any]) -> tuple[Subject, dict[str, Any]]:
    match record:
        case KeyRecord():
            names = {"token": record.hash, "key_alias": record.alias, "user_id": record.user, "team_id": record.team}
            return Subject.KEY, {name: value or None for name, value in names.items()}
        case Entry(kind=Kind.TEAM):
            return Subject.TEAM, {"team_id": record.id, "team_alias": record.alias or None}
        case _:
            return Subject.USER, {"user_id": record.id, "user_email": fields.get("user_email")}


def _nano(dollars: object) -> int | None:
    return nano(dollars) if isinstance(dollars, int | float) and dollars >= 0 else None


def _duration(text: object) -> Duration | None:
    try:
        return Duration.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
