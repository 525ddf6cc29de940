"""The shapes of LiteLLM's `/global/spend/report`. Pure."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from api.bill.names import Names
from api.bill.totals import dearest_first, folded
from broker.spend_records import Activity

_NO_TEAM = "Unassigned Team"


def by_team(activities: Sequence[Activity], names: Names) -> list[dict[str, Any]]:
    """Of daily sums by team, model and key."""

    def team(activity: Activity) -> str:
        id = activity.by[0]
        return names.team_alias(id) or id or _NO_TEAM

    def details(own: Sequence[Activity]) -> list[dict[str, Any]]:
        return [
            {"model": model, "api_key": key, "spend": totals.spend, "total_tokens": totals.tokens}
            for (model, key), totals in dearest_first(folded(own, lambda each: each.by[1:3]))
        ]

    return _daily(activities, "teams", "team_name", team, details)


def by_customer(activities: Sequence[Activity]) -> list[dict[str, Any]]:
    """Of daily sums of customers by model. The bill does not know with which key a customer came."""

    def details(own: Sequence[Activity]) -> list[dict[str, Any]]:
        return [
            {"model": model, "api_key": None, "spend": totals.spend, "total_tokens": totals.tokens}
            for model, totals in dearest_first(folded(own, lambda each: each.by[0]))
        ]

    return _daily(activities, "customers", "customer", lambda each: each.subject, details)


def by_key(activities: Sequence[Activity]) -> list[dict[str, Any]]:
    """Of sums by key and model."""
    details: dict[str, list[dict[str, Any]]] = {}
    for (key, model), totals in dearest_first(folded(activities, lambda each: each.by[:2])):
        details.setdefault(key, []).append(
            {
                "model": model,
                "total_cost": totals.spend,
                "total_input_tokens": totals.prompt,
                "total_output_tokens": totals.completion,
            }
        )
    return [
        {
            "api_key": key,
            "total_cost": totals.spend,
            "total_input_tokens": totals.prompt,
            "total_output_tokens": totals.completion,
            "model_details": details[key],
        }
        for key, totals in dearest_first(folded(activities, lambda each: each.by[0]))
    ]


def listed(text: str | None) -> tuple[str, ...]:
    """Names that are separated by commas."""
    names = (each.strip() for each in (text or "").split(","))
    return tuple(dict.fromkeys(each for each in names if each))


def _daily(
    activities: Sequence[Activity],
    whose: str,
    title: str,
    name: Callable[[Activity], str],
    details: Callable[[Sequence[Activity]], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    grouped: dict[date, dict[str, list[Activity]]] = {}
    for each in activities:
        if each.day is not None:
            grouped.setdefault(each.day, {}).setdefault(name(each), []).append(each)
    return [
        {
            "group_by_day": datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat(),
            whose: [
                {title: one, "total_spend": totals.spend, "metadata": details(grouped[day][one])}
                for one, totals in dearest_first(folded([each for own in grouped[day].values() for each in own], name))
            ],
        }
        for day in sorted(grouped)
    ]
