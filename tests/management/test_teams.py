"""Teams over HTTP, in LiteLLM's shapes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.account_records import Kind
from tests.management.office import NAMES, Office, as_json, hashed, office, problem


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Office]:
    async with office(tmp_path) as running:
        yield running


async def test_a_team_is_made_with_its_members_and_users_that_did_not_exist(it: Office) -> None:
    await it.made("/user/new", user_id="ann", user_email="ann@example.com")
    members = [{"role": "admin", "user_email": "Ann@example.com"}, {"role": "user", "user_id": "new"}]

    made = await it.made("/team/new", team_id="t", team_alias="Research", members_with_roles=members, max_budget=9)

    assert (made["team_id"], made["team_alias"], made["max_budget"], made["blocked"]) == ("t", "Research", 9, False)
    assert sorted((each["user_id"], each["role"]) for each in made["members_with_roles"]) == [
        ("ann", "admin"),
        ("new", "user"),
    ]
    user = await it.entry(Kind.USER, "new")
    assert user is not None
    assert user.fields["user_role"] == "internal_user"


async def test_the_older_lists_of_admins_and_members_work(it: Office) -> None:
    made = await it.made("/team/new", admins=["a"], members=["b", "a"])

    assert sorted((each["user_id"], each["role"]) for each in made["members_with_roles"]) == [
        ("a", "admin"),
        ("b", "user"),
    ]


async def test_an_administrator_with_a_user_is_an_admin_of_the_team_it_makes(it: Office) -> None:
    key = await it.caller("proxy_admin", "root")

    made = (await it.post("/team/new", key, team_id="t")).json

    assert [(each["user_id"], each["role"]) for each in made["members_with_roles"]] == [("root", "admin")]


async def test_a_team_is_made_once(it: Office) -> None:
    await it.made("/team/new", team_id="t")

    refused = await it.post("/team/new", team_id="t", members=["new"])

    assert (refused.status, refused.error["message"]) == (
        400,
        "Team id = t already exists. Please use a different team id.",
    )
    assert await it.entry(Kind.USER, "new") is None


async def test_an_update_changes_what_it_names_and_null_clears(it: Office) -> None:
    await it.made("/team/new", team_id="t", team_alias="A", models=["chat"], tpm_limit=5, tags=["x"], metadata={"a": 1})

    answer = await it.made("/team/update", team_id="t", tpm_limit=None, model_aliases={"gpt": "chat"}, metadata={})

    row = answer["data"]
    assert (answer["team_id"], row["team_alias"], row["models"], row["tpm_limit"]) == ("t", "A", ["chat"], None)
    assert row["litellm_model_table"]["model_aliases"] == {"gpt": "chat"}
    assert row["metadata"] == {}  # tags were in it, as LiteLLM keeps them


async def test_an_update_of_nothing_leaves_no_trace(it: Office) -> None:
    await it.made("/team/new", team_id="t")
    it.changes.clear()

    await it.made("/team/update", team_id="t")

    assert it.changes == []
    assert await it.audited(action="updated") == []


@pytest.mark.parametrize("path", ["/team/update", "/team/block", "/team/unblock"])
async def test_an_unknown_team_is_404(it: Office, path: str) -> None:
    refused = await it.post(path, team_id="none")

    assert (refused.status, refused.error["message"]) == (404, "Team not found, passed team_id=none")


async def test_a_blocked_teams_keys_are_refused_until_it_is_unblocked(it: Office) -> None:
    await it.made("/team/new", team_id="t")
    key = (await it.made("/key/generate", team_id="t"))["key"]
    assert (await it.get("/v1/models", key)).status == 200

    blocked = await it.made("/team/block", team_id="t")
    refused = await it.get("/v1/models", key)
    unblocked = await it.made("/team/unblock", team_id="t")

    assert (blocked["blocked"], refused.status, unblocked["blocked"]) == (True, 401, False)
    assert (await it.get("/v1/models", key)).status == 200
    assert [each.action for each in await it.audited(table="team")] == ["unblocked", "blocked", "created"]


async def test_deleting_a_team_deletes_its_keys_and_members_but_no_user(it: Office) -> None:
    await it.made("/team/new", team_id="t", members=["u"])
    key = (await it.made("/key/generate", team_id="t"))["key"]
    it.changes.clear()

    answer = await it.made("/team/delete", team_ids=["t"])

    assert answer == {"deleted_teams": ["t"]}
    assert await it.counted() | {"team": 0, "member": 0, "key": 0, "user": 1} == await it.counted()
    assert it.changes == ["team:t", f"key:{hashed(key)}"]


async def test_of_several_teams_all_are_deleted_or_none(it: Office) -> None:
    await it.made("/team/new", team_id="t")

    assert problem(await it.post("/team/delete", team_ids=["t", "none"])) == (404, "team_id")
    assert problem(await it.post("/team/delete", team_ids=[])) == (400, "team_ids")
    assert await it.entry(Kind.TEAM, "t") is not None


async def test_info_shows_keys_members_and_what_each_spent(it: Office) -> None:
    await it.made("/team/new", team_id="t", members=["u", "v"], team_member_budget=5, team_member_budget_duration="1d")
    key = (await it.made("/key/generate", team_id="t"))["token"]
    await it.spend(2, team="t", user="u")
    it.clock.advance(86_400)
    await it.spend(1, team="t", user="u")
    await it.spend(4, team="t")

    shown = (await it.get("/team/info", team_id="t")).json

    assert (shown["team_id"], shown["team_info"]["spend"]) == ("t", 7)
    assert shown["team_info"]["team_member_budget_table"]["max_budget"] == 5
    assert [each["token"] for each in shown["keys"]] == [key]
    spent = {each["user_id"]: (each["spend"], each["total_spend"]) for each in shown["team_memberships"]}
    assert spent == {"u": (1, 3), "v": (0, 0)}
    assert [each["litellm_budget_table"]["max_budget"] for each in shown["team_memberships"]] == [5, 5]


async def test_info_without_a_team_is_422_and_of_an_unknown_one_404(it: Office) -> None:
    assert (await it.get("/team/info")).status == 422
    assert problem(await it.get("/team/info", team_id="none")) == (404, "team_id")


@pytest.mark.parametrize(
    ("who", "change", "see"),
    [
        ("proxy_admin", 200, 200),
        ("proxy_admin_viewer", 403, 200),
        ("internal_user", 403, 403),
        ("team admin", 403, 200),
        ("team member", 403, 200),
        ("key of the team", 403, 200),
        ("key of nobody", 403, 403),
    ],
)
async def test_who_may_see_and_change_a_team(it: Office, who: str, change: int, see: int) -> None:
    admin, member = [await it.caller("internal_user", name) for name in ("boss", "u")]
    roles = [{"role": "admin", "user_id": "boss"}, {"role": "user", "user_id": "u"}]
    await it.made("/team/new", team_id="t", members_with_roles=roles)
    keys = {
        "team admin": admin,
        "team member": member,
        "key of the team": (await it.made("/key/generate", team_id="t"))["key"],
        "key of nobody": (await it.made("/key/generate"))["key"],
    }
    key = keys.get(who) or await it.caller(who)

    assert (await it.get("/team/info", key, team_id="t")).status == see
    assert (await it.post("/team/update", key, team_id="t", max_budget=1e6)).status == change
    assert (await it.post("/team/block", key, team_id="t")).status == change
    assert (await it.post("/team/new", key)).status == change
    assert (await it.post("/team/delete", key, team_ids=["t"])).status == change


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("team_id", "a/b", 400),
        ("team_id", "", 400),
        ("team_id", ["t"], 422),
        ("max_budget", -5, 400),
        ("max_budget", float("nan"), 400),
        ("team_member_budget", float("-inf"), 400),
        ("budget_duration", "1x", 400),
        ("team_member_budget_duration", "", 400),
        ("tpm_limit", -1, 400),
        ("model_tpm_limit", {"chat": "x"}, 422),
        ("model_aliases", {"a": "b\r\nc"}, 400),
        ("budget_id", "none", 400),
        ("members_with_roles", [{"role": "king", "user_id": "u"}], 422),
        ("members_with_roles", [{"role": "user", "user_id": "u"}] * 501, 422),
        ("metadata", {"a": "x" * 70_000}, 400),
    ],
)
async def test_what_no_team_can_be_is_refused_by_name_and_leaves_nothing(
    it: Office, field: str, value: Any, status: int
) -> None:
    refused = await it.send("/team/new", as_json({"members": ["new"], field: value}))

    assert problem(refused) == (status, field)
    assert set((await it.counted()).values()) == {0}


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_name_holds_is_refused_or_kept_as_it_is(it: Office, name: str) -> None:
    for field in ("team_id", "team_alias", "organization_id", "models"):
        value = [NAMES[name]] if field == "models" else NAMES[name]

        shown = await it.refused_or_made("/team/new", {field: value})

        assert shown is None or shown[field] == value
    assert (await it.get("/v2/team/list", search=NAMES["sql"])).status == 200


# --- Lists ----------------------------------------------------------------------------------------------------------


async def teams(it: Office) -> None:
    for id, alias, members in (("t-1", "Blue", ["ann"]), ("t-2", "Apple", []), ("t-3", "blueberry", ["ann", "bob"])):
        it.clock.advance(1)
        await it.made("/team/new", team_id=id, team_alias=alias, members=members, organization_id=f"o-{len(members)}")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["t-3", "t-2", "t-1"]),
        ({"team_alias": "BLUE"}, ["t-3", "t-1"]),
        ({"search": "t-2"}, ["t-2"]),
        ({"search": "t-", "search_team_id_match": "prefix"}, ["t-3", "t-2", "t-1"]),
        ({"search": "t-"}, []),
        ({"search": "berry"}, ["t-3"]),
        ({"team_id": "t-2"}, ["t-2"]),
        ({"user_id": "ann"}, ["t-3", "t-1"]),
        ({"user_id": "ann", "team_id": "t-2"}, []),
        ({"user_id": "nobody"}, []),
        ({"organization_id": "o-2"}, ["t-3"]),
        ({"sort_by": "team_alias"}, ["t-2", "t-1", "t-3"]),
        ({"sort_by": "team_id", "sort_order": "desc", "page_size": 2}, ["t-3", "t-2"]),
        ({"page": 2, "page_size": 2}, ["t-1"]),
    ],
)
async def test_teams_are_listed_by_what_is_asked(it: Office, query: dict[str, Any], found: list[str]) -> None:
    await teams(it)

    page = (await it.get("/v2/team/list", **query)).json

    assert [team["team_id"] for team in page["teams"]] == found


async def test_both_lists_have_whole_rows(it: Office) -> None:
    await teams(it)

    page = (await it.get("/v2/team/list", page_size=1)).json
    rows = (await it.get("/team/list", user_id="bob")).json

    assert (page["total"], page["total_pages"], page["teams"][0]["members_count"]) == (3, 3, 2)
    assert [(row["team_id"], len(row["members_with_roles"])) for row in rows] == [("t-3", 2)]


@pytest.mark.parametrize("path", ["/team/list", "/v2/team/list"])
async def test_who_does_not_see_everything_lists_its_own_teams(it: Office, path: str) -> None:
    await teams(it)
    ann, viewer = await it.made("/key/generate", user_id="ann"), await it.caller("proxy_admin_viewer")

    own = (await it.get(path, ann["key"])).json
    everything = (await it.get(path, viewer)).json

    assert [len(own if path == "/team/list" else own["teams"])] == [2]
    assert [len(everything if path == "/team/list" else everything["teams"])] == [3]
    assert (await it.get(path, ann["key"], user_id="bob")).status == 403


@pytest.mark.parametrize(
    "query", [{"page": 0}, {"page_size": 101}, {"page_size": 0}, {"sort_by": "spend;"}, {"team_alias": "x" * 300}]
)
async def test_pages_have_bounds(it: Office, query: dict[str, Any]) -> None:
    assert (await it.get("/v2/team/list", **query)).status == 422
