"""The log of webhook deliveries, over HTTP: whose it is, and what sending again does."""

from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from broker.account_records import Actor
from broker.records import KeyRecord, WebhookDelivery
from broker.store.webhooks import owe
from tests.fakes.api import Api, api
from tests.fakes.clock import FakeClock

ALICE, BOB = "sk-alice-0000000000", "sk-bob-000000000000"
NOON = FakeClock().now()


def owner(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def a_delivery(delivery_id: str, **fields: object) -> WebhookDelivery:
    delivery = WebhookDelivery(
        id=delivery_id,
        owner=owner(ALICE),
        url="https://example.com/hook",
        type="job.completed",
        subject="job-1",
        payload=b"{}",
        created_at=NOON,
        next_at=None,
    )
    return replace(delivery, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    """Two tenants, and four deliveries: of Alice, Bob, Alice, Alice, the last the newest."""
    deliveries = [
        a_delivery("msg_1", attempts=1, delivered_at=NOON + 1, status=200),
        a_delivery("msg_2", owner=owner(BOB)),
        a_delivery("msg_3", attempts=1, status=500, error="HTTP 500", next_at=NOON + 5),
        a_delivery("msg_4", attempts=8, error="the host's name does not resolve", subject="batch_1"),
    ]
    async with api(tmp_path, clock=FakeClock()) as it:
        for key in (ALICE, BOB):
            await it.backends.store.keys.add(KeyRecord(hash=owner(key), name="sk-...", created_at=NOON), Actor("test"))
        await it.backends.store._transactions.write(lambda connection: owe(connection, deliveries))  # type: ignore[attr-defined]
        yield it


async def ids(it: Api, query: str = "", key: str | None = ALICE) -> list[str]:
    return [each["id"] for each in (await it.ask("GET", f"/v1/webhooks/deliveries{query}", as_(key))).json["data"]]


def as_(key: str | None) -> dict[str, str] | None:
    return None if key is None else {"authorization": f"Bearer {key}"}


async def test_the_log_tells_what_became_of_each_message(it: Api) -> None:
    answer = await it.ask("GET", "/v1/webhooks/deliveries", as_(ALICE))

    given_up, waiting, delivered = answer.json["data"]
    assert answer.status == 200
    assert [each["status"] for each in (given_up, waiting, delivered)] == ["failed", "pending", "delivered"]
    assert waiting == {
        "id": "msg_3",
        "object": "webhook.delivery",
        "type": "job.completed",
        "subject": "job-1",
        "url": "https://example.com/hook",
        "status": "pending",
        "attempts": 1,
        "response_status": 500,
        "error": "HTTP 500",
        "created_at": NOON,
        "next_attempt_at": NOON + 5,
        "delivered_at": None,
    }
    assert (delivered["delivered_at"], delivered["error"]) == (NOON + 1, None)


async def test_a_tenant_sees_its_own_and_the_administrator_everybodys(it: Api) -> None:
    assert await ids(it, key=ALICE) == ["msg_4", "msg_3", "msg_1"]
    assert await ids(it, key=BOB) == ["msg_2"]
    assert await ids(it, key=None) == ["msg_4", "msg_3", "msg_2", "msg_1"]


async def test_the_log_is_filtered_by_subject(it: Api) -> None:
    assert await ids(it, "?subject=batch_1") == ["msg_4"]


async def test_pages_join_to_the_whole(it: Api) -> None:
    first = (await it.ask("GET", "/v1/webhooks/deliveries?limit=2", as_(ALICE))).json
    second = (await it.ask("GET", f"/v1/webhooks/deliveries?limit=2&after={first['last_id']}", as_(ALICE))).json

    assert (first["first_id"], first["last_id"], first["has_more"]) == ("msg_4", "msg_3", True)
    assert (second["first_id"], second["last_id"], second["has_more"]) == ("msg_1", "msg_1", False)


async def test_a_full_last_page_is_the_last(it: Api) -> None:
    assert (await it.ask("GET", "/v1/webhooks/deliveries?limit=3", as_(ALICE))).json["has_more"] is False


@pytest.mark.parametrize("query", ["?limit=0", "?limit=101", "?limit=many", f"?after={'x' * 65}"])
async def test_a_wrong_page_is_a_bad_request(it: Api, query: str) -> None:
    assert (await it.ask("GET", f"/v1/webhooks/deliveries{query}", as_(ALICE))).status in (400, 422)


async def test_a_message_is_sent_again_at_once_whatever_became_of_it(it: Api) -> None:
    answer = await it.ask("POST", "/v1/webhooks/deliveries/msg_1/redeliver", as_(ALICE))

    assert answer.status == 200
    assert {name: answer.json[name] for name in ("id", "status", "attempts", "next_attempt_at", "delivered_at")} == {
        "id": "msg_1", "status": "pending", "attempts": 0, "next_attempt_at": NOON, "delivered_at": None,
    }  # fmt: skip
    assert [each.id for each in await it.backends.store.webhooks.due(NOON, 60, 10)] == ["msg_1"]


@pytest.mark.parametrize("delivery_id", ["msg_2", "msg_9", "msg_%00"])
async def test_a_message_of_another_tenant_is_not_found(it: Api, delivery_id: str) -> None:
    answer = await it.ask("POST", f"/v1/webhooks/deliveries/{delivery_id}/redeliver", as_(ALICE))

    assert answer.status == 404
    assert answer.error["param"] == "delivery_id"


async def test_without_a_key_there_is_no_log(it: Api) -> None:
    assert (await it.ask("GET", "/v1/webhooks/deliveries", {})).status == 401
    assert (await it.ask("POST", "/v1/webhooks/deliveries/msg_1/redeliver", {})).status == 401
