"""Activity by day: `/{user,team,tag,customer}/daily/activity` and `/global/activity`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from broker.account_records import Entry, Kind
from shared.jobs import Status, Usage
from tests.fakes.management import KEY, NOBODY, Managed, hashed, managed
from tests.management.spending import Spending

SPAN = {"start_date": "2025-12-01", "end_date": "2026-01-01"}
ANN, BOB, CLEO, ORPHAN = (f"sk-of-{name}-no-team-unnamed" for name in ("ann", "bob", "cleo", "nobody"))
METRICS = {
    "spend", "prompt_tokens", "completion_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "total_tokens", "api_requests", "successful_requests", "failed_requests",
}  # fmt: skip


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


@pytest.fixture
def spending(it: Managed) -> Spending:
    return Spending(it)


async def activity(it: Managed, of: str, by: str = KEY, **query: Any) -> Any:
    answer = await it.get(f"/{of}/daily/activity?{urlencode({**SPAN, **query})}", by=by)
    assert answer.status == 200, answer.body
    return answer.json


def spends(day: dict[str, Any], breakdown: str) -> dict[str, float]:
    return {name: part["metrics"]["spend"] for name, part in day["breakdown"][breakdown].items()}


async def people(it: Managed, spending: Spending) -> None:
    """Ann and Bob are in a team that Cleo leads; a key belongs to nobody."""
    for name in ("ann", "bob", "cleo"):
        await it.user(name, user_email=f"{name}@example.com")
    await it.key()
    await it.team("t", admins=["cleo"], members=["ann", "bob"])
    await spending.add(ANN, 1)
    await spending.add(await it.key("ann", "t", alias="bot"), 2, group="other", upstream_model="large")
    await spending.add(await it.key("bob", "t"), 4, days_ago=1, status=Status.FAILURE, provider="anthropic")
    await spending.add(ORPHAN, 8, days_ago=1)
    await spending.add(await it.key(team="t"), 16, days_ago=2)


async def test_a_day_has_litellms_metrics_and_is_taken_apart(it: Managed, spending: Spending) -> None:
    await people(it, spending)
    await spending.add(ANN, 100_000_000, usage=Usage(10, 20, 3, 4, 50, 30))

    found = await activity(it, "user", user_id="ann")

    (day,) = found["results"]
    assert day["date"] == "2026-01-01"
    assert day["metrics"] == {
        "spend": 0.100000003, "prompt_tokens": 57, "completion_tokens": 60, "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 7, "total_tokens": 117, "successful_requests": 3, "failed_requests": 0,
        "api_requests": 3,
    }  # fmt: skip
    assert spends(day, "models") == {"gpt": 0.100000001, "large": 2e-9}
    assert spends(day, "model_groups") == {"chat": 0.100000001, "other": 2e-9}
    assert spends(day, "providers") == {"openai": 0.100000003}
    assert spends(day, "endpoints") == {"chat.completions": 0.100000003}
    assert spends(day, "api_keys") == {hashed(ANN): 0.100000001, hashed("sk-of-ann-t-bot"): 2e-9}
    assert spends(day, "entities") == {"ann": 0.100000003}
    assert day["breakdown"]["entities"]["ann"]["metadata"]["user_email"] == "ann@example.com"
    assert day["breakdown"]["mcp_servers"] == {}
    large = day["breakdown"]["models"]["large"]
    assert large["api_key_breakdown"][hashed("sk-of-ann-t-bot")] == {
        "metrics": large["metrics"],
        "metadata": {
            "key_alias": "bot", "team_id": "t", "user_id": "ann", "user_email": "ann@example.com", "key_exists": True,
        },
    }  # fmt: skip


async def test_pages_are_of_days_and_their_totals_add_up(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    pages = [await activity(it, "user", page=number, page_size=2) for number in (1, 2, 3)]

    dates = [[day["date"] for day in found["results"]] for found in pages]
    assert dates == [["2026-01-01", "2025-12-31"], ["2025-12-30"], []]
    assert [found["metadata"]["total_spend"] for found in pages] == [1.5e-8, 1.6e-8, 0.0]
    paging = [
        (each["metadata"]["page"], each["metadata"]["total_pages"], each["metadata"]["has_more"]) for each in pages
    ]
    assert paging == [(1, 2, True), (2, 2, False), (3, 2, False)]
    assert pages[0]["metadata"]["total_failed_requests"] == 1
    assert {name.removeprefix("total_") for name in pages[0]["metadata"]} >= METRICS - {"total_tokens"}
    assert pages[0]["metadata"]["total_tokens"] == 60


@pytest.mark.parametrize(
    ("query", "spend"),
    [
        ({}, 31),
        ({"user_id": "ann"}, 3),
        ({"user_id": "zoe"}, 0),
        ({"api_key": ANN}, 1),
        ({"api_key": hashed("sk-of-ann-t-bot"), "user_id": "bob"}, 0),
        ({"model": "large"}, 2),
        ({"model": "other"}, 2),
        ({"model": "nope"}, 0),
        ({"start_date": "2026-01-01"}, 3),
        ({"end_date": "2025-12-30"}, 16),
    ],
)
async def test_users_activity_can_be_filtered(
    it: Managed, spending: Spending, query: dict[str, str], spend: int
) -> None:
    await people(it, spending)

    found = await activity(it, "user", **query)

    assert found["metadata"]["total_spend"] == spend / 1e9


@pytest.mark.parametrize(
    ("by", "query", "spend"),
    [
        (KEY, {}, 22),
        (KEY, {"team_ids": "t,u"}, 22),
        (KEY, {"team_ids": "u"}, 0),
        (KEY, {"exclude_team_ids": "t"}, 0),
        (CLEO, {}, 22),
        (CLEO, {"team_ids": "t"}, 22),
        (ANN, {}, 2),
        (BOB, {"team_ids": "t"}, 4),
        (BOB, {"team_ids": "t", "api_key": "sk-of-ann-t-bot"}, 0),
        ("sk-of-nobody-t-unnamed", {}, 16),
        ("sk-of-nobody-t-unnamed", {"api_key": "sk-of-ann-t-bot"}, 0),
        (ORPHAN, {}, 0),
    ],
)
async def test_teams_show_all_to_those_who_lead_them_and_the_rest_its_own(
    it: Managed, spending: Spending, by: str, query: dict[str, str], spend: int
) -> None:
    await people(it, spending)

    found = await activity(it, "team", by, **query)

    assert found["metadata"]["total_spend"] == spend / 1e9


async def test_a_member_with_the_permission_sees_the_whole_team(it: Managed, spending: Spending) -> None:
    await people(it, spending)
    await it.store.directory.change(Kind.TEAM, "t", _permitted, NOBODY)

    assert (await activity(it, "team", ANN))["metadata"]["total_spend"] == 2.2e-8


def _permitted(team: Entry) -> Entry:
    return Entry(team.kind, team.id, "Mill", fields={"team_member_permissions": ["/team/daily/activity"]})


async def test_teams_have_their_aliases(it: Managed, spending: Spending) -> None:
    await people(it, spending)
    await it.store.directory.change(Kind.TEAM, "t", _permitted, NOBODY)

    found = await activity(it, "team")

    assert found["results"][0]["breakdown"]["entities"]["t"]["metadata"] == {"team_alias": "Mill"}


@pytest.mark.parametrize(
    ("by", "query", "tags"),
    [
        (KEY, {}, {"mill": 9e-9, "night": 1e-9}),
        (KEY, {"tags": "night"}, {"night": 1e-9}),
        (KEY, {"api_key": ORPHAN}, {"mill": 8e-9}),
        (ANN, {}, {"mill": 1e-9, "night": 1e-9}),
        (ANN, {"api_key": ORPHAN}, {}),
        (BOB, {}, {}),
        (ORPHAN, {}, {"mill": 8e-9}),
    ],
)
async def test_tags_show_what_the_callers_keys_have_spent(
    it: Managed, spending: Spending, by: str, query: dict[str, str], tags: dict[str, float]
) -> None:
    await it.user("ann")
    await it.user("bob")
    await it.key()
    await spending.add(ANN, 1, tags=("mill", "night"))
    await spending.add(ORPHAN, 8, tags=("mill",))

    found = await activity(it, "tag", by, **query)

    assert [spends(day, "entities") for day in found["results"]] == ([tags] if tags else [])


@pytest.mark.parametrize("of", ["customer", "end_user"])
async def test_customers_by_model_and_provider(it: Managed, spending: Spending, of: str) -> None:
    await spending.add(nano=1, customer="acme")
    await spending.add(nano=2, customer="zeta", upstream_model="large")
    await spending.add(nano=4)

    (day,) = (await activity(it, of))["results"]

    assert spends(day, "entities") == {"acme": 1e-9, "zeta": 2e-9}
    assert spends(day, "models") == {"gpt": 1e-9, "large": 2e-9}
    assert (day["breakdown"]["api_keys"], day["breakdown"]["endpoints"]) == ({}, {})
    assert (await activity(it, of, end_user_ids="acme"))["metadata"]["total_spend"] == 1e-9
    assert (await activity(it, of, exclude_end_user_ids="acme"))["metadata"]["total_spend"] == 2e-9


@pytest.mark.parametrize(
    ("query", "status"),
    [({"page": 0}, 422), ({"page_size": 1001}, 422), ({"page": 10**12}, 200), ({"api_key": "k"}, 400)],
)
async def test_pages_are_bounded(it: Managed, query: dict[str, Any], status: int) -> None:
    answer = await it.get(f"/customer/daily/activity?{urlencode({**SPAN, **query})}")

    assert answer.status == status


async def test_requests_and_tokens_by_day(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    charts = (await it.get(f"/global/activity?{urlencode(SPAN)}")).json
    own = (await it.get(f"/global/activity?{urlencode(SPAN)}", by=ANN)).json

    assert charts == {
        "daily_data": [
            {"date": "Dec 30", "api_requests": 1, "total_tokens": 15},
            {"date": "Dec 31", "api_requests": 2, "total_tokens": 30},
            {"date": "Jan 01", "api_requests": 2, "total_tokens": 30},
        ],
        "sum_api_requests": 5,
        "sum_total_tokens": 75,
    }
    assert (own["sum_api_requests"], len(own["daily_data"])) == (2, 1)


async def test_requests_and_tokens_by_model(it: Managed, spending: Spending) -> None:
    await people(it, spending)

    charts = (await it.get(f"/global/activity/model?{urlencode(SPAN)}")).json

    assert [(chart["model"], chart["sum_api_requests"], len(chart["daily_data"])) for chart in charts] == [
        ("chat", 4, 3), ("other", 1, 1),
    ]  # fmt: skip
