"""Who may do what with whose keys."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.auth import Principal
from api.management.access import Act, Role, Subject, allowed
from broker.account_records import Actor, Entry, Kind
from shared.clock import SystemClock
from tests.fakes.directory import FakeDirectory, FakeKeys
from tests.fakes.management import Managed, managed


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


# --- The table ------------------------------------------------------------------------------------------------------

_OWN_KEY = Subject(key="own", user="u")
_OTHERS = Subject(key="k", user="v")
_MINE_IN_TEAM = Subject(key="k", user="u", team="t")
_TEAMS = Subject(key="k", user="v", team="t")
_STRANGE_TEAM = Subject(key="k", team="elsewhere")

_SEEING = [act for act in Act if act.name.startswith("SEE_")]
_CHANGING = [act for act in Act if not act.name.startswith("SEE_")]


async def may(role: str, act: Act, subject: Subject, *, place: str = "", permissions: Any = None) -> bool:
    """Of user `u`, whose key is `own`, who has this place in team `t`."""
    keys = FakeKeys(SystemClock())
    directory = FakeDirectory(SystemClock(), keys)
    keys.directory = directory
    fields = {} if permissions is None else {"team_member_permissions": permissions}
    await directory.add([Entry(Kind.TEAM, "t", fields=fields)], Actor(""))
    if place:
        await directory.add([Entry(Kind.MEMBER, "t/u", team="t", user="u", fields={"role": place})], Actor(""))
    caller = Principal(key="own", user="" if role == Role.NONE else "u", role=role, admin=role == Role.ADMIN)
    return await allowed(directory, caller, act, subject)


@pytest.mark.parametrize("act", list(Act))
async def test_an_administrator_may_do_everything_and_a_viewer_see_it(act: Act) -> None:
    assert await may(Role.ADMIN, act, _STRANGE_TEAM)
    assert await may(Role.VIEWER, act, _STRANGE_TEAM) is (act in _SEEING)


@pytest.mark.parametrize("act", _CHANGING)
@pytest.mark.parametrize("role", [Role.VIEWER, Role.USER_VIEWER, Role.NONE, "customer", "made-up"])
async def test_others_change_nothing_even_of_their_own(act: Act, role: str) -> None:
    for subject in (_OWN_KEY, _MINE_IN_TEAM, Subject()):
        assert not await may(role, act, subject, place="user")


@pytest.mark.parametrize(
    ("act", "own", "others", "mine_in_team", "teams"),
    [
        # of a user                       in the team as: none, user, admin for each of the last two
        (Act.SEE_KEY, True, False, (True, True, True), (False, True, True)),
        (Act.MAKE_KEY, True, False, (False, False, True), (False, False, True)),
        (Act.UPDATE_KEY, True, False, (False, False, True), (False, False, True)),
        (Act.DELETE_KEY, True, False, (False, False, True), (False, False, True)),
        (Act.REGENERATE_KEY, True, False, (False, False, True), (False, False, True)),
        (Act.BLOCK_KEY, False, False, (False, False, True), (False, False, True)),
        (Act.SET_BUDGET, False, False, (False, False, True), (False, False, True)),
        (Act.RESET_SPEND, False, False, (False, False, True), (False, False, True)),
        (Act.SEE_USER, True, False, (True, True, True), (False, False, False)),
        (Act.CHANGE_USER, False, False, (False, False, False), (False, False, False)),
        (Act.SEE_TEAM, False, False, (False, True, True), (False, True, True)),
        (Act.CHANGE_MEMBERS, False, False, (False, False, True), (False, False, True)),
        (Act.CHANGE_TEAM, False, False, (False, False, False), (False, False, False)),
        (Act.SEE_ALL, False, False, (False, False, False), (False, False, False)),
    ],
)
async def test_a_user_keeps_own_keys_and_an_admin_those_of_the_team(
    act: Act, own: bool, others: bool, mine_in_team: tuple[bool, ...], teams: tuple[bool, ...]
) -> None:
    places = ("", "user", "admin")

    assert await may(Role.USER, act, _OWN_KEY) is own
    assert await may(Role.USER, act, _OTHERS) is others
    assert tuple([await may(Role.USER, act, _MINE_IN_TEAM, place=place) for place in places]) == mine_in_team
    assert tuple([await may(Role.USER, act, _TEAMS, place=place) for place in places]) == teams
    assert not await may(Role.USER, act, _STRANGE_TEAM, place="admin")


async def test_a_team_may_let_its_members_keep_their_own_keys() -> None:
    let = {"permissions": ["/key/generate", "/key/delete"], "place": "user"}

    assert await may(Role.USER, Act.MAKE_KEY, _MINE_IN_TEAM, **let)
    assert await may(Role.USER, Act.DELETE_KEY, _MINE_IN_TEAM, **let)
    assert not await may(Role.USER, Act.UPDATE_KEY, _MINE_IN_TEAM, **let)
    assert not await may(Role.USER, Act.DELETE_KEY, _TEAMS, **let)
    assert not await may(Role.USER_VIEWER, Act.DELETE_KEY, _MINE_IN_TEAM, **let)


async def test_a_key_without_a_user_sees_itself_alone() -> None:
    assert await may(Role.NONE, Act.SEE_KEY, Subject(key="own", team="t"))
    assert not await may(Role.NONE, Act.SEE_KEY, Subject(key="k"))
    assert not await may(Role.NONE, Act.SEE_USER, Subject())


# --- Over HTTP ------------------------------------------------------------------------------------------------------


async def test_a_users_new_key_is_its_own(it: Managed) -> None:
    ann = await it.user("ann")

    made = (await it.post("/key/generate", by=ann, max_budget=5)).json
    for_bob = await it.post("/key/generate", by=ann, user_id="bob")

    assert (made["user_id"], made["created_by"]) == ("ann", "ann")
    assert for_bob.status == 403
    assert for_bob.error["type"] == "permission_error"


@pytest.mark.parametrize("role", ["proxy_admin_viewer", "internal_user_viewer", "customer"])
async def test_viewers_make_no_keys(it: Managed, role: str) -> None:
    viewer = await it.user("vic", role)

    assert (await it.post("/key/generate", by=viewer)).status == 403
    assert await it.audited() == []


async def test_a_key_makes_no_keys_for_a_user_that_nobody_knows(it: Managed) -> None:
    key = await it.key("stranger")

    assert (await it.post("/key/generate", by=key)).status == 403


async def test_an_administrators_key_manages_like_the_master_key(it: Managed) -> None:
    boss = await it.user("boss", "proxy_admin")

    made = (await it.post("/key/generate", by=boss, user_id="bob", permissions={"a": 1})).json

    assert (made["user_id"], made["created_by"]) == ("bob", "boss")


@pytest.mark.parametrize(
    "fields",
    [{"allowed_routes": []}, {"permissions": {}}, {"key_type": "management"}, {"end_user_budget_id": "b"},
     {"allowed_passthrough_routes": ["/x"]}],
)  # fmt: skip
async def test_users_do_not_widen_what_keys_may_do(it: Managed, fields: dict[str, Any]) -> None:
    ann = await it.user("ann")

    assert (await it.post("/key/generate", by=ann, **fields)).status == 403
    assert (await it.post("/key/update", by=ann, key=ann, **fields)).status == (200 if "key_type" in fields else 403)
    assert (await it.record(ann)).fields == {}


@pytest.mark.parametrize(
    "fields",
    [{"max_budget": 100}, {"spend": 0}, {"budget_limits": None}, {"budget_id": None}, {"budget_duration": "1s"},
     {"soft_budget": 1}, {"blocked": False}, {"model_max_budget": {}}],
)  # fmt: skip
async def test_users_do_not_raise_their_own_budgets(it: Managed, fields: dict[str, Any]) -> None:
    await it.user("ann")
    limited = await it.key("ann", alias="limited", max_budget=1.0)

    refused = await it.post("/key/update", by=limited, key=limited, **fields)
    renewed = await it.post("/key/regenerate", by=limited, key=limited, **fields)

    assert (refused.status, renewed.status) == (403, 403)
    assert await it.audited() == []


async def test_a_new_key_has_no_larger_budget_than_the_one_that_made_it(it: Managed) -> None:
    await it.user("ann")
    limited = await it.key("ann", alias="limited", max_budget=1.0)

    larger = await it.post("/key/generate", by=limited, max_budget=2)
    open_ended = (await it.post("/key/generate", by=limited)).json

    assert larger.error["message"] == "max_budget (2.0) cannot exceed the caller's own max_budget (1.0)."
    assert open_ended["max_budget"] == 1.0


async def test_users_keep_their_keys_to_themselves(it: Managed) -> None:
    ann, bob = await it.user("ann"), await it.user("bob")

    exchanges = [
        await it.get(f"/key/info?key={bob}", by=ann),
        await it.post("/key/update", by=ann, key=bob, tpm_limit=1),
        await it.post("/key/regenerate", by=ann, key=bob),
        await it.post("/key/delete", by=ann, keys=[ann, bob]),
        await it.post("/key/block", by=ann, key=ann),
        await it.post(f"/key/{ann}/reset_spend", by=ann, reset_to=0),
        await it.post("/key/update", by=ann, key=ann, user_id="bob"),
        await it.post("/key/update", by=ann, key=ann, user_id=None),
        await it.post("/key/bulk_update", by=ann, keys=[{"key": ann, "tpm_limit": 1}]),
        await it.get("/audit", by=ann),
    ]

    assert [each.status for each in exchanges] == [403] * len(exchanges)
    assert await it.audited() == []
    assert (await it.post("/key/update", by=ann, key=ann, tpm_limit=1)).json["tpm_limit"] == 1
    assert (await it.post("/key/delete", by=ann, keys=[ann])).json == {"deleted_keys": [ann]}


async def test_a_teams_admin_manages_its_keys_and_no_others(it: Managed) -> None:
    ann = await it.user("ann")
    await it.team("mine", admins=["ann"], members=["bob"])
    await it.team("other", members=["ann"])
    inside, outside = await it.key("bob", "mine"), await it.key("bob", "other")

    good = [
        await it.post("/key/generate", by=ann, team_id="mine", user_id="bob"),
        await it.post("/key/service-account/generate", by=ann, team_id="mine"),
        await it.post("/key/update", by=ann, key=inside, max_budget=5),
        await it.post("/key/block", by=ann, key=inside),
        await it.post(f"/key/{inside}/reset_spend", by=ann, reset_to=0),
        await it.post("/key/regenerate", by=ann, key=inside),
    ]
    bad = [
        await it.post("/key/generate", by=ann, team_id="other"),
        await it.post("/key/update", by=ann, key=outside, tpm_limit=1),
        await it.post("/key/update", by=ann, key=good[-1].json["key"], team_id="other"),
        await it.post("/key/update", by=ann, key=good[-1].json["key"], team_id=None),
        await it.post("/key/delete", by=ann, keys=[outside]),
    ]
    stranger = await it.post("/key/generate", by=ann, team_id="mine", user_id="zoe")
    unknown = await it.post("/key/generate", by=ann, team_id="unknown")

    assert [each.status for each in good] == [200] * len(good)
    assert [each.status for each in bad] == [403] * len(bad)
    assert stranger.error["message"] == "User=zoe not assigned to team=mine"
    assert unknown.error["message"] == "Unable to find team object in database. Team ID: unknown"


async def test_lists_show_what_the_caller_may_see(it: Managed) -> None:
    ann, viewer, robot = await it.user("ann"), await it.user("vic", "proxy_admin_viewer"), await it.key(alias="robot")
    await it.team("mine", admins=["ann"], members=["bob"])
    await it.key("bob", "mine", alias="bobs")
    await it.key("ann", alias="anns")

    async def aliases(query: str, by: str) -> list[str | None]:
        listed = (
            await it.get(f"/key/list?return_full_object=true&sort_by=key_alias&sort_order=asc&{query}", by=by)
        ).json
        return [each["key_alias"] for each in listed["keys"]]

    assert await aliases("", ann) == [None, "anns"]
    assert await aliases("include_team_keys=true", ann) == [None, "anns", "bobs"]
    assert await aliases("include_team_keys=true&team_id=mine", ann) == ["bobs"]
    assert await aliases("", viewer) == [None, None, "anns", "bobs", "robot"]
    assert (await it.get("/key/aliases", by=ann)).json["aliases"] == ["anns", "bobs"]
    for query in ("user_id=bob", "team_id=other", "key_hash=unknown"):
        assert (await it.get(f"/key/list?{query}", by=ann)).status == 403
    assert (await it.get("/key/list", by=robot)).status == 403
    assert (await it.get("/key/aliases", by=robot)).status == 403


async def test_keys_that_one_made_for_others_can_be_listed_as_well(it: Managed) -> None:
    ann = await it.user("ann")
    await it.team("mine", admins=["ann"], members=["bob"])
    for_bob = (await it.post("/key/generate", by=ann, team_id="mine", user_id="bob")).json["token"]

    without = (await it.get("/key/list", by=ann)).json["keys"]
    with_made = (await it.get("/key/list?include_created_by_keys=true", by=ann)).json["keys"]

    assert for_bob not in without
    assert for_bob in with_made
    assert len(with_made) == 2


async def test_only_an_administrator_may_speak_for_somebody_else(it: Managed) -> None:
    ann = await it.user("ann")

    await it.send("/key/generate", b"{}", by=ann, **{"litellm-changed-by": "boss"})

    assert [record.actor.id for record in await it.audited()] == ["ann"]
