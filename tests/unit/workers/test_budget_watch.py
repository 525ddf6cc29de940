"""What is told of a budget, by what it has spent: a table."""

from typing import Any

import pytest

from broker.account_records import Entry, Kind
from broker.records import KeyRecord
from shared.windows import Calendar
from workers.budget_watch import Watched, alerts, payload, watched

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z, a Thursday
NANO = 10**9


def of(fields: dict[str, Any], budgets: dict[str, dict[str, Any]] | None = None) -> list[Watched]:
    key = KeyRecord("hash", "sk-...hash", alias="mine", user="u", fields=fields)
    named = {id: Entry(Kind.BUDGET, id, fields=each) for id, each in (budgets or {}).items()}
    return list(watched(key, "key:hash", named, Calendar(), NOON))


@pytest.mark.parametrize(
    ("spent", "told"),
    [
        (0.0, []),
        (39.9, []),
        (40.0, [("soft_budget_crossed", "Soft Budget Crossed")]),
        (84.9, [("soft_budget_crossed", "Soft Budget Crossed")]),
        (85.0, [("soft_budget_crossed", "Soft Budget Crossed"), ("threshold_crossed", "15% Threshold Crossed")]),
        (95.0, [("soft_budget_crossed", "Soft Budget Crossed"), ("threshold_crossed", "5% Threshold Crossed")]),
        (100.0, [("soft_budget_crossed", "Soft Budget Crossed"), ("budget_crossed", "Budget Crossed")]),
        (130.0, [("soft_budget_crossed", "Soft Budget Crossed"), ("budget_crossed", "Budget Crossed")]),
    ],
)
def test_of_a_limit_the_highest_mark_is_told_and_a_soft_budget_by_itself(
    spent: float, told: list[tuple[str, str]]
) -> None:
    (about,) = of({"max_budget": 100.0, "soft_budget": 40.0})

    found = alerts(about, round(spent * NANO))

    assert [(each.event, each.message) for each in found] == told


def test_a_budget_of_nothing_of_which_nothing_was_spent_is_no_news() -> None:
    (about,) = of({"max_budget": 0.0})

    assert alerts(about, 0) == []


@pytest.mark.parametrize(
    ("fields", "budgets", "limits"),
    [
        ({}, {}, []),
        ({"max_budget": 1.0}, {}, [(NANO, None)]),
        ({"soft_budget": 2.0}, {}, [(None, 2 * NANO)]),
        ({"budget_id": "b"}, {"b": {"max_budget": 3.0, "soft_budget": 1.0}}, [(3 * NANO, NANO)]),
        ({"budget_id": "b", "max_budget": 1.0}, {"b": {"max_budget": 3.0}}, [(NANO, None)]),
        ({"budget_id": "gone"}, {}, []),
        ({"budget_limits": [{"budget_duration": "1d", "max_budget": 5.0}, "nonsense"]}, {}, [(5 * NANO, None)]),
        ({"max_budget": "many"}, {}, []),
    ],
)
def test_the_budgets_of_a_key(
    fields: dict[str, Any], budgets: dict[str, dict[str, Any]], limits: list[tuple[int | None, int | None]]
) -> None:
    assert [(each.limit, each.soft) for each in of(fields, budgets)] == limits


def test_a_budget_is_watched_in_its_window() -> None:
    (about,) = of({"max_budget": 1.0, "budget_duration": "1d"})

    assert (about.budget.start, about.budget.end) == (NOON - 43_200, NOON + 43_200)


def test_what_was_set_in_the_window_counts_and_what_was_set_before_does_not() -> None:
    set_at = {"max_budget": 1.0, "budget_duration": "1d", "spend_base": 0.5}

    (now,) = of({**set_at, "spend_since": NOON - 60})
    (before,) = of({**set_at, "spend_since": NOON - 86_400})

    assert (now.budget.base, now.budget.start) == (NANO // 2, NOON - 60)
    assert (before.budget.base, before.budget.start) == (0, NOON - 43_200)


def test_the_payload_has_litellms_fields() -> None:
    (about,) = of({"max_budget": 10.0})
    (alert,) = alerts(about, 10 * NANO)

    assert payload(alert) == {
        "spend": 10.0, "max_budget": 10.0, "soft_budget": None, "token": "hash", "customer_id": None, "user_id": "u",
        "team_id": None, "team_alias": None, "user_email": None, "key_alias": "mine", "projected_exceeded_date": None,
        "projected_spend": None, "event": "budget_crossed", "event_group": "key",
        "event_message": "Key Budget: Budget Crossed",
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "group"), [(Kind.USER, "internal_user"), (Kind.TEAM, "team")])
def test_users_and_teams_have_event_groups_of_their_own(kind: Kind, group: str) -> None:
    entry = Entry(kind, "id", alias="alias", fields={"soft_budget": 1.0})
    (about,) = watched(entry, "x:id", {}, Calendar(), NOON)
    (alert,) = alerts(about, NANO)

    told = payload(alert)

    assert (told["event_group"], told["event_message"]) == (group, "Soft Budget Crossed")
