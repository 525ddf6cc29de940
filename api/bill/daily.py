"""`/{user,team,tag,customer}/daily/activity`: pages of days, and each day taken apart. From sums by day only."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from api.bill.days import Days
from api.bill.names import Names, names_of
from api.bill.totals import Totals, added
from api.management.entries import Desk, for_each
from broker.directory_interfaces import Bill
from broker.spend_records import Activity, ActivityQuery, Dimension, Subject

_UNASSIGNED = "Unassigned"

_EVERY = (Dimension.KEY, Dimension.GROUP, Dimension.MODEL, Dimension.PROVIDER, Dimension.ENDPOINT)
_DIMENSIONS: Mapping[Subject | None, tuple[Dimension, ...]] = {
    None: (*_EVERY, Dimension.USER),
    Subject.USER: _EVERY,
    Subject.TEAM: (*_EVERY, Dimension.USER),
    Subject.TAG: (Dimension.KEY, Dimension.GROUP, Dimension.MODEL, Dimension.PROVIDER),
    Subject.CUSTOMER: (Dimension.GROUP, Dimension.MODEL, Dimension.PROVIDER),
}
_BREAKDOWNS = {
    "models": Dimension.MODEL,
    "model_groups": Dimension.GROUP,
    "providers": Dimension.PROVIDER,
    "endpoints": Dimension.ENDPOINT,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose activity, as far as the caller may see it."""

    subject: Subject | None = None
    """None: of everybody, user by user."""
    ids: tuple[str, ...] | None = None
    """None: all."""
    without: frozenset[str] = frozenset()
    user: str | None = None
    """Only with keys of this user, whatever the subject is."""
    keys: tuple[str, ...] | None = None
    """Only with these keys; None: with any, and with none."""
    model: str | None = None
    """Only this model group or upstream's model."""


@dataclass(frozen=True, slots=True)
class _Line:
    activity: Activity
    of: Mapping[Dimension, str]

    @property
    def entity(self) -> str:
        return self.activity.subject or self.of.get(Dimension.USER, "")


async def page(desk: Desk, scope: Scope, days: Days, number: int, size: int) -> dict[str, Any]:
    """Days with activity, the newest first, `size` to a page; the totals are those of the page, so that those of all
    pages add up."""
    bill = desk.store.bill
    found = await _ask(bill, scope, days, tuple(_needed(scope)))
    dates = sorted({day for line in found if (day := line.activity.day)}, reverse=True)
    shown = dates[(number - 1) * size : number * size]
    lines = await _ask(bill, scope, Days(shown[-1], shown[0]), _DIMENSIONS[scope.subject]) if shown else []
    names = await names_of(
        desk,
        keys={key for line in lines if (key := line.of.get(Dimension.KEY))},
        teams={line.entity for line in lines} if scope.subject is Subject.TEAM else (),
        users={line.entity for line in lines} if scope.subject in (None, Subject.USER) else (),
    )
    # There may be 100,000 lines; other requests go on meanwhile.
    results, totals = await asyncio.to_thread(_results, lines, names, scope.subject)
    pages = max(-(-len(dates) // size), 1)
    paging = {"page": number, "total_pages": pages, "has_more": number < pages}
    return {"results": results, "metadata": {**_total_names(totals), **paging}}


def _needed(scope: Scope) -> Iterator[Dimension]:
    """What the scope's filters look at."""
    if scope.model is not None:
        yield from (Dimension.GROUP, Dimension.MODEL)
    if scope.user is not None:
        yield Dimension.USER


async def _ask(bill: Bill, scope: Scope, days: Days, by: tuple[Dimension, ...]) -> list[_Line]:
    if scope.ids == () or scope.keys == ():
        return []
    query = ActivityQuery(days.start, days.end, scope.subject, scope.ids or (), by)
    if scope.keys is None:
        found = await bill.activity(query)
    else:
        answers = await for_each(scope.keys, lambda key: bill.activity(replace(query, key=key)))
        found = [each for answer in answers.values() for each in answer]
    lines = (_Line(each, dict(zip(by, each.by, strict=True))) for each in found)
    return [line for line in lines if _is_within(line, scope)]


def _is_within(line: _Line, scope: Scope) -> bool:
    if scope.model is not None and scope.model not in (line.of[Dimension.GROUP], line.of[Dimension.MODEL]):
        return False
    if scope.user is not None and line.of[Dimension.USER] != scope.user:
        return False
    return line.entity not in scope.without


# --- Shapes ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """What one model, provider or the like has, and key by key."""

    totals: Totals = field(default_factory=Totals)
    keys: dict[str, Totals] = field(default_factory=dict)

    def add(self, line: _Line) -> None:
        self.totals.add(line.activity)
        if key := line.of.get(Dimension.KEY):
            self.keys.setdefault(key, Totals()).add(line.activity)


def _results(lines: Sequence[_Line], names: Names, subject: Subject | None) -> tuple[list[dict[str, Any]], Totals]:
    by_day: dict[date, list[_Line]] = {}
    for line in lines:
        if line.activity.day is not None:
            by_day.setdefault(line.activity.day, []).append(line)
    results = [
        {
            "date": str(day),
            "metrics": added(line.activity for line in by_day[day]).metrics(),
            "breakdown": _breakdown(by_day[day], names, subject),
        }
        for day in sorted(by_day, reverse=True)
    ]
    return results, added(line.activity for line in lines)


def _breakdown(lines: Sequence[_Line], names: Names, subject: Subject | None) -> dict[str, Any]:
    whole = _Part()
    parts: dict[str, dict[str, _Part]] = {title: {} for title in (*_BREAKDOWNS, "entities")}
    for line in lines:
        whole.add(line)
        parts["entities"].setdefault(line.entity or _UNASSIGNED, _Part()).add(line)
        for title, dimension in _BREAKDOWNS.items():
            if value := line.of.get(dimension):
                parts[title].setdefault(value, _Part()).add(line)
    return {
        "mcp_servers": {},
        **{title: {name: _shown(part, {}, names) for name, part in parts[title].items()} for title in _BREAKDOWNS},
        "api_keys": _keys(whole, names),
        "entities": {
            id: _shown(part, _entity_metadata(id, names, subject), names) for id, part in parts["entities"].items()
        },
    }


def _shown(part: _Part, metadata: dict[str, Any], names: Names) -> dict[str, Any]:
    return {"metrics": part.totals.metrics(), "metadata": metadata, "api_key_breakdown": _keys(part, names)}


def _keys(part: _Part, names: Names) -> dict[str, Any]:
    return {
        key: {"metrics": totals.metrics(), "metadata": names.key_metadata(key)} for key, totals in part.keys.items()
    }


def _entity_metadata(id: str, names: Names, subject: Subject | None) -> dict[str, Any]:
    if subject is Subject.TEAM:
        return {"team_alias": names.team_alias(id)}
    user = names.users.get(id)
    return {"user_email": user.fields.get("user_email"), "user_alias": user.alias or None} if user else {}


def _total_names(totals: Totals) -> dict[str, Any]:
    """LiteLLM's `DailySpendMetadata`."""
    metrics = totals.metrics()
    return {f"total_{name.removeprefix('total_')}": value for name, value in metrics.items()}
