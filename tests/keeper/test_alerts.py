"""Alerts: every budget that is crossed is told once a window to every target, whatever dies on the way."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
from structlog.testing import capture_logs

from broker.account_records import Actor, Entry, Kind
from broker.backends import Backends
from broker.records import KeyRecord
from shared.jobs import Outcome, Status
from shared.webhooks import signed_headers
from shared.windows import Calendar
from tests.fakes.batching import memory_backends
from tests.fakes.clock import FakeClock
from tests.fakes.webhooks import SECRET, World, ok, receiver
from tests.fakes.wire import Exchange
from workers.alert_delivery import Messenger, Target, targets
from workers.alerts import Alerts

ADMIN = Actor("test")
DAY = 86_400
NANO = 10**9


@dataclass
class Scene:
    clock: FakeClock
    backends: Backends
    receiver: World
    spent: int = 0

    def alerts(self, *kinds: str) -> Alerts:
        """A process that sends them."""
        told = [Target(kind, self.receiver.url) for kind in kinds or ("webhook",)]  # type: ignore[arg-type]
        return Alerts(self.backends.store, self.clock, Calendar(), Messenger(told, secret=SECRET))

    async def key(self, name: str = "k", **fields: Any) -> None:
        await self.backends.store.keys.add(KeyRecord(name, f"sk-...{name}", fields=fields), ADMIN)

    async def spend(self, dollars: float, key: str = "k", **fields: Any) -> None:
        self.spent += 1
        row = Outcome(
            f"job-{self.spent}", 1, self.clock.now(), "chat.completions", "m", "m", "d", "p", "m", Status.SUCCESS,
            cost=round(dollars * NANO), key=key,
        )  # fmt: skip
        await self.backends.store.record([replace(row, **fields)])

    def told(self) -> list[str]:
        bodies = [orjson.loads(request.body) for request in self.receiver.requests]
        self.receiver.requests.clear()
        return [each.get("event") or each["text"] for each in bodies]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    noon = time.time() // DAY * DAY + DAY / 2
    async with receiver() as hook, memory_backends(FakeClock(noon)) as backends:
        yield Scene(FakeClock(noon), backends, hook)


async def refusing(exchange: Exchange) -> None:
    await exchange.answer(503, b"", {})


async def test_a_crossed_budget_is_told_once_a_window() -> None:
    async with scene() as it:
        await it.key(max_budget=10.0, budget_duration="1d")
        await it.spend(10)
        alerts = it.alerts()

        await alerts.round()
        await alerts.round()
        await it.alerts().round()  # by another process
        first = it.told()
        it.clock.advance(DAY)
        await alerts.round()
        await it.spend(11)
        await alerts.round()

        assert (first, it.told()) == (["budget_crossed"], ["budget_crossed"])


async def test_each_mark_is_told() -> None:
    async with scene() as it:
        await it.key(max_budget=100.0, soft_budget=50.0)
        alerts = it.alerts()
        heard = []

        for dollars in (40, 15, 30, 10, 5):
            await it.spend(dollars)
            await alerts.round()
            heard.append(it.told())

        assert heard == [
            [], ["soft_budget_crossed"], ["threshold_crossed"], ["threshold_crossed"], ["budget_crossed"],
        ]  # fmt: skip


async def test_a_raised_budget_is_told_of_again() -> None:
    async with scene() as it:
        await it.key(max_budget=1.0)
        await it.spend(1)
        alerts = it.alerts()
        await alerts.round()
        keys = it.backends.store.keys
        await keys.change("k", lambda key: replace(key, fields={"max_budget": 2.0}), ADMIN)
        await it.spend(1)

        await alerts.round()

        assert it.told() == ["budget_crossed", "budget_crossed"]


async def test_what_was_not_taken_is_sent_again() -> None:
    async with scene() as it:
        await it.key(soft_budget=1.0)
        await it.spend(1)
        alerts, it.receiver.answer = it.alerts(), refusing

        with capture_logs() as logs:
            await alerts.round()
        it.receiver.answer, before = ok, it.told()
        await alerts.round()

        assert (before, it.told()) == (["soft_budget_crossed"], ["soft_budget_crossed"])
        assert [(each["event"], each["reason"]) for each in logs] == [("alert_not_sent", "HTTP 503")]
        assert it.receiver.url not in str(logs)


async def test_users_and_teams_are_watched_too_with_the_budget_that_they_name() -> None:
    async with scene() as it:
        directory = it.backends.store.directory
        budget = Entry(Kind.BUDGET, "b", fields={"max_budget": 5.0})
        await directory.add([budget, Entry(Kind.USER, "u", fields={"budget_id": "b"})], ADMIN)
        await directory.add([Entry(Kind.TEAM, "t", fields={"soft_budget": 5.0})], ADMIN)
        await it.spend(5, user="u", team="t")

        await it.alerts().round()

        assert it.told() == ["budget_crossed", "soft_budget_crossed"]


async def test_every_target_is_told_and_webhooks_are_signed() -> None:
    async with scene() as it:
        await it.key(soft_budget=1.0)
        await it.spend(1)

        await it.alerts("slack", "webhook").round()

        slack, hook = it.receiver.requests
        assert "`Soft Budget Crossed`" in orjson.loads(slack.body)["text"]
        signed = signed_headers(SECRET, hook.headers["webhook-id"], it.clock.now(), hook.body)
        assert hook.headers["webhook-signature"] == signed["webhook-signature"]


async def test_what_is_under_its_marks_is_no_news() -> None:
    async with scene() as it:
        await it.key(max_budget=100.0, soft_budget=90.0, budget_duration="1d")
        await it.key("other", max_budget=1.0, budget_duration="1h")
        await it.spend(50)
        await it.spend(0.9, key="other")
        it.clock.advance(3600)

        await it.alerts().round()

        assert it.told() == []


def test_targets_are_those_that_the_config_names() -> None:
    by_type = {"budget_alerts": ("https://hooks.example/budgets",), "llm_exceptions": ("https://hooks.example/errors",)}

    with capture_logs() as logs:
        named = targets(["slack", "webhook"], by_type, "https://hooks.example/all", "https://example.org/hook")
        plain = targets(["slack"], {}, "https://hooks.example/all", None)
        none = targets(["webhook", "email"], {}, None, None)

    assert [(each.kind, each.url) for each in named] == [
        ("slack", "https://hooks.example/budgets"), ("webhook", "https://example.org/hook"),
    ]  # fmt: skip
    assert [each.url for each in plain] == ["https://hooks.example/all"]
    assert none == []
    assert [each["event"] for each in logs] == ["alerting_without_address", "alerting_unknown"]
    assert "hooks.example" not in repr(named)
