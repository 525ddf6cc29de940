"""What keys, users, tags, teams, models and customers have spent, in LiteLLM's shapes and to the nano-dollar."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from broker.account_records import Actor, Entry, Kind
from shared.jobs import Status
from tests.fakes.management import KEY, NOBODY, Managed, hashed, managed
from tests.management.spending import Spending

SPAN = {"start_date": "2025-12-01", "end_date": "2026-01-01"}
ANN, BOB, VIEWER, ORPHAN = (f"sk-of-{name}-no-team-unnamed" for name in ("ann", "bob", "eve", "nobody"))


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path, max_budget=100.0) as running:
        yield running


@pytest.fixture
def spending(it: Managed) -> Spending:
    return Spending(it)


async def people(it: Managed, spending: Spending) -> None:
    """Ann has spent a tenth of a dollar thrice, Bob and an orphaned key once each; and two weeks ago the master key."""
    await it.user("ann")
    await it.user("bob")
    await it.user("eve", "proxy_admin_viewer")
    await it.key()
    await it.store.directory.add([Entry(Kind.TEAM, "t", alias="Research")], NOBODY)
    team_key = await it.key("ann", "t", alias="bot")
    for _ in range(2):
        await spending.add(ANN, tags=("mill",), customer="acme")
    await spending.add(team_key, tags=("mill", "night"), group="other", upstream_model="large", provider="anthropic")
    await spending.add(BOB, 1, days_ago=1, status=Status.FAILURE)
    await spending.add(ORPHAN, 7, tags=("night",))
    await spending.add(nano=1_000, days_ago=14, customer="zeta")


async def ask(it: Managed, path: str, by: str = KEY, **query: Any) -> Any:
    answer = await it.get(f"{path}?{urlencode(query)}", by=by)
    assert answer.status == 200, answer.body
    return answer.json


# --- Keys, users, tags ----------------------------------------------------------------------------------------------


async def test_keys_are_listed_with_the_dearest_first(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    keys = await ask(it, "/spend/keys")
    top = await ask(it, "/spend/keys", limit=1)

    assert [(key["token"], key["spend"]) for key in keys[:4]] == [
        (hashed(ANN), 0.2), (hashed("sk-of-ann-t-bot"), 0.1), (hashed(ORPHAN), 7e-9), (hashed(BOB), 1e-9),
    ]  # fmt: skip
    assert len(keys) == 5
    assert top == keys[:1]


async def test_a_key_with_a_budget_by_day_tells_what_counts_today(it: Managed, spending: Spending) -> None:
    key = await it.key(budget_duration="1d")
    await spending.add(key, 1, days_ago=1)
    await spending.add(key, 2)

    (row,) = await ask(it, "/spend/keys")

    assert (row["spend"], row["total_spend"]) == (2e-9, 3e-9)


async def test_users_are_listed_with_the_dearest_first(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    users = await ask(it, "/spend/users")
    one = await ask(it, "/spend/users", user_id="bob")

    assert [(user["user_id"], user["spend"]) for user in users] == [("ann", 0.3), ("bob", 1e-9), ("eve", 0.0)]
    assert [user["user_id"] for user in one] == ["bob"]
    assert await ask(it, "/spend/users", user_id="nobody") == []


async def test_tags_are_summed_up(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    assert await ask(it, "/spend/tags") == [
        {"individual_request_tag": "mill", "log_count": 3, "total_spend": 0.3},
        {"individual_request_tag": "night", "log_count": 2, "total_spend": 0.100000007},
    ]
    assert await ask(it, "/spend/tags", start_date="2025-12-01", end_date="2025-12-02") == []


# --- /global/spend --------------------------------------------------------------------------------------------------


async def test_the_whole_is_exact(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    assert await ask(it, "/global/spend") == {
        "spend": 0.300001008, "max_budget": 100.0, "attempts": 6, "models": {"gpt": 0.200001008, "large": 0.1},
    }  # fmt: skip


async def test_the_last_month_is_told_by_day(it: Managed, spending: Spending) -> None:
    await people(it, spending)
    await spending.add(days_ago=31)

    assert await ask(it, "/global/spend/logs") == [
        {"date": "2025-12-18", "spend": 1e-6}, {"date": "2025-12-31", "spend": 1e-9},
        {"date": "2026-01-01", "spend": 0.300000007},
    ]  # fmt: skip
    assert await ask(it, "/global/spend/logs", api_key=BOB) == [
        {"date": "2025-12-31", "spend": 1e-9, "api_key": hashed(BOB)}
    ]


async def test_keys_and_models_that_cost_most(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    keys = await ask(it, "/global/spend/keys", limit=2)
    models = await ask(it, "/global/spend/models")

    assert keys == [
        {"api_key": hashed(ANN), "key_alias": None, "key_name": "sk-...amed", "total_spend": 0.2},
        {"api_key": hashed("sk-of-ann-t-bot"), "key_alias": "bot", "key_name": "sk-...-bot", "total_spend": 0.1},
    ]
    assert models == [
        {"model": "gpt", "total_spend": 0.200001008, "total_tokens": 75},
        {"model": "large", "total_spend": 0.1, "total_tokens": 15},
    ]


async def test_teams_by_day(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    assert await ask(it, "/global/spend/teams") == {
        "daily_spend": [
            {"date": "2025-12-18", "Unassigned": 1e-6},
            {"date": "2025-12-31", "Unassigned": 1e-9},
            {"date": "2026-01-01", "Unassigned": 0.200000007, "Research": 0.1},
        ],
        "teams": ["Unassigned", "Research"],
        "total_spend_per_team": [
            {"team_id": "Unassigned", "total_spend": 0.200001008}, {"team_id": "Research", "total_spend": 0.1},
        ],
    }  # fmt: skip


async def test_providers_tags_and_customers(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    assert await ask(it, "/global/spend/provider", **SPAN) == [
        {"provider": "openai", "spend": 0.200001008}, {"provider": "anthropic", "spend": 0.1},
    ]  # fmt: skip
    assert await ask(it, "/global/spend/tags", **SPAN, tags="night, nope") == {
        "spend_per_tag": [{"name": "night", "spend": 0.100000007, "log_count": 2}]
    }
    assert len((await ask(it, "/global/spend/tags", **SPAN, tags="all-tags"))["spend_per_tag"]) == 2
    customers = [
        {"end_user": "acme", "total_count": 2, "total_spend": 0.2},
        {"end_user": "zeta", "total_count": 1, "total_spend": 1e-6},
    ]
    assert await ask(it, "/global/spend/end_users") == customers
    assert (await it.post("/global/spend/end_users")).json == customers
    asked = await it.post("/global/spend/end_users", startTime="2025-12-20T00:00:00Z", endTime="2026-01-01 10:00:00")
    assert asked.json == customers[:1]
    assert (await it.post("/global/spend/end_users", api_key=ANN)).status == 400


# --- The report -----------------------------------------------------------------------------------------------------


async def test_the_report_by_team(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    report = await ask(it, "/global/spend/report", **SPAN)

    assert [day["group_by_day"] for day in report] == [
        "2025-12-18T00:00:00+00:00", "2025-12-31T00:00:00+00:00", "2026-01-01T00:00:00+00:00",
    ]  # fmt: skip
    today = {team["team_name"]: team for team in report[2]["teams"]}
    assert today["Research"] == {
        "team_name": "Research", "total_spend": 0.1,
        "metadata": [{"model": "large", "api_key": hashed("sk-of-ann-t-bot"), "spend": 0.1, "total_tokens": 15}],
    }  # fmt: skip
    assert today["Unassigned Team"]["total_spend"] == 0.200000007
    assert await ask(it, "/global/spend/report", **SPAN, team_id="t") == [{**report[2], "teams": [today["Research"]]}]


async def test_the_report_by_customer(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    report = await ask(it, "/global/spend/report", **SPAN, group_by="customer")

    assert [(day["group_by_day"][:10], [each["customer"] for each in day["customers"]]) for day in report] == [
        ("2025-12-18", ["zeta"]), ("2026-01-01", ["acme"]),
    ]  # fmt: skip
    assert report[1]["customers"][0]["metadata"] == [
        {"model": "gpt", "api_key": None, "spend": 0.2, "total_tokens": 30}
    ]
    assert await ask(it, "/global/spend/report", **SPAN, customer_id="zeta") == report[:1]


async def test_the_report_by_key(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    report = await ask(it, "/global/spend/report", **SPAN, group_by="api_key")
    of_ann = await ask(it, "/global/spend/report", **SPAN, internal_user_id="ann")
    of_key = await ask(it, "/global/spend/report", **SPAN, api_key=ANN)

    assert report[0] == {
        "api_key": hashed(ANN), "total_cost": 0.2, "total_input_tokens": 20, "total_output_tokens": 10,
        "model_details": [
            {"model": "gpt", "total_cost": 0.2, "total_input_tokens": 20, "total_output_tokens": 10}
        ],
    }  # fmt: skip
    assert (len(report), of_ann, of_key) == (5, report[:2], report[:1])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"group_by": "moon"}, 422),
        ({"group_by": "customer", "team_id": "t"}, 400),
        ({"team_id": "'; DROP TABLE ledger; --"}, 200),
        ({"team_id": "x" * 300}, 400),
        ({"api_key": "a\r\nset-cookie: b"}, 400),
    ],
)
async def test_the_reports_filters_are_checked(it: Managed, query: dict[str, str], status: int) -> None:
    assert (await it.get(f"/global/spend/report?{urlencode({**SPAN, **query})}")).status == status


@pytest.mark.parametrize(
    "query",
    [
        {"start_date": ""},
        {"start_date": "2025-12-1"},
        {"start_date": "20251201"},
        {"end_date": "2025-02-29"},
        {"end_date": "2025-11-30"},
    ],
)
@pytest.mark.parametrize("path", ["/global/spend/report", "/global/activity", "/user/daily/activity"])
async def test_dates_are_refused_as_litellm_refuses_them(it: Managed, path: str, query: dict[str, str]) -> None:
    answer = await it.get(f"{path}?{urlencode({**SPAN, **query})}")

    assert answer.status == 400
    assert "start_date" in answer.json["detail"]["error"]


@pytest.mark.parametrize("path", ["/global/spend/report", "/global/activity", "/user/daily/activity"])
async def test_all_of_time_may_be_asked_for(it: Managed, path: str) -> None:
    await ask(it, path, start_date="0001-01-01", end_date="9999-12-31")


async def test_dates_must_be_given(it: Managed) -> None:
    for path in ("/global/spend/report", "/global/spend/provider", "/global/spend/tags", "/global/activity/model"):
        answer = await it.get(path)
        problem = {"detail": {"error": "Please provide start_date and end_date"}}
        assert (answer.status, answer.json) == (400, problem)


# --- Who may see them -----------------------------------------------------------------------------------------------

TOTALS: dict[str, Any] = {
    "/spend/keys": lambda found: sum(key["spend"] for key in found),
    "/spend/tags": lambda found: sum(tag["total_spend"] for tag in found),
    "/global/spend": lambda found: found["spend"],
    "/global/spend/keys": lambda found: sum(key["total_spend"] for key in found),
    "/global/spend/models": lambda found: sum(model["total_spend"] for model in found),
    "/global/spend/logs": lambda found: sum(day["spend"] for day in found),
    "/global/spend/teams": lambda found: sum(team["total_spend"] for team in found["total_spend_per_team"]),
    "/global/spend/provider": lambda found: sum(provider["spend"] for provider in found),
    "/global/spend/tags": lambda found: sum(tag["spend"] for tag in found["spend_per_tag"]),
    "/global/spend/report": lambda found: sum(team["total_spend"] for day in found for team in day["teams"]),
    "/user/daily/activity": lambda found: found["metadata"]["total_spend"],
}
_DATED = {"/global/spend/provider", "/global/spend/tags", "/global/spend/report", "/user/daily/activity"}
_TAGS = {"/spend/tags", "/global/spend/tags"}
_KEYS = {"/spend/keys", "/global/spend/keys"}


@pytest.mark.parametrize("path", TOTALS)
async def test_everybody_sees_its_own(it: Managed, spending: Spending, path: str) -> None:
    await people(it, spending)
    query = SPAN if path in _DATED else {}
    seen = {}

    for who, key in {"all": KEY, "viewer": VIEWER, "ann": ANN, "bob": BOB, "orphan": ORPHAN}.items():
        seen[who] = TOTALS[path](await ask(it, path, key, **query))

    assert seen["ann"] == pytest.approx(0.4 if path in _TAGS else 0.3, abs=1e-10)
    assert seen["bob"] == pytest.approx(0.0 if path in _TAGS else 1e-9, abs=1e-10)
    assert seen["orphan"] == pytest.approx(7e-9, abs=1e-10)
    own_keys = 0.300000008  # what came without a key is not among them
    assert seen["all"] == pytest.approx(
        0.400000007 if path in _TAGS else own_keys if path in _KEYS else 0.300001008, abs=1e-10
    )
    assert seen["viewer"] == seen["all"]


@pytest.mark.parametrize(
    ("path", "by", "query", "status"),
    [
        ("/spend/users", ANN, {"user_id": "bob"}, 403),
        ("/global/spend/end_users", ANN, {}, 403),
        ("/global/spend/end_users", VIEWER, {}, 200),
        ("/global/spend/report", ANN, {"internal_user_id": "bob"}, 403),
        ("/global/spend/report", ANN, {"team_id": "t"}, 403),
        ("/global/spend/report", ANN, {"group_by": "customer"}, 403),
        ("/global/spend/logs", ORPHAN, {"api_key": ANN}, 403),
        ("/customer/daily/activity", ANN, {}, 403),
        ("/user/daily/activity", ANN, {"user_id": "bob"}, 403),
        ("/user/daily/activity", ORPHAN, {"user_id": "bob"}, 403),
        ("/team/daily/activity", BOB, {"team_ids": "t"}, 404),
    ],
)
async def test_what_belongs_to_others_is_not_shown(
    it: Managed, spending: Spending, path: str, by: str, query: dict[str, str], status: int
) -> None:
    await people(it, spending)

    assert (await it.get(f"{path}?{urlencode({**SPAN, **query})}", by=by)).status == status


async def test_users_see_themselves(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    assert [user["user_id"] for user in await ask(it, "/spend/users", ANN)] == ["ann"]
    assert await ask(it, "/spend/users", ORPHAN) == []


# --- Reset ----------------------------------------------------------------------------------------------------------


async def test_a_reset_lets_keys_and_teams_begin_anew_and_leaves_the_bill(it: Managed, spending: Spending) -> None:
    await people(it, spending)
    heard: list[str] = []
    it.api.log.on_change(heard.append)
    it.clock.advance(1)

    answer = await it.post("/global/spend/reset")
    it.clock.advance(1)
    await spending.add(ANN, 5)

    assert answer.json == {"message": "Spend for all API Keys and Teams reset successfully", "status": "success"}
    assert heard == [""]
    keys = {key["token"]: key for key in await ask(it, "/spend/keys")}
    assert (keys[hashed(ANN)]["spend"], keys[hashed(ANN)]["total_spend"]) == (5e-9, 0.200000005)
    assert keys[hashed(BOB)]["spend"] == 0
    team = (await ask(it, "/team/info", team_id="t"))["team_info"]
    assert (team["spend"], team["total_spend"]) == (0, 0.1)
    assert (await ask(it, "/global/spend"))["spend"] == 0.300001013
    resets = [record for record in await it.audited() if record.action == "spend_reset"]
    assert {(record.table, record.subject) for record in resets} == {
        ("key", hashed(ANN)), ("key", hashed(BOB)), ("key", hashed(ORPHAN)), ("key", hashed("sk-of-ann-t-bot")),
        ("team", "t"),
    }  # fmt: skip
    assert all(record.actor != Actor("") for record in resets)


@pytest.mark.parametrize("by", [ANN, VIEWER, ORPHAN])
async def test_only_an_administrator_may_reset(it: Managed, spending: Spending, by: str) -> None:
    await people(it, spending)

    assert (await it.post("/global/spend/reset", by=by)).status == 403
    assert {key["spend"] for key in await ask(it, "/spend/keys")} != {0}
