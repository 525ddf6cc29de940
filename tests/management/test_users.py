"""Users over HTTP, in LiteLLM's shapes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.account_records import Kind
from tests.management.office import NAMES, Office, as_json, hashed, office, problem


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Office]:
    async with office(tmp_path) as running:
        yield running


async def test_a_user_is_made_with_a_key_that_is_shown_once(it: Office) -> None:
    made = await it.made("/user/new", user_id="u", user_email="Ann@Example.com ", max_budget=5, models=["chat"])

    assert (made["user_id"], made["user_email"], made["max_budget"]) == ("u", "ann@example.com", 5)
    key = await it.api.backends.store.keys.get(hashed(made["key"]))
    assert key is not None
    assert (key.user, key.fields["models"]) == ("u", ["chat"])
    assert "max_budget" not in key.fields  # the user's account holds it for all of its keys
    assert (await it.get("/v1/models", made["key"])).status == 200


async def test_a_user_may_be_made_without_a_key(it: Office) -> None:
    made = await it.made("/user/new", auto_create_key=False)

    assert made["key"] == ""
    assert await it.counted() | {"user": 1, "key": 0} == await it.counted()


async def test_who_has_no_role_is_an_internal_user(it: Office) -> None:
    made = await it.made("/user/new", user_id="u")

    assert made["user_role"] == "internal_user"
    assert (await it.get("/user/info", made["key"])).json["user_id"] == "u"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_id": "u"}, "User with id u already exists"),
        ({"user_email": "ANN@example.com"}, "User with email ann@example.com already exists"),
    ],
)
async def test_a_user_is_made_once(it: Office, fields: dict[str, Any], message: str) -> None:
    await it.made("/user/new", user_id="u", user_email="ann@example.com")
    before = await it.counted()

    refused = await it.post("/user/new", **fields)

    assert (refused.status, refused.error["message"]) == (409, message)
    assert await it.counted() == before


async def test_a_user_whose_key_cannot_be_made_is_not_made_either(it: Office) -> None:
    await it.made("/key/generate", key_alias="taken")
    before = await it.counted()

    refused = await it.post("/user/new", user_id="u", key_alias="taken")

    assert (refused.status, refused.error["param"]) == (400, "key_alias")
    assert await it.counted() == before


async def test_a_new_user_joins_its_teams(it: Office) -> None:
    for team in ("t-1", "t-2"):
        await it.made("/team/new", team_id=team)
    teams = ["t-1", {"team_id": "t-2", "user_role": "admin", "max_budget_in_team": 3}]

    made = await it.made("/user/new", user_id="u", teams=teams)

    assert sorted(made["teams"]) == ["t-1", "t-2"]
    member = await it.entry(Kind.MEMBER, "t-2/u")
    assert member is not None
    assert (member.fields["role"], member.fields["max_budget_in_team"]) == ("admin", 3)


@pytest.mark.parametrize(("fields", "param"), [({"teams": ["none"]}, "team_id"), ({"budget_id": "none"}, "budget_id")])
async def test_a_user_of_an_unknown_team_or_budget_is_not_made(it: Office, fields: dict[str, Any], param: str) -> None:
    refused = await it.post("/user/new", user_id="u", **fields)

    assert problem(refused) == (400, param)
    assert set((await it.counted()).values()) == {0}


async def test_an_update_changes_what_it_names_and_null_clears(it: Office) -> None:
    await it.made("/user/new", user_id="u", user_alias="Ann", max_budget=5, tpm_limit=10, metadata={"a": 1})

    answer = await it.made("/user/update", user_id="u", tpm_limit=None, rpm_limit=7, metadata={"b": 2})

    row = answer["data"]
    assert answer["user_id"] == "u"
    assert (row["user_alias"], row["max_budget"], row["tpm_limit"], row["rpm_limit"]) == ("Ann", 5, None, 7)
    assert row["metadata"] == {"b": 2}


async def test_an_update_of_nothing_leaves_no_trace(it: Office) -> None:
    await it.made("/user/new", user_id="u", max_budget=5)
    it.changes.clear()

    answer = await it.made("/user/update", user_id="u", max_budget=5)

    assert answer["data"]["max_budget"] == 5
    assert it.changes == []
    assert await it.audited(action="updated") == []


async def test_an_update_finds_its_user_by_email(it: Office) -> None:
    await it.made("/user/new", user_id="u", user_email="ann@example.com")

    answer = await it.made("/user/update", user_email="Ann@example.com", max_budget=9)

    assert (answer["user_id"], answer["data"]["max_budget"]) == ("u", 9)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"max_budget": 1}, 400, "user_id"),
        ({"user_id": "none"}, 404, "user_id"),
        ({"user_email": "none@example.com"}, 404, "user_id"),
        ({"user_id": "u", "user_email": "bob@example.com"}, 409, "user_email"),
        ({"user_id": "u", "budget_id": "none"}, 400, "budget_id"),
    ],
)
async def test_an_update_of_nobody_or_into_another_is_refused(
    it: Office, fields: dict[str, Any], status: int, param: str
) -> None:
    await it.made("/user/new", user_id="u")
    await it.made("/user/new", user_id="b", user_email="bob@example.com")

    assert problem(await it.post("/user/update", **fields)) == (status, param)


async def test_deleting_a_user_deletes_its_keys_and_memberships(it: Office) -> None:
    await it.made("/team/new", team_id="t")
    key = (await it.made("/user/new", user_id="u", teams=["t"]))["key"]
    assert (await it.get("/v1/models", key)).status == 200
    it.changes.clear()

    count = await it.made("/user/delete", user_ids=["u"])

    assert count == 1
    assert await it.counted() | {"user": 0, "member": 0, "key": 0, "team": 1} == await it.counted()
    assert (await it.get("/v1/models", key)).status == 401
    assert it.changes == ["user:u", f"key:{hashed(key)}"]


async def test_of_several_users_all_are_deleted_or_none(it: Office) -> None:
    await it.made("/user/new", user_id="u")

    refused = await it.post("/user/delete", user_ids=["u", "none"])

    assert (refused.status, refused.error["message"]) == (404, "User not found, passed user_id=none")
    assert await it.entry(Kind.USER, "u") is not None
    assert problem(await it.post("/user/delete", user_ids=[])) == (400, "user_ids")


async def test_info_shows_keys_teams_and_what_was_spent(it: Office) -> None:
    await it.made("/team/new", team_id="t", team_alias="Research")
    made = await it.made("/user/new", user_id="u", teams=["t"], max_budget=5, budget_duration="1d")
    await it.spend(0.25, user="u")
    it.clock.advance(86_400)
    await it.spend(1.5, user="u")

    shown = (await it.get("/user/info", user_id="u")).json

    assert (shown["user_info"]["spend"], shown["user_info"]["total_spend"]) == (1.5, 1.75)
    assert shown["user_info"]["budget_reset_at"] == "2026-01-03T00:00:00Z"
    assert [key["token"] for key in shown["keys"]] == [hashed(made["key"])]
    assert [team["team_alias"] for team in shown["teams"]] == ["Research"]
    assert made["key"] not in orjson.dumps(shown).decode()


async def test_what_a_user_is_said_to_have_spent_counts_from_then_on(it: Office) -> None:
    await it.made("/user/new", user_id="u")
    await it.spend(1, user="u")
    it.clock.advance(60)

    row = (await it.made("/user/update", user_id="u", spend=4))["data"]
    await it.spend(0.5, user="u")

    assert row["spend"] == 4
    assert (await it.get("/v2/user/info", user_id="u")).json["spend"] == 4.5


async def test_an_administrator_who_names_nobody_sees_keys_and_teams(it: Office) -> None:
    await it.made("/team/new", team_id="t")
    await it.made("/user/new", user_id="u")

    shown = (await it.get("/user/info")).json

    assert (shown["user_id"], len(shown["keys"]), len(shown["teams"])) == ("default_user_id", 1, 1)


@pytest.mark.parametrize("path", ["/user/info", "/v2/user/info"])
async def test_an_unknown_user_is_404(it: Office, path: str) -> None:
    assert problem(await it.get(path, user_id="none")) == (404, "user_id")


async def test_a_teams_admin_sees_its_members_in_the_second_version(it: Office) -> None:
    boss, stranger = [await it.caller("internal_user", user) for user in ("boss", "stranger")]
    await it.made("/user/new", user_id="u")
    members = [{"role": "admin", "user_id": "boss"}, {"role": "user", "user_id": "u"}]
    await it.made("/team/new", team_id="t", members_with_roles=members)

    assert (await it.get("/v2/user/info", boss, user_id="u")).json["user_id"] == "u"
    assert (await it.get("/v2/user/info", stranger, user_id="u")).status == 404


@pytest.mark.parametrize(
    ("role", "change", "own", "others", "all_of_them"),
    [
        ("proxy_admin", 200, 200, 200, 200),
        ("proxy_admin_viewer", 403, 200, 200, 200),
        ("internal_user", 403, 200, 403, 403),
        ("internal_user_viewer", 403, 200, 403, 403),
    ],
)
async def test_what_each_role_may_do_with_users(
    it: Office, role: str, change: int, own: int, others: int, all_of_them: int
) -> None:
    key = await it.caller(role, "me")
    await it.made("/user/new", user_id="other", auto_create_key=False)

    assert (await it.post("/user/update", key, user_id="other", max_budget=1)).status == change
    assert (await it.post("/user/update", key, user_id="me", max_budget=1)).status == change
    assert (await it.post("/user/new", key, auto_create_key=False)).status == change
    assert (await it.get("/user/info", key, user_id="me")).status == own
    assert (await it.get("/user/info", key, user_id="other")).status == others
    assert (await it.get("/user/list", key)).status == all_of_them
    assert (await it.post("/user/delete", key, user_ids=["other"])).status == change


async def test_a_key_without_a_user_sees_no_user(it: Office) -> None:
    key = (await it.made("/key/generate"))["key"]
    await it.made("/user/new", user_id="u", auto_create_key=False)

    assert (await it.get("/user/info", key, user_id="u")).status == 403
    assert problem(await it.get("/v2/user/info", key)) == (400, "user_id")


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("max_budget", -1, 400),
        ("max_budget", float("nan"), 400),
        ("max_budget", float("inf"), 400),
        ("max_budget", "much", 422),
        ("soft_budget", -0.01, 400),
        ("tpm_limit", -1, 400),
        ("rpm_limit", 1.5, 422),
        ("max_parallel_requests", 2**60, 400),
        ("budget_duration", "soon", 400),
        ("budget_duration", "0d", 400),
        ("budget_duration", "-1d", 400),
        ("duration", "5 days", 400),
        ("user_role", "king", 422),
        ("user_email", "nobody", 400),
        ("user_id", "", 400),
        ("user_id", 7, 422),
        ("models", "chat", 422),
        ("metadata", [], 422),
        ("metadata", {"a": "x" * 70_000}, 400),
        ("model_rpm_limit", {"chat": -1}, 400),
        ("teams", ["a/b"], 400),
        ("budget_limits", [{"budget_duration": "1d", "max_budget": 1}] * 9, 422),
    ],
)
async def test_what_no_user_can_be_is_refused_by_name_and_leaves_nothing(
    it: Office, field: str, value: Any, status: int
) -> None:
    refused = await it.send("/user/new", as_json({"user_alias": "x", field: value}))

    assert problem(refused) == (status, field)
    assert set((await it.counted()).values()) == {0}


async def test_a_body_of_10_mb_is_not_read(it: Office) -> None:
    body = orjson.dumps({"metadata": {"a": "x" * 10_000_000}})

    assert (await it.send("/user/new", body)).status == 413


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b'"text"', b"\xff"])
async def test_what_is_no_object_is_refused(it: Office, body: bytes) -> None:
    assert (await it.send("/user/new", body)).status in (400, 422)


@pytest.mark.parametrize("name", NAMES)
async def test_whatever_a_name_holds_is_refused_or_kept_as_it_is(it: Office, name: str) -> None:
    for field in ("user_id", "user_alias", "user_email", "sso_user_id", "key_alias", "models", "tags"):
        value: Any = NAMES[name] + ("@example.com" if field == "user_email" else "")
        value = [value] if field in ("models", "tags") else value

        shown = await it.refused_or_made("/user/new", {field: value})

        assert shown is None or value == (shown["metadata"]["tags"] if field == "tags" else shown[field])
    assert (await it.get("/user/list", search=NAMES["sql"])).status == 200


async def test_every_change_says_who_made_it(it: Office) -> None:
    made = b'{"user_id": "u", "auto_create_key": false}'
    await it.send("/user/new", made, litellm_changed_by="ops")
    await it.made("/user/update", user_id="u", max_budget=2)
    await it.made("/user/delete", user_ids=["u"])

    records = await it.audited(table="user", subject="u")

    assert [(each.action, each.actor.id) for each in reversed(records)] == [
        ("created", "ops"),
        ("updated", "default_user_id"),
        ("deleted", "default_user_id"),
    ]
    assert it.changes == ["user:u"] * 3


# --- Lists ----------------------------------------------------------------------------------------------------------


async def people(it: Office) -> None:
    await it.made("/team/new", team_id="t")
    for name, role, teams in (
        ("ann", "proxy_admin", []),
        ("bob", "internal_user", ["t"]),
        ("cyd", "internal_user", []),
    ):
        it.clock.advance(1)
        await it.made(
            "/user/new", user_id=name, user_role=role, user_email=f"{name}@example.com", user_alias=name.upper(),
            teams=teams,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["cyd", "bob", "ann"]),
        ({"role": "internal_user"}, ["cyd", "bob"]),
        ({"user_ids": "ann, cyd"}, ["cyd", "ann"]),
        ({"user_email": "BOB@"}, ["bob"]),
        ({"search": "an"}, ["ann"]),
        ({"team": "t"}, ["bob"]),
        ({"team": "none"}, []),
        ({"team": "t", "user_ids": "ann"}, []),
        ({"sort_by": "user_id"}, ["ann", "bob", "cyd"]),
        ({"sort_by": "user_email", "sort_order": "desc"}, ["cyd", "bob", "ann"]),
        ({"sort_by": "created_at"}, ["ann", "bob", "cyd"]),
        ({"page": 2, "page_size": 2}, ["ann"]),
        ({"page": 2, "page_size": 2, "sort_by": "user_id"}, ["cyd"]),
        ({"page": 1_000_000, "page_size": 100}, []),
    ],
)
async def test_users_are_listed_by_what_is_asked(it: Office, query: dict[str, Any], found: list[str]) -> None:
    await people(it)

    page = (await it.get("/user/list", **query)).json

    assert [user["user_id"] for user in page["users"]] == found


async def test_a_page_says_how_many_there_are(it: Office) -> None:
    await people(it)

    page = (await it.get("/user/list", page_size=2)).json

    assert {name: page[name] for name in ("total", "page", "page_size", "total_pages")} == {
        "total": 3, "page": 1, "page_size": 2, "total_pages": 2,
    }  # fmt: skip
    assert [user["key_count"] for user in page["users"]] == [1, 1]


@pytest.mark.parametrize(
    "query",
    [{"page": 0}, {"page": -1}, {"page": 10**18}, {"page_size": 0}, {"page_size": 101}, {"page": "x"}, {"role": "king"},
     {"sort_by": "password"}, {"sort_order": "up"}, {"search": "x" * 300}],
)  # fmt: skip
async def test_pages_have_bounds(it: Office, query: dict[str, Any]) -> None:
    refused = await it.get("/user/list", **query)

    assert refused.status == 422
    assert refused.json["detail"][0]["loc"][0] == "query"
