"""Members of teams over HTTP, in LiteLLM's shapes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.account_records import Kind
from tests.management.office import NAMES, Office, hashed, office, problem


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Office]:
    async with office(tmp_path) as running:
        await running.made("/user/new", user_id="ann", user_email="ann@example.com", auto_create_key=False)
        await running.made("/team/new", team_id="t")
        running.changes.clear()
        yield running


def user(id: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "user_id": id}


async def test_a_member_is_added_by_id_with_a_budget_of_its_own(it: Office) -> None:
    answer = await it.made(
        "/team/member_add", team_id="t", member=user("ann", "admin"), max_budget_in_team=5, rpm_limit=3
    )

    assert answer["members_with_roles"] == [{"user_id": "ann", "user_email": "ann@example.com", "role": "admin"}]
    assert [each["user_id"] for each in answer["updated_users"]] == ["ann"]
    (membership,) = answer["updated_team_memberships"]
    assert membership["litellm_budget_table"]["max_budget"] == 5
    assert membership["litellm_budget_table"]["rpm_limit"] == 3
    assert it.changes == ["member:t/ann"]


async def test_a_known_email_is_its_user_and_an_unknown_one_a_new_user(it: Office) -> None:
    members = [{"role": "user", "user_email": each} for each in ("ANN@example.com", "bob@example.com")]

    answer = await it.made("/team/member_add", team_id="t", member=members)

    known, new = answer["updated_users"]
    assert known["user_id"] == "ann"
    assert (new["user_email"], new["teams"]) == ("bob@example.com", ["t"])
    assert it.changes == [f"user:{new['user_id']}", "member:t/ann", f"member:t/{new['user_id']}"]


@pytest.mark.parametrize(
    "again", [user("ann"), {"role": "admin", "user_email": "ann@example.com"}, [user("ann"), user("ann")]]
)
async def test_nobody_is_added_twice(it: Office, again: Any) -> None:
    await it.made("/team/member_add", team_id="t", member=user("ann"))

    refused = await it.post("/team/member_add", team_id="t", member=again)

    assert (refused.status, refused.error["type"], refused.error["param"]) == (
        400,
        "team_member_already_in_team",
        "member",
    )


async def test_of_several_those_that_are_new_are_added(it: Office) -> None:
    await it.made("/team/member_add", team_id="t", member=user("ann"))

    answer = await it.made("/team/member_add", team_id="t", member=[user("ann", "admin"), user("bob"), user("bob")])

    assert [each["user_id"] for each in answer["updated_users"]] == ["bob"]
    roles = {each["user_id"]: each["role"] for each in answer["members_with_roles"]}
    assert roles == {"ann": "user", "bob": "user"}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"team_id": "none", "member": user("ann")}, 404, "team_id"),
        ({"team_id": "t"}, 422, "member"),
        ({"team_id": "t", "member": []}, 400, "member"),
        ({"team_id": "t", "member": {"role": "user"}}, 400, "member"),
        ({"team_id": "t", "member": user("ann", "king")}, 422, "member"),
        ({"team_id": "t", "member": user("new"), "max_budget_in_team": -1}, 400, "max_budget_in_team"),
        ({"team_id": "t", "member": user("new"), "budget_id": "none"}, 400, "budget_id"),
        ({"team_id": "t", "member": {**user("new"), "user_email": "ann@example.com"}}, 409, "user_email"),
        ({"team_id": "t", "member": [user("new"), {"role": "user"}]}, 400, "member"),
    ],
)
async def test_who_cannot_be_a_member_is_refused_and_nobody_is_made(
    it: Office, fields: dict[str, Any], status: int, param: str
) -> None:
    before = await it.counted()

    refused = await it.post("/team/member_add", **fields)

    assert problem(refused) == (status, param)
    assert await it.counted() == before


@pytest.mark.parametrize("who", [{"user_id": "ann"}, {"user_email": "ann@example.com"}])
async def test_a_member_leaves_with_its_keys_in_the_team(it: Office, who: dict[str, str]) -> None:
    await it.made("/team/member_add", team_id="t", member=user("ann"))
    there = (await it.made("/key/generate", team_id="t", user_id="ann"))["key"]
    elsewhere = (await it.made("/key/generate", user_id="ann"))["key"]
    it.changes.clear()

    row = await it.made("/team/member_delete", team_id="t", **who)

    assert row["members_with_roles"] == []
    assert (await it.get("/v1/models", there)).status == 401
    assert (await it.get("/v1/models", elsewhere)).status == 200
    assert it.changes == ["member:t/ann", f"key:{hashed(there)}"]


@pytest.mark.parametrize("path", ["/team/member_delete", "/team/member_update"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"team_id": "t"}, "user_id"),
        ({"team_id": "none", "user_id": "ann"}, "team_id"),
        ({"team_id": "t", "user_id": "ann"}, "user_id"),
        ({"team_id": "t", "user_email": "none@example.com"}, "user_id"),
    ],
)
async def test_who_is_no_member_is_neither_changed_nor_removed(
    it: Office, path: str, fields: dict[str, str], param: str
) -> None:
    assert problem(await it.post(path, **fields)) == (400, param)


async def test_a_members_role_and_limits_are_changed_and_null_clears(it: Office) -> None:
    await it.made("/team/member_add", team_id="t", member=user("ann"), max_budget_in_team=5)
    it.changes.clear()

    answer = await it.made(
        "/team/member_update", team_id="t", user_email="ann@example.com", role="admin", tpm_limit=9,
        max_budget_in_team=None,
    )  # fmt: skip

    assert answer == {
        "team_id": "t", "user_id": "ann", "user_email": "ann@example.com", "role": "admin", "tpm_limit": 9,
        "rpm_limit": None, "max_budget_in_team": None, "budget_duration": None, "budget_id": None,
    }  # fmt: skip
    assert it.changes == ["member:t/ann"]


async def test_a_members_budget_may_be_one_with_a_name(it: Office) -> None:
    await it.made("/budget/new", budget_id="small", max_budget=1, tpm_limit=100)

    answer = await it.made("/team/member_add", team_id="t", member=user("ann"), budget_id="small")

    table = answer["updated_team_memberships"][0]["litellm_budget_table"]
    assert (table["budget_id"], table["max_budget"], table["tpm_limit"]) == ("small", 1, 100)


@pytest.mark.parametrize(
    ("who", "status"),
    [("proxy_admin", 200), ("proxy_admin_viewer", 403), ("internal_user", 403), ("admin", 200), ("user", 403)],
)
async def test_who_may_change_members(it: Office, who: str, status: int) -> None:
    if who in ("admin", "user"):
        key = await it.caller("internal_user", "me")
        await it.made("/team/member_add", team_id="t", member=user("me", who))
    else:
        key = await it.caller(who, "me")

    added = await it.post("/team/member_add", key, team_id="t", member=user("ann"))
    changed = await it.post("/team/member_update", key, team_id="t", user_id="ann", role="admin")
    removed = await it.post("/team/member_delete", key, team_id="t", user_id="ann")

    assert [added.status, changed.status, removed.status] == [status] * 3


async def test_an_admin_of_one_team_changes_no_other(it: Office) -> None:
    key = await it.caller("internal_user", "me")
    await it.made("/team/new", team_id="mine", admins=["me"])

    assert (await it.post("/team/member_add", key, team_id="t", member=user("me", "admin"))).status == 403


async def test_a_teams_admin_takes_in_no_administrator(it: Office) -> None:
    key = await it.caller("internal_user", "me")
    await it.made("/user/new", user_id="root", user_role="proxy_admin")
    await it.made("/team/member_add", team_id="t", member=user("me", "admin"))

    refused = await it.post("/team/member_add", key, team_id="t", member=user("root"))

    assert problem(refused) == (403, "member")
    assert await it.entry(Kind.MEMBER, "t/root") is None


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_members_name_holds_is_refused_or_kept_as_it_is(it: Office, name: str) -> None:
    shown = await it.refused_or_made("/team/member_add", {"team_id": "t", "member": user(NAMES[name])})

    assert shown is None or shown["members_with_roles"][0]["user_id"] == NAMES[name]


async def test_a_user_with_a_slash_is_a_member_of_one_team_only(it: Office) -> None:
    await it.made("/team/member_add", team_id="t", member=user("x/y"))

    assert problem(await it.post("/team/new", team_id="t/x")) == (400, "team_id")
    assert [each["user_id"] for each in (await it.get("/team/info", team_id="t")).json["team_memberships"]] == ["x/y"]
