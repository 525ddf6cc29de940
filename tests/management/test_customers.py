"""Customers over HTTP, in LiteLLM's shapes, under both of their paths."""

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


@pytest.mark.parametrize("root", ["/customer", "/end_user"])
async def test_a_customer_lives_under_both_paths(it: Office, root: str) -> None:
    made = await it.made(f"{root}/new", user_id="c", alias="Shop", max_budget=5, budget_duration="1d")
    changed = await it.made(f"{root}/update", user_id="c", max_budget=6)
    shown = (await it.get(f"{root}/info", end_user_id="c")).json
    listed = (await it.get(f"{root}/list")).json
    blocked = await it.made(f"{root}/block", user_ids=["c"])
    unblocked = await it.made(f"{root}/unblock", user_ids=["c"])
    deleted = await it.made(f"{root}/delete", user_ids=["c"])

    assert (made["user_id"], made["alias"], made["litellm_budget_table"]["max_budget"]) == ("c", "Shop", 5)
    assert changed["litellm_budget_table"]["max_budget"] == 6
    assert shown == changed
    assert listed == [shown]
    assert blocked["blocked_users"][0]["blocked"] is True
    assert unblocked["blocked_users"][0]["blocked"] is False
    assert deleted == {"deleted_customers": 1, "message": "Successfully deleted customers with ids: ['c']"}


async def test_a_customers_budget_may_be_one_with_a_name(it: Office) -> None:
    await it.made("/budget/new", budget_id="free", max_budget=1, rpm_limit=5)

    made = await it.made("/customer/new", user_id="c", budget_id="free", rpm_limit=9)

    table = made["litellm_budget_table"]
    assert (made["budget_id"], table["budget_id"], table["max_budget"], table["rpm_limit"]) == ("free", "free", 1, 9)


async def test_info_shows_what_was_spent_in_the_window(it: Office) -> None:
    await it.made("/customer/new", user_id="c", max_budget=5, budget_duration="1d")
    await it.spend(1, customer="c")
    it.clock.advance(86_400)
    await it.spend(0.25, customer="c")

    shown = (await it.get("/customer/info", end_user_id="c")).json

    assert shown["spend"] == 0.25
    assert shown["litellm_budget_table"]["budget_reset_at"] == "2026-01-03T00:00:00Z"


async def test_a_customer_is_made_once(it: Office) -> None:
    await it.made("/customer/new", user_id="c", max_budget=5)

    refused = await it.post("/customer/new", user_id="c", max_budget=6)

    assert problem(refused) == (400, "user_id")
    assert refused.error["message"] == "Customer already exists, passed user_id=c. Please pass a new user_id."


async def test_an_update_changes_what_it_names_and_null_clears(it: Office) -> None:
    await it.made("/customer/new", user_id="c", alias="Shop", max_budget=5, default_model="chat")
    it.changes.clear()

    row = await it.made("/customer/update", user_id="c", default_model=None, alias=None, models=["chat"])
    await it.made("/customer/update", user_id="c", models=["chat"])

    assert (row["alias"], row["default_model"], row["models"]) == (None, None, ["chat"])
    assert row["litellm_budget_table"]["max_budget"] == 5
    assert it.changes == ["customer:c"]


async def test_a_customer_that_nobody_knows_may_be_blocked(it: Office) -> None:
    answer = await it.made("/customer/block", user_ids=["c", "d", "c"])

    assert [each["user_id"] for each in answer["blocked_users"]] == ["c", "d"]
    entry = await it.entry(Kind.CUSTOMER, "d")
    assert entry is not None
    assert entry.fields["blocked"] is True
    assert set(it.changes) == {"customer:c", "customer:d"}


async def test_blocking_and_unblocking_are_in_the_audit(it: Office) -> None:
    await it.made("/customer/new", user_id="c")
    await it.made("/customer/block", user_ids=["c"])
    await it.made("/customer/block", user_ids=["c"])
    await it.made("/customer/unblock", user_ids=["c"])

    assert [each.action for each in await it.audited(table="customer")] == ["unblocked", "blocked", "created"]


