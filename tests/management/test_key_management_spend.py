"""What a key has spent, as `/key/info` and `/key/list` tell it, and how far changes reach."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.app import asgi, create_app
from api.auth import hashed
from broker.account_records import Entry, Kind
from shared.errors import Unavailable
from shared.ids import uuid7
from shared.jobs import Outcome, Status
from tests.fakes import asgi as client
from tests.fakes.management import NOBODY, Managed, bearer, managed

_DOLLAR = 1_000_000_000
_HOUR = 3600.0
_DAY = 24 * _HOUR


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


async def spent(it: Managed, key: str, dollars: int, *, ago: float = 0.0, model: str = "chat") -> None:
    """A row of the ledger."""
    outcome = Outcome(
        uuid7(), 1, it.clock.now() - ago, "chat.completions", model, model, "d", "openai", "gpt", Status.SUCCESS,
        cost=dollars * _DOLLAR, key=hashed(key),
    )  # fmt: skip
    await it.store.record([outcome])


async def info(it: Managed, key: str) -> dict[str, Any]:
    found: dict[str, Any] = (await it.get(f"/key/info?key={hashed(key)}")).json["info"]
    return found


async def test_spend_is_that_of_the_current_window_and_total_spend_that_of_all_time(it: Managed) -> None:
    key = await it.key(budget_duration="1d")
    await spent(it, key, 2, ago=_DAY)
    await spent(it, key, 3, ago=11 * _HOUR)

    seen = await info(it, key)
    it.clock.advance(_DAY)
    tomorrow = await info(it, key)

    assert (seen["spend"], seen["total_spend"]) == (3.0, 5.0)
    assert seen["budget_reset_at"] == "2026-01-02T00:00:00Z"
    assert (tomorrow["spend"], tomorrow["total_spend"]) == (0.0, 5.0)


async def test_a_budget_that_the_key_names_says_when_its_window_begins(it: Managed) -> None:
    fields = {"max_budget": 7.0, "budget_duration": "1d"}
    await it.store.directory.add([Entry(Kind.BUDGET, "b", fields=fields)], NOBODY)
    key = await it.key(budget_id="b")
    await spent(it, key, 2, ago=_DAY)

    seen = await info(it, key)

    assert (seen["spend"], seen["total_spend"]) == (0.0, 2.0)
    assert seen["litellm_budget_table"] == {"budget_id": "b", **fields}


async def test_budgets_of_models_and_of_several_windows_tell_what_they_have_spent(it: Managed) -> None:
    key = await it.key(
        budget_limits=[{"budget_duration": "1h", "max_budget": 1.0}, {"budget_duration": "1d", "max_budget": 9.0}],
        model_max_budget={"chat": {"budget_limit": 5.0, "time_period": "1d"}},
    )
    await spent(it, key, 2, ago=2 * _HOUR)
    await spent(it, key, 4, ago=2 * _HOUR, model="other")

    seen = await info(it, key)

    assert seen["budget_limits_usage"] == {"1h": {"current_spend": 0.0}, "1d": {"current_spend": 6.0}}
    assert seen["model_max_budget_usage"] == {"chat": {"current_spend": 2.0, "budget_limit": 5.0, "time_period": "1d"}}


async def test_a_regenerated_key_keeps_what_it_has_spent(it: Managed) -> None:
    key = await it.key(max_budget=9.0)
    await spent(it, key, 2)

    renewed = (await it.post("/key/regenerate", key=key)).json
    await spent(it, renewed["key"], 3)

    assert renewed["spend"] == 2.0
    assert (await info(it, renewed["key"]))["spend"] == 5.0


async def test_a_reset_counts_from_its_moment_and_leaves_the_total(it: Managed) -> None:
    key = await it.key()
    await spent(it, key, 8, ago=1)

    reset = (await it.post(f"/key/{hashed(key)}/reset_spend", reset_to=1)).json
    it.clock.advance(1)
    await spent(it, key, 2)
    seen = await info(it, key)

    assert (reset["previous_spend"], reset["spend"]) == (8.0, 1)
    assert (seen["spend"], seen["total_spend"]) == (3.0, 10.0)


async def test_lists_can_be_sorted_by_spend(it: Managed) -> None:
    keys = [await it.key(alias=name) for name in ("little", "much", "none")]
    await spent(it, keys[0], 1)
    await spent(it, keys[1], 5)

    listed = (await it.get("/key/list?sort_by=spend&return_full_object=true&size=2")).json

    assert [(each["key_alias"], each["spend"]) for each in listed["keys"]] == [("much", 5.0), ("little", 1.0)]
    assert listed["total_pages"] == 2


# --- How far changes reach ------------------------------------------------------------------------------------------


async def test_changes_are_announced_to_every_process(it: Managed) -> None:
    heard: list[str] = []
    it.api.log.on_change(heard.append)

    made = (await it.post("/key/generate")).json
    await it.post("/key/update", key=made["key"], tpm_limit=1)
    renewed = (await it.post("/key/regenerate", key=made["key"])).json
    await it.post("/key/block", key=renewed["key"])
    await it.post("/key/delete", keys=[renewed["key"]])

    old, new = f"key:{made['token']}", f"key:{renewed['token']}"
    assert heard == [old, old, old, new, new, new]


@pytest.mark.parametrize("change", ["/key/block", "/key/delete", "/key/regenerate"])
async def test_a_key_that_is_taken_away_is_refused_by_every_api_process_at_once(it: Managed, change: str) -> None:
    key = await it.key()
    other = asgi(create_app(it.api.backends, it.context.catalog, it.context.settings, it.clock))

    async def ask() -> int:
        return (await client.ask(other, "GET", "/v1/models", headers=bearer(key))).status

    before = await ask()
    assert (await it.post(change, key=key, keys=[key])).status == 200

    assert (before, await ask()) == (200, 401)


async def test_a_change_that_nobody_can_be_told_of_has_happened_all_the_same(
    it: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await it.key()

    async def away(subject: str) -> None:
        raise Unavailable("the fake server is away")

    monkeypatch.setattr(it.api.log, "announce_change", away)

    assert (await it.post("/key/update", key=key, tpm_limit=1)).status == 200
    assert (await it.record(key)).fields == {"tpm_limit": 1}


async def test_a_bill_that_is_away_is_a_503(it: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await it.key(max_budget=1)

    async def away(account: str, start: float, end: float) -> int:
        raise Unavailable("the database is away")

    monkeypatch.setattr(it.store.bill, "spent", away)

    assert (await it.get(f"/key/info?key={hashed(key)}")).status == 503
    assert (await it.get("/key/list?return_full_object=true")).status == 503
