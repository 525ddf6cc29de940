"""Budgets over HTTP, in LiteLLM's shapes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.account_records import Kind
from tests.management.office import NAMES, Office, as_json, office, problem


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Office]:
    async with office(tmp_path) as running:
        yield running


async def test_a_budget_is_made_and_shown_as_a_row(it: Office) -> None:
    made = await it.made("/budget/new", budget_id="b", max_budget=5, budget_duration="30d", tpm_limit=10)

    assert (await it.made("/budget/info", budgets=["b", "none"])) == [made]
    assert (await it.get("/budget/list")).json == [made]
    assert {name: made[name] for name in ("budget_id", "max_budget", "budget_duration", "tpm_limit", "rpm_limit")} == {
        "budget_id": "b", "max_budget": 5, "budget_duration": "30d", "tpm_limit": 10, "rpm_limit": None,
    }  # fmt: skip
    assert (made["created_at"], made["created_by"]) == ("2026-01-01T12:00:00Z", "default_user_id")


async def test_a_budget_without_an_id_gets_one(it: Office) -> None:
    made = await it.made("/budget/new", max_budget=5)

    assert await it.entry(Kind.BUDGET, made["budget_id"]) is not None


async def test_a_budget_is_made_once(it: Office) -> None:
    await it.made("/budget/new", budget_id="b", max_budget=5)

    refused = await it.post("/budget/new", budget_id="b", max_budget=6)

    assert (refused.status, refused.error["message"]) == (400, "Budget with id 'b' already exists.")
    assert (await it.made("/budget/info", budgets=["b"]))[0]["max_budget"] == 5


async def test_an_update_changes_what_it_names_and_null_clears(it: Office) -> None:
    await it.made("/budget/new", budget_id="b", max_budget=5, rpm_limit=1)
    it.changes.clear()

    row = await it.made("/budget/update", budget_id="b", rpm_limit=None, soft_budget=4)

    assert (row["max_budget"], row["rpm_limit"], row["soft_budget"]) == (5, None, 4)
    assert it.changes == ["budget:b"]
    assert [each.action for each in await it.audited(table="budget")] == ["updated", "created"]


async def test_an_update_of_nothing_leaves_no_trace(it: Office) -> None:
    await it.made("/budget/new", budget_id="b", max_budget=5)
    it.changes.clear()

    await it.made("/budget/update", budget_id="b", max_budget=5)

    assert it.changes == []


async def test_a_budget_that_nobody_has_is_deleted(it: Office) -> None:
    made = await it.made("/budget/new", budget_id="b", max_budget=5)

    assert await it.made("/budget/delete", id="b") == made
    assert (await it.get("/budget/list")).json == []


@pytest.mark.parametrize(
    ("path", "holder", "named"),
    [
        ("/user/new", {"user_id": "u", "user_alias": "Ann"}, "user Ann (u)"),
        ("/team/new", {"team_id": "t"}, "team t"),
        ("/customer/new", {"user_id": "c"}, "customer c"),
        ("/key/generate", {"key_alias": "ci"}, "key ci"),
    ],
)
async def test_a_budget_in_use_says_by_whom_and_stays(
    it: Office, path: str, holder: dict[str, str], named: str
) -> None:
    await it.made("/budget/new", budget_id="b", max_budget=5)
    await it.made(path, **holder, budget_id="b")

    refused = await it.post("/budget/delete", id="b")

    assert refused.status == 400
    assert f"in use by {named}" in refused.error["message"]
    assert await it.entry(Kind.BUDGET, "b") is not None


async def test_a_budget_in_use_by_many_names_five(it: Office) -> None:
    await it.made("/budget/new", budget_id="b", max_budget=5)
    for number in range(7):
        await it.made("/customer/new", user_id=f"c-{number}", budget_id="b")

    message = (await it.post("/budget/delete", id="b")).error["message"]

    assert message.count("customer c-") == 5
    assert "others" in message


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/budget/update", {"max_budget": 1}, 400, "budget_id"),
        ("/budget/update", {"budget_id": "none"}, 404, "budget_id"),
        ("/budget/delete", {"id": "none"}, 404, "budget_id"),
        ("/budget/delete", {}, 422, "id"),
        ("/budget/info", {"budgets": []}, 400, "budgets"),
        ("/budget/info", {}, 422, "budgets"),
        ("/budget/info", {"budgets": ["x"] * 501}, 422, "budgets"),
        ("/budget/new", {"max_budget": -1}, 400, "max_budget"),
        ("/budget/new", {"max_budget": float("nan")}, 400, "max_budget"),
        ("/budget/new", {"max_budget": "NaN"}, 400, "max_budget"),
        ("/budget/new", {"soft_budget": float("inf")}, 400, "soft_budget"),
        ("/budget/new", {"max_budget": 1e308}, 400, "max_budget"),
        ("/budget/new", {"budget_duration": "fortnight"}, 400, "budget_duration"),
        ("/budget/new", {"tpm_limit": 10**30}, 400, "tpm_limit"),
        ("/budget/new", {"model_max_budget": {"m": {"budget_limit": -1}}}, 400, "model_max_budget"),
    ],
)
async def test_what_no_budget_can_be_is_refused_and_leaves_nothing(
    it: Office, path: str, fields: dict[str, Any], status: int, param: str
) -> None:
    refused = await it.send(path, as_json(fields))

    assert problem(refused) == (status, param)
    assert (await it.counted())["budget"] == 0


async def test_litellms_message_of_a_negative_budget(it: Office) -> None:
    refused = await it.post("/budget/new", max_budget=-1)

    assert refused.error["message"] == "max_budget must be a non-negative finite number. Received: -1.0"


@pytest.mark.parametrize(
    ("role", "see", "change"),
    [
        ("proxy_admin", 200, 200),
        ("proxy_admin_viewer", 200, 403),
        ("internal_user", 403, 403),
        ("internal_user_viewer", 403, 403),
    ],
)
async def test_what_each_role_may_do_with_budgets(it: Office, role: str, see: int, change: int) -> None:
    key = await it.caller(role)
    await it.made("/budget/new", budget_id="b")

    assert (await it.get("/budget/list", key)).status == see
    assert (await it.post("/budget/info", key, budgets=["b"])).status == see
    assert (await it.post("/budget/update", key, budget_id="b", max_budget=1)).status == change
    assert (await it.post("/budget/new", key)).status == change
    assert (await it.post("/budget/delete", key, id="b")).status == change


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_an_id_holds_is_refused_or_kept_as_it_is(it: Office, name: str) -> None:
    shown = await it.refused_or_made("/budget/new", {"budget_id": NAMES[name]})

    assert shown is None or shown["budget_id"] == NAMES[name]