@pytest.mark.parametrize("path", ["/customer/delete", "/customer/unblock"])
async def test_of_several_customers_all_are_changed_or_none(it: Office, path: str) -> None:
    await it.made("/customer/block", user_ids=["c"])

    refused = await it.post(path, user_ids=["c", "x", "y"])

    assert (refused.status, refused.error["message"]) == (404, "End User Id(s)=x, y do not exist in db")
    entry = await it.entry(Kind.CUSTOMER, "c")
    assert entry is not None
    assert entry.fields["blocked"] is True


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/customer/new", {}, 422, "user_id"),
        ("/customer/new", {"user_id": " "}, 400, "user_id"),
        ("/customer/new", {"user_id": "c", "max_budget": -1}, 400, "max_budget"),
        ("/customer/new", {"user_id": "c", "max_budget": float("nan")}, 400, "max_budget"),
        ("/customer/new", {"user_id": "c", "budget_duration": "x"}, 400, "budget_duration"),
        ("/customer/new", {"user_id": "c", "budget_id": "none"}, 400, "budget_id"),
        ("/customer/new", {"user_id": "c", "allowed_model_region": "moon"}, 422, "allowed_model_region"),
        ("/customer/new", {"user_id": "c", "default_model": "none"}, 422, "detail"),
        ("/customer/new", {"user_id": "c", "metadata": {"a": "x" * 70_000}}, 400, "metadata"),
        ("/customer/update", {"user_id": "none"}, 404, "user_id"),
        ("/customer/delete", {"user_ids": []}, 400, "user_ids"),
        ("/customer/block", {"user_ids": []}, 400, "user_ids"),
        ("/customer/block", {"user_ids": ["c", ""]}, 400, "user_ids"),
        ("/customer/block", {"user_ids": ["c"] * 501}, 422, "user_ids"),
    ],
)
async def test_what_no_customer_can_be_is_refused_and_leaves_nothing(
    it: Office, path: str, fields: dict[str, Any], status: int, param: str
) -> None:
    refused = await it.send(path, as_json(fields))

    assert problem(refused) == (status, param)
    assert (await it.counted())["customer"] == 0


async def test_an_unknown_customer_is_404(it: Office) -> None:
    refused = await it.get("/customer/info", end_user_id="none")

    assert (refused.status, refused.error["message"]) == (404, "End User Id=none does not exist in db")
    assert (await it.get("/customer/info")).status == 422


async def test_customers_are_listed_a_page_at_a_time_if_asked(it: Office) -> None:
    for name in ("a", "b", "c"):
        it.clock.advance(1)
        await it.made("/customer/new", user_id=name)

    assert [each["user_id"] for each in (await it.get("/customer/list")).json] == ["c", "b", "a"]
    assert [each["user_id"] for each in (await it.get("/customer/list", page=2, page_size=2)).json] == ["a"]
    assert (await it.get("/customer/list", page_size=1001)).status == 422
    assert (await it.get("/customer/list", page=0)).status == 422


@pytest.mark.parametrize(
    ("role", "see", "change"),
    [
        ("proxy_admin", 200, 200),
        ("proxy_admin_viewer", 200, 403),
        ("internal_user", 403, 403),
        ("internal_user_viewer", 403, 403),
    ],
)
async def test_what_each_role_may_do_with_customers(it: Office, role: str, see: int, change: int) -> None:
    key = await it.caller(role)
    await it.made("/customer/new", user_id="c")

    assert (await it.get("/customer/list", key)).status == see
    assert (await it.get("/customer/info", key, end_user_id="c")).status == see
    assert (await it.post("/customer/new", key, user_id="d")).status == change
    assert (await it.post("/customer/update", key, user_id="c", max_budget=1)).status == change
    assert (await it.post("/customer/block", key, user_ids=["c"])).status == change
    assert (await it.post("/customer/unblock", key, user_ids=["c"])).status == change
    assert (await it.post("/customer/delete", key, user_ids=["c"])).status == change


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_name_holds_is_refused_or_kept_as_it_is(it: Office, name: str) -> None:
    for field in ("user_id", "alias", "models"):
        value = [NAMES[name]] if field == "models" else NAMES[name]

        shown = await it.refused_or_made("/customer/new", {"user_id": f"c-{field}", field: value})

        assert shown is None or shown[field] == value
