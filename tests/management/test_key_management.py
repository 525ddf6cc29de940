"""Virtual keys over HTTP, in LiteLLM's shapes: made, looked at, changed, blocked, renewed and deleted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.auth import hashed
from tests.fakes.api import KEY
from tests.fakes.management import Managed, managed

_DAY = 86_400.0


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


# --- Made -----------------------------------------------------------------------------------------------------------


async def test_a_key_is_shown_once_and_kept_as_a_hash(it: Managed) -> None:
    await it.team("t")

    made = (await it.post("/key/generate", team_id="t", user_id="u", key_alias="mine", duration="30d")).json

    assert made["key"].startswith("sk-")
    assert made["key_name"] == f"sk-...{made['key'][-4:]}"
    assert made["token"] == made["token_id"] == hashed(made["key"])
    assert made["expires"] == "2026-01-31T12:00:00Z"
    record = await it.record(made["key"])
    assert (record.team, record.user, record.alias) == ("t", "u", "mine")
    assert record.expires_at == it.clock.now() + 30 * _DAY
    assert made["key"] not in repr(record)
    assert made["key"] not in (await it.get(f"/key/info?key={made['token']}")).body.decode()


async def test_everything_that_litellm_knows_of_a_key_is_kept_and_given_back(it: Managed) -> None:
    fields: dict[str, Any] = {
        "models": ["gpt-4o", "openai/*"], "aliases": {"fast": "gpt-4o-mini"}, "max_budget": 10.5, "soft_budget": 5,
        "budget_duration": "30d", "budget_limits": [{"budget_duration": "1d", "max_budget": 1.0}],
        "tpm_limit": 1000, "rpm_limit": 10, "tpd_limit": 5, "max_parallel_requests": 2,
        "model_max_budget": {"gpt-4o": {"budget_limit": 1.0, "time_period": "1d"}},
        "model_rpm_limit": {"gpt-4o": 5}, "model_tpm_limit": {"gpt-4o": 500}, "metadata": {"project": "x"},
        "tags": ["a"], "allowed_routes": ["/chat/completions"], "permissions": {"pii": False}, "config": {"a": 1},
        "guardrails": ["g"], "organization_id": "o", "auto_rotate": True, "rotation_interval": "30d",
        "budget_fallbacks": {"gpt-4o": ["gpt-4o-mini"]}, "on_limit": "wait", "max_queue_wait": 5.0,
        "object_permission": {"vector_stores": ["v"]}, "rpm_limit_type": "dynamic",
    }  # fmt: skip

    made = (await it.post("/key/generate", **fields, unknown_field="ignored")).json
    info = (await it.get(f"/key/info?key={made['key']}")).json["info"]

    inside = ("model_rpm_limit", "model_tpm_limit", "tags", "guardrails", "rpm_limit_type")
    changed = {"metadata", "budget_limits", "soft_budget", *inside}
    assert {name: made[name] for name in fields if name != "metadata"} == {
        name: value for name, value in fields.items() if name != "metadata"
    }
    assert {name: info[name] for name in fields if name not in changed} == {
        name: value for name, value in fields.items() if name not in changed
    }
    assert info["metadata"] == {"project": "x", **{name: fields[name] for name in inside}}
    assert info["litellm_budget_table"] == {"soft_budget": 5.0}
    assert info["budget_reset_at"] == "2026-02-01T00:00:00Z"
    assert info["budget_limits"] == [{"budget_duration": "1d", "max_budget": 1.0, "reset_at": "2026-01-02T00:00:00Z"}]
    assert "unknown_field" not in made
    assert "token" not in info


async def test_limits_within_metadata_count_as_litellm_keeps_them_there(it: Managed) -> None:
    made = (await it.post("/key/generate", metadata={"model_rpm_limit": {"gpt-4o": 3}, "mine": 1})).json

    record = await it.record(made["key"])

    assert (dict(record.metadata), record.fields["model_rpm_limit"]) == ({"mine": 1}, {"gpt-4o": 3})


async def test_a_key_of_nobody_belongs_to_whoever_has_the_master_key(it: Managed) -> None:
    made = (await it.post("/key/generate", user_id="default_user_id")).json

    assert made["user_id"] == made["created_by"] == "default_user_id"
    assert (await it.record(made["key"])).user == ""
    assert (await it.get("/key/list?user_id=default_user_id")).json["keys"] == [made["token"]]


async def test_a_service_account_belongs_to_a_team_and_no_user(it: Managed) -> None:
    await it.team("t")

    made = (await it.post("/key/service-account/generate", team_id="t", user_id="u", key_alias="robot")).json
    without_team = await it.post("/key/service-account/generate")

    assert (made["user_id"], made["team_id"]) == (None, "t")
    assert made["metadata"] == {"service_account_id": "robot"}
    assert (without_team.status, without_team.error["param"]) == (400, "team_id")


async def test_key_types_are_routes(it: Managed) -> None:
    made = (await it.post("/key/generate", key_type="read_only")).json

    assert (made["key_type"], made["allowed_routes"]) == ("read_only", ["info_routes"])


async def test_what_a_request_leaves_open_comes_from_the_config(tmp_path: Path) -> None:
    defaults = {"max_budget": 5.0, "tpm_limit": 100, "models": ["chat"], "budget_duration": "1d"}
    bounds = {"max_budget": 10.0, "rpm_limit": 50, "duration": "30d"}
    async with managed(tmp_path, default_key_generate_params=defaults, upperbound_key_generate_params=bounds) as it:
        made = (await it.post("/key/generate", tpm_limit=7, budget_duration=None)).json
        rich = await it.post("/key/generate", max_budget=11)
        long = await it.post("/key/generate", duration="31d")
        forever = await it.post("/key/update", key=made["key"], duration="-1")
        unlimited = await it.post("/key/update", key=made["key"], max_budget=None)

    assert (made["max_budget"], made["tpm_limit"], made["rpm_limit"], made["models"]) == (5.0, 7, 50, ["chat"])
    assert (made["budget_duration"], made["expires"]) == (None, "2026-01-31T12:00:00Z")
    assert rich.error["message"] == "max_budget is over max limit set in config - user_value=11.0; max_value=10.0"
    assert [each.status for each in (rich, long, forever, unlimited)] == [400] * 4


# --- Looked at ------------------------------------------------------------------------------------------------------


async def test_a_key_may_ask_about_itself_and_about_no_other(it: Managed) -> None:
    mine, other = await it.key(alias="mine"), await it.key(alias="other")

    own = (await it.get("/key/info", by=mine)).json
    foreign = await it.get(f"/key/info?key={hashed(other)}", by=mine)
    unknown = await it.get("/key/info?key=sk-unknown-key")

    assert (own["key"], own["info"]["key_alias"], own["info"]["status"]) == (hashed(mine), "mine", "active")
    assert foreign.status == 403
    assert unknown.status == 404
    assert unknown.error == {
        "message": "Key not found in database", "type": "not_found_error", "param": "key", "code": "404",
    }  # fmt: skip


async def test_several_keys_are_looked_at_together(it: Managed) -> None:
    first, second = await it.key(alias="a"), await it.key(alias="b")

    found = (await it.post("/v2/key/info", keys=[first, "sk-unknown-key"], key_aliases=["b"])).json
    own_only = (await it.post("/v2/key/info", keys=[first, second], by=first)).json

    assert [each["key_alias"] for each in found["info"]] == ["a", "b"]
    assert [each["key_alias"] for each in own_only["info"]] == ["a"]
    assert (await it.post("/v2/key/info")).status == 422


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["old", "late", "blocked", "teams"]),
        ("sort_by=key_alias&sort_order=asc", ["blocked", "late", "old", "teams"]),
        ("sort_by=max_budget&search=t", ["late", "teams"]),
        ("user_id=u", ["old", "late"]),
        ("team_id=t", ["teams"]),
        ("key_alias=old", ["old"]),
        ("key_alias=L&substring_matching=true&sort_by=key_alias&sort_order=asc", ["blocked", "late", "old"]),
        ("search=LAT", ["late"]),
        ("organization_id=o", ["late"]),
        ("status=active", ["late", "teams"]),
        ("status=expired", ["old"]),
        ("status=revoked", ["blocked"]),
        ("status=deleted", []),
        ("expires=expired", ["old"]),
    ],
)
async def test_lists_are_filtered_and_sorted(it: Managed, query: str, expected: list[str]) -> None:
    await it.team("t")
    for fields in (
        {"key_alias": "old", "user_id": "u", "duration": "1s"},
        {"key_alias": "late", "user_id": "u", "max_budget": 9, "organization_id": "o"},
        {"key_alias": "blocked", "blocked": True},
        {"key_alias": "teams", "team_id": "t", "max_budget": 1},
    ):
        assert (await it.post("/key/generate", **fields)).status == 200
        it.clock.advance(2)

    listed = (await it.get(f"/key/list?return_full_object=true&{query}")).json

    aliases = [each["key_alias"] for each in listed["keys"]]
    assert (aliases if "sort_by" in query else sorted(aliases)) == (
        expected if "sort_by" in query else sorted(expected)
    )
    assert listed["total_count"] == len(expected)


async def test_lists_come_in_pages_of_hashes(it: Managed) -> None:
    made = [await it.key(alias=f"a{number}") for number in range(5)]

    pages = [(await it.get(f"/key/list?size=2&page={page}&sort_by=token")).json for page in (1, 2, 3, 4)]

    hashes = sorted((hashed(key) for key in made), reverse=True)
    assert [page["keys"] for page in pages] == [hashes[:2], hashes[2:4], hashes[4:], []]
    assert pages[0] | {"keys": []} == {"keys": [], "total_count": 5, "current_page": 1, "total_pages": 3}


async def test_aliases_are_listed_in_alphabetical_order(it: Managed) -> None:
    for alias in ("b", "", "a", "c"):
        await it.key(alias=alias)

    assert (await it.get("/key/aliases?size=2")).json == {
        "aliases": ["a", "b"], "total_count": 3, "current_page": 1, "total_pages": 2, "size": 2,
    }  # fmt: skip
    assert (await it.get("/key/aliases?size=2&page=2")).json["aliases"] == ["c"]
    assert (await it.get("/key/aliases?search=C")).json["aliases"] == ["c"]


async def test_a_key_is_healthy_if_it_opens_the_door(it: Managed) -> None:
    key = await it.key()

    assert (await it.post("/key/health", by=key)).json == {"key": "healthy", "logging_callbacks": None}
    assert (await it.post("/key/health", by="sk-unknown-key-of-nobody")).status == 401


# --- Changed --------------------------------------------------------------------------------------------------------


async def test_an_update_changes_what_it_names_and_clears_what_is_null(it: Managed) -> None:
    key = (await it.post("/key/generate", key_alias="a", max_budget=5, tpm_limit=10, models=["m"], duration="1d")).json[
        "key"
    ]

    updated = (await it.post("/key/update", key=key, max_budget=None, rpm_limit=3, duration="-1")).json

    assert updated["key"] == key
    assert (updated["max_budget"], updated["rpm_limit"], updated["tpm_limit"]) == (None, 3, 10)
    assert (updated["models"], updated["key_alias"], updated["expires"]) == (["m"], "a", None)
    assert dict((await it.record(key)).fields) == {"tpm_limit": 10, "models": ["m"], "rpm_limit": 3}


async def test_metadata_is_replaced_as_a_whole_with_what_litellm_keeps_in_it(it: Managed) -> None:
    made = (await it.post("/key/generate", metadata={"a": 1}, tags=["x"], model_rpm_limit={"m": 1})).json

    updated = (await it.post("/key/update", key=made["key"], metadata={"b": 2}, tags=["y"])).json

    assert updated["metadata"] == {"b": 2, "tags": ["y"]}


async def test_a_key_can_be_named_by_its_alias(it: Managed) -> None:
    key = await it.key(alias="mine")

    updated = (await it.post("/key/update", key_alias="mine", tpm_limit=1)).json
    unknown = await it.post("/key/update", key_alias="other", tpm_limit=1)

    assert (updated["key"], updated["tpm_limit"]) == (hashed(key), 1)
    assert (unknown.status, unknown.error["param"]) == (404, "key_alias")


async def test_an_update_of_nothing_changes_nothing_and_leaves_no_record(it: Managed) -> None:
    key = await it.key(tpm_limit=1)

    same = await it.post("/key/update", key=key, tpm_limit=1)
    nothing = await it.post("/key/update", key=key)
    nobody = await it.post("/key/update")

    assert (same.status, nothing.status) == (200, 200)
    assert (nobody.status, nobody.json["detail"][0]["msg"]) == (
        422,
        "Value error, either key or key_alias must be provided",
    )
    assert await it.audited() == []


async def test_many_keys_are_updated_and_a_bad_one_fails_alone(it: Managed) -> None:
    first, second = await it.key(alias="a"), await it.key(alias="b")

    answer = (
        await it.post(
            "/key/bulk_update",
            keys=[
                {"key": first, "max_budget": 3},
                {"key": second, "max_budget": -1},
                {"key": "sk-unknown-key", "max_budget": 1},
            ],
        )
    ).json

    assert answer["total_requested"] == 3
    assert [(each["key"], each["key_info"]["max_budget"]) for each in answer["successful_updates"]] == [(first, 3.0)]
    assert [each["failed_reason"] for each in answer["failed_updates"]] == [
        "max_budget must be a non-negative finite number. Received: -1.0",
        "Key not found.",
    ]


async def test_a_blocked_key_says_so_until_it_is_unblocked(it: Managed) -> None:
    key = await it.key()

    blocked = (await it.post("/key/block", key=key)).json
    seen = (await it.get(f"/key/info?key={key}")).json["info"]
    unblocked = (await it.post("/key/unblock", key=hashed(key))).json

    assert (blocked["blocked"], blocked["token"], seen["status"]) == (True, hashed(key), "revoked")
    assert unblocked["blocked"] is False
    assert (await it.post("/key/block", key="sk-unknown-key")).status == 404
    assert [each.action for each in await it.audited()] == ["blocked", "unblocked"]


# --- Renewed and deleted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_path", [True, False])
async def test_a_regenerated_key_has_a_new_text_and_is_otherwise_the_same(it: Managed, in_path: bool) -> None:
    key = await it.key(alias="mine", tpm_limit=1, max_budget=5.0)

    if in_path:
        made = (await it.post(f"/key/{hashed(key)}/regenerate", rpm_limit=2)).json
    else:
        made = (await it.post("/key/regenerate", key=key, rpm_limit=2)).json

    assert made["key"] != key
    assert (made["key_alias"], made["tpm_limit"], made["rpm_limit"], made["max_budget"]) == ("mine", 1, 2, 5.0)
    assert (await it.get("/key/info", by=made["key"])).status == 200
    assert (await it.get("/key/info", by=key)).status == 401


async def test_a_key_can_be_regenerated_to_a_text_of_ones_own_choice(it: Managed) -> None:
    key, other = await it.key(), await it.key(alias="other")

    made = (await it.post("/key/regenerate", key=key, new_key="sk-chosen-by-hand")).json
    taken = await it.post("/key/regenerate", key="sk-chosen-by-hand", new_key=other)

    assert made["key"] == "sk-chosen-by-hand"
    assert (taken.status, taken.error["param"]) == (400, "key")
    assert other not in taken.body.decode()


@pytest.mark.parametrize("field", ["grace_period", "new_master_key"])
async def test_what_a_regeneration_cannot_do_is_refused_before_the_key_changes(it: Managed, field: str) -> None:
    key = await it.key()

    refused = await it.post("/key/regenerate", key=key, **{field: "sk-new-master-key-1"})

    assert (refused.status, refused.error["param"]) == (400, field)
    assert (await it.get("/key/info", by=key)).status == 200


async def test_reset_spend_sets_what_counts_as_spent(it: Managed) -> None:
    key = (await it.post("/key/generate", spend=4, max_budget=3)).json["token"]

    too_much = await it.post(f"/key/{key}/reset_spend", reset_to=5)
    over_budget = await it.post(f"/key/{key}/reset_spend", reset_to=3.5)
    reset = (await it.post(f"/key/{key}/reset_spend", reset_to=1.5)).json

    assert too_much.error["message"] == "reset_to (5.0) must be <= current spend (4.0)"
    assert over_budget.error["message"] == "reset_to (3.5) must be <= budget (3.0)"
    assert reset == {
        "key_hash": key, "spend": 1.5, "previous_spend": 4.0, "max_budget": 3.0, "budget_reset_at": None,
    }  # fmt: skip
    assert (await it.get(f"/key/info?key={key}")).json["info"]["spend"] == 1.5
    assert (await it.post(f"/key/{key}/reset_spend", reset_to=-1)).status == 400
    assert (await it.post(f"/key/{key}/reset_spend", reset_to=True)).status == 422


async def test_deleted_keys_are_unknown_at_once(it: Managed) -> None:
    first, second = await it.key(alias="a"), await it.key(alias="b")

    deleted = await it.post("/key/delete", keys=[first, "sk-never-was-there"])
    by_alias = await it.post("/key/delete", key_aliases=["b"])

    assert deleted.json == {"deleted_keys": [first]}
    assert by_alias.json == {"deleted_keys": ["b"]}
    assert [(await it.get("/key/info", by=key)).status for key in (first, second)] == [401, 401]
    assert (await it.post("/key/delete", keys=[first])).status == 404
    assert (await it.post("/key/delete")).status == 422


async def test_every_change_leaves_a_record_of_who_did_what_from_where(it: Managed) -> None:
    made = (await it.send("/key/generate", b'{"key_alias": "a"}', **{"litellm-changed-by": "ann"})).json
    await it.post("/key/update", key=made["key"], tpm_limit=1)

    listed = (await it.get(f"/audit?object_id={made['token']}&table_name=LiteLLM_VerificationToken")).json
    created = (await it.get("/audit?action=create&changed_by=ann")).json["audit_logs"]
    one = (await it.get(f"/audit/{created[0]['id']}")).json

    update, creation = listed["audit_logs"]
    assert [update["action"], creation["action"]] == ["updated", "created"]
    assert (creation["changed_by"], update["changed_by"]) == ("ann", "default_user_id")
    assert (creation["before_value"], creation["address"]) == (None, "127.0.0.1")
    assert creation["changed_by_api_key"] == hashed(KEY)
    assert (listed["total"], listed["has_more"]) == (2, False)
    assert created == [creation] == [one]
    assert made["key"] not in str(listed)
    assert (await it.get("/audit/none")).status == 404


async def test_behind_a_proxy_on_this_machine_a_change_comes_from_the_client_that_it_names(it: Managed) -> None:
    made = (await it.send("/key/generate", b"{}", **{"x-forwarded-for": "203.0.113.9"})).json

    (creation,) = (await it.get(f"/audit?object_id={made['token']}")).json["audit_logs"]
    assert creation["address"] == "203.0.113.9"
