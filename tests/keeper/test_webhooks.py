"""The webhook sender: what a receiver gets, what counts as delivered, and when it is tried again."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from broker.records import WebhookDelivery
from broker.store import database
from broker.store.webhooks import owe
from tests.fakes.schema import make_schema
from tests.fakes.webhooks import PAYLOAD, SECRET, World, ok, receiver, sending
from tests.fakes.wire import Exchange
from workers import webhooks
from workers.webhooks import CONCURRENCY, DELAYS, WebhookSender, retry_delay


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with receiver() as world:
        yield world


# --- What is sent ---------------------------------------------------------------------------------------------------


async def test_a_receiver_with_the_secret_verifies_what_it_gets(world: World) -> None:
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    (request,) = world.requests
    assert (noted.status, noted.error, noted.next_at) == (200, "", None)
    assert (request.method, request.target) == ("POST", "/hook?a=1")
    assert request.body == PAYLOAD
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("headrace")
    assert request.headers["webhook-id"] == "msg_1"
    assert Webhook(SECRET).verify(request.body, request.headers)["data"]["name"] == "ü"


async def test_every_attempt_has_the_same_id_and_a_time_and_signature_of_its_own(world: World) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(500, b"", {})

    world.answer = fail
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        await world.noted()
        world.clock.advance(6)
        await world.noted()

    first, second = (request.headers for request in world.requests)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 6
    assert Webhook(SECRET).verify(PAYLOAD, dict(second))


# --- What becomes of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_success_is_a_delivery(world: World, status: int) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(status, b"", {})

    world.answer = answer
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert (noted.status, noted.error, noted.next_at) == (status, "", None)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_any_other_answer_is_tried_again(world: World, status: int) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(status, b"no", {})

    world.answer = answer
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert (noted.status, noted.error) == (status, f"HTTP {status}")
    assert noted.next_at is not None
    assert 4.5 <= noted.next_at - world.clock.now() <= 5.5


async def test_a_receiver_that_is_gone_for_good_is_given_up_at_once(world: World) -> None:
    async def gone(exchange: Exchange) -> None:
        await exchange.answer(410, b"", {})

    world.answer = gone
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert (noted.status, noted.error, noted.next_at) == (410, "HTTP 410", None)


async def test_a_redirect_is_not_followed(world: World) -> None:
    async def elsewhere(exchange: Exchange) -> None:
        await exchange.answer(307, b"", {"Location": f"http://127.0.0.1:{world.port}/elsewhere"})

    world.answer = elsewhere
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert [request.path for request in world.requests] == ["/hook"]
    assert (noted.status, noted.error) == (307, "HTTP 307: redirects are not followed")
    assert noted.next_at is not None


async def test_a_message_is_tried_for_about_a_day_and_then_given_up(world: World) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(500, b"", {})

    world.answer = fail
    begun = world.clock.now()
    world.deliveries.owe(world.url, begun)
    waits: list[float] = []

    async with sending(world):
        while (noted := await world.noted()).next_at is not None:
            waits.append(noted.next_at - world.clock.now())
            world.clock.advance(waits[-1])

    assert noted.attempts == len(world.requests) == len(DELAYS) + 1
    assert all(0.9 * delay <= wait <= 1.1 * delay for delay, wait in zip(DELAYS, waits, strict=True))
    assert 21 * 3600 < world.clock.now() - begun < 27 * 3600


@pytest.mark.parametrize(
    ("status", "attempts", "least", "most"),
    [(None, 1, 4.5, 5.5), (500, 2, 270, 330), (429, 7, 19_440, 23_760)],
)
def test_the_delay_follows_the_number_of_attempts(status: int | None, attempts: int, least: float, most: float) -> None:
    delay = retry_delay(status, attempts)

    assert delay is not None
    assert least <= delay <= most


@pytest.mark.parametrize(("status", "attempts"), [(410, 1), (500, 8), (None, 100)])
def test_nothing_is_tried_for_ever(status: int | None, attempts: int) -> None:
    assert retry_delay(status, attempts) is None


async def test_a_receiver_that_does_not_answer_in_time_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(webhooks, "TIMEOUT", 0.05)
    world.answer = silence
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert (noted.status, noted.error) == (None, "no answer within 0.05 s")
    assert noted.next_at is not None


async def test_the_time_limit_covers_the_resolving_of_the_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: object, **__: object) -> list[tuple[Any, ...]]:
        asyncio.run_coroutine_threadsafe(answered.wait(), loop).result(10)
        return []

    monkeypatch.setattr(webhooks, "TIMEOUT", 0.05)
    world.deliveries.owe("http://slow.example/", world.clock.now())

    async with sending(world, lookup=slow):
        noted = await world.noted()
        answered.set()

    assert noted.error == "no answer within 0.05 s"


async def test_an_endless_answer_is_cut_and_its_status_counts(world: World) -> None:
    sent = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.stream_head()
        while True:
            await exchange.chunk(bytes(64 * 1024))
            sent += 1

    world.answer = endless
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert (noted.status, noted.error) == (200, "")
    assert sent < 1000


async def test_an_answer_that_breaks_off_after_its_head_has_said_enough(world: World) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.head(202, {"Content-Length": "100"}, b"half")
        exchange.close()

    world.answer = half
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        assert (await world.noted()).status == 202


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def garbage(exchange: Exchange) -> None:
    await exchange.raw(b"no HTTP at all\r\n\r\n")
    exchange.close()


@pytest.mark.parametrize(
    ("answer", "error"), [(reset, "ServerDisconnectedError|ClientOSError"), (garbage, "ClientResponseError")]
)
async def test_a_connection_that_fails_is_tried_again(
    world: World, answer: Callable[[Exchange], Awaitable[None]], error: str
) -> None:
    world.answer = answer
    world.deliveries.owe(world.url, world.clock.now())

    async with sending(world):
        noted = await world.noted()

    assert noted.error in [f"the connection failed ({each})" for each in error.split("|")]
    assert noted.next_at is not None


async def test_a_host_that_refuses_connections_is_tried_again_and_its_address_is_not_told(world: World) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        world.deliveries.owe(f"http://127.0.0.1:{closed.getsockname()[1]}/", world.clock.now())

        async with sending(world):
            noted = await world.noted()

    assert noted.error == "the connection failed (ClientConnectorError)"
    assert noted.next_at is not None


# --- Many, and mishaps ----------------------------------------------------------------------------------------------


async def test_a_bounded_number_of_messages_is_sent_at_a_time(world: World) -> None:
    go = asyncio.Event()
    most = now = 0

    async def wait(exchange: Exchange) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        if now == CONCURRENCY:
            go.set()
        await go.wait()
        now -= 1
        await ok(exchange)

    world.answer = wait
    world.deliveries.owe(world.url, world.clock.now(), *(f"msg_{number}" for number in range(3 * CONCURRENCY)))

    async with sending(world):
        noted = {(await world.noted()).id for _ in range(3 * CONCURRENCY)}

    assert len(noted) == len(world.requests) == 3 * CONCURRENCY
    assert most == CONCURRENCY


async def test_a_message_that_cannot_be_sent_does_not_hold_up_the_others(world: World) -> None:
    world.deliveries.owe(world.url, world.clock.now(), "msg_bad", "msg_good")
    world.deliveries.owed["msg_bad"] = replace(world.deliveries.owed["msg_bad"], payload=b"\xff")

    with capture_logs() as lines:
        async with sending(world):
            noted = {each.id: each for each in [await world.noted(), await world.noted()]}

    assert noted["msg_good"].status == 200
    assert noted["msg_bad"].error == "it cannot be sent (UnicodeDecodeError)"
    assert noted["msg_bad"].next_at is not None
    assert [line["id"] for line in lines if line["event"] == "webhook_failed"] == ["msg_bad"]


async def test_sending_goes_on_when_the_store_is_back(world: World) -> None:
    world.deliveries.owe(world.url, world.clock.now())
    world.deliveries.away = True

    with capture_logs() as lines:
        async with sending(world):
            for _ in range(3):
                await world.deliveries.asked.get()
            world.deliveries.away = False
            noted = await world.noted()

    assert noted.status == 200
    assert [line["event"] for line in lines].count("webhooks_unavailable") == 1


async def test_an_attempt_that_could_not_be_noted_is_made_again(world: World) -> None:
    async def answer(exchange: Exchange) -> None:
        world.deliveries.away = len(world.requests) == 1
        await ok(exchange)

    world.answer = answer
    world.deliveries.owe(world.url, world.clock.now())

    with capture_logs() as lines:
        async with sending(world):
            while not any(line["event"] == "webhook_attempt_not_noted" for line in lines):
                await world.deliveries.asked.get()
            world.deliveries.away = False
            world.clock.advance(webhooks.HOLD)
            noted = await world.noted()

    assert noted.status == 200
    assert [request.headers["webhook-id"] for request in world.requests] == ["msg_1", "msg_1"]


async def test_neither_secret_nor_payload_nor_url_is_logged(world: World) -> None:
    world.deliveries.owe(f"{world.url}&token=hush", world.clock.now())

    with capture_logs() as lines:
        async with sending(world):
            await world.noted()

    text = repr(lines)
    assert "webhook_attempted" in text
    assert not any(each in text for each in ("hush", SECRET, "completed"))


async def test_what_a_store_owes_is_delivered_and_stands_in_its_log(world: World) -> None:
    now = world.clock.now()
    delivery = WebhookDelivery("msg_1", "alice", world.url, "job.completed", "job-1", PAYLOAD, now, now)
    async with database.connect("sqlite://") as store:
        await make_schema(store)
        await store._transactions.write(lambda connection: owe(connection, [delivery]))
        arrived = asyncio.Event()

        async def fail_once(exchange: Exchange) -> None:
            await exchange.answer(200 if len(world.requests) > 1 else 503, b"", {})
            arrived.set()

        world.answer = fail_once
        sender = WebhookSender(store, world.clock, secret=SECRET, allow_private=True, poll=0.005)
        sending = asyncio.create_task(sender.run())
        async with asyncio.timeout(60):
            while (found := (await store.webhooks.find("alice"))[0]).delivered_at is None:
                await arrived.wait()
                if found.attempts == 1:
                    world.clock.advance(6)
                await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert (found.attempts, found.status, found.error, found.next_at) == (2, 200, "", None)
