"""Every implementation of `broker.store_interfaces.Webhooks` keeps what its docstring promises."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.records import WebhookDelivery
from broker.store.transactions import Transactions
from broker.store.webhooks import WebhookStore, owe
from broker.store_interfaces import Webhooks
from tests.conformance.stores import NOON, a_delivery, transactions

HOLD = 60.0  # seconds


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def webhooks(opened: Transactions) -> Webhooks:
    return WebhookStore(opened)


async def owed(opened: Transactions, *deliveries: WebhookDelivery) -> None:
    await opened.write(lambda connection: owe(connection, deliveries))


async def log(webhooks: Webhooks, owner: str | None = None, **query: object) -> list[str]:
    return [delivery.id for delivery in await webhooks.find(owner, **query)]  # type: ignore[arg-type]


async def only(webhooks: Webhooks) -> WebhookDelivery:
    (delivery,) = await webhooks.find(None)
    return delivery


# --- Owing and taking -----------------------------------------------------------------------------------------------


async def test_a_delivery_comes_back_as_it_was_owed(opened: Transactions, webhooks: Webhooks) -> None:
    delivery = a_delivery(payload=b'{"a": "\xc3\xbc"}', url=f"https://example.com/{'x' * 2000}")

    await owed(opened, delivery)

    assert await webhooks.find(None) == [delivery]


async def test_a_delivery_is_owed_once_and_keeps_its_state(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())
    await webhooks.attempted("msg_1", NOON, status=200, error="", next_at=None)

    await owed(opened, a_delivery(), a_delivery("msg_2"))

    assert await log(webhooks) == ["msg_2", "msg_1"]
    assert [each.attempts for each in await webhooks.find(None)] == [0, 1]


async def test_owing_nothing_adds_nothing(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened)

    assert await webhooks.find(None) == []


async def test_what_a_failed_transaction_owed_is_not_owed(opened: Transactions, webhooks: Webhooks) -> None:
    async def fail(connection: object) -> None:
        await owe(connection, [a_delivery()])  # type: ignore[arg-type]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await opened.write(fail)

    assert await webhooks.find(None) == []


async def test_the_longest_due_are_taken_and_held(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, *(a_delivery(f"msg_{second}", next_at=NOON + second) for second in (3, 1, 2)))

    taken = [{each.id for each in await webhooks.due(NOON + 2, HOLD, 1)} for _ in range(3)]

    assert taken == [{"msg_1"}, {"msg_2"}, set()]


async def test_a_delivery_whose_sender_died_is_due_again_after_its_hold(
    opened: Transactions, webhooks: Webhooks
) -> None:
    await owed(opened, a_delivery())
    await webhooks.due(NOON, HOLD, 10)

    early = await webhooks.due(NOON + HOLD - 0.1, HOLD, 10)
    late = await webhooks.due(NOON + HOLD, HOLD, 10)

    assert ([each.id for each in early], [each.id for each in late]) == ([], ["msg_1"])


async def test_several_senders_at_once_share_what_is_due_without_taking_any_twice(shared_url: str) -> None:
    async with transactions(shared_url) as one, transactions(shared_url) as other:
        await owed(one, *(a_delivery(f"msg_{number}") for number in range(200)))
        senders = [WebhookStore(one), WebhookStore(other)]

        async def take_all(sender: WebhookStore) -> list[str]:
            taken: list[str] = []
            while batch := await sender.due(NOON, HOLD, 7):
                assert len(batch) <= 7
                taken += [each.id for each in batch]
            return taken

        shares = await asyncio.gather(*(take_all(sender) for sender in senders * 2))

    taken = [each for share in shares for each in share]
    assert len(taken) == len(set(taken)) == 200


# --- Attempts -------------------------------------------------------------------------------------------------------


async def test_a_delivered_message_is_no_longer_due(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())

    await webhooks.attempted("msg_1", NOON + 1, status=204, error="", next_at=None)

    assert await only(webhooks) == a_delivery(next_at=None, attempts=1, delivered_at=NOON + 1, status=204)
    assert await webhooks.due(NOON + 1e6, HOLD, 10) == []


async def test_a_failed_attempt_is_due_again_at_its_time(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())

    await webhooks.attempted("msg_1", NOON + 1, status=500, error="HTTP 500", next_at=NOON + 6)

    assert await only(webhooks) == a_delivery(next_at=NOON + 6, attempts=1, status=500, error="HTTP 500")
    assert await webhooks.due(NOON + 5.9, HOLD, 10) == []
    assert [each.attempts for each in await webhooks.due(NOON + 6, HOLD, 10)] == [1]


async def test_a_message_that_was_given_up_is_neither_due_nor_delivered(
    opened: Transactions, webhooks: Webhooks
) -> None:
    await owed(opened, a_delivery())

    await webhooks.attempted("msg_1", NOON + 1, status=None, error="refused", next_at=None)

    assert await only(webhooks) == a_delivery(next_at=None, attempts=1, error="refused")


async def test_an_attempt_that_is_noted_twice_counts_once(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())
    for at in (NOON + 1, NOON + 1, NOON + 2):
        await webhooks.attempted("msg_1", at, status=500, error="HTTP 500", next_at=NOON + 9)

    assert (await only(webhooks)).attempts == 2


async def test_an_error_is_cut_and_cleaned(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())

    await webhooks.attempted("msg_1", NOON, status=None, error="\x00" + "ü" * 1000, next_at=None)

    assert (await only(webhooks)).error == "\ufffd" + "ü" * 499


# --- The log --------------------------------------------------------------------------------------------------------


async def test_the_log_is_newest_first_page_by_page(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, *(a_delivery(f"msg_{second}", created_at=NOON + second // 2) for second in (3, 1, 5, 2, 4)))

    first = await log(webhooks, limit=2)
    second = await log(webhooks, limit=2, after=first[-1])
    third = await log(webhooks, limit=2, after=second[-1])

    assert (first, second, third) == (["msg_5", "msg_4"], ["msg_3", "msg_2"], ["msg_1"])


async def test_the_log_is_filtered_by_owner_and_subject(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery("msg_1"), a_delivery("msg_2", owner="bob"), a_delivery("msg_3", subject="job-2"))

    assert await log(webhooks, "alice") == ["msg_3", "msg_1"]
    assert await log(webhooks, "alice", subject="job-2") == ["msg_3"]
    assert await log(webhooks, "bob", subject="job-2") == []
    assert await log(webhooks, "alice", after="msg_2") == []
    assert await log(webhooks, None, subject="job-\x00") == []


async def test_a_redelivery_is_due_now_whatever_became_of_the_message(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery())
    await webhooks.attempted("msg_1", NOON, status=200, error="", next_at=None)

    anew = await webhooks.redeliver("msg_1", "alice", NOON)

    assert anew == a_delivery(next_at=NOON)
    assert await webhooks.due(NOON, HOLD, 10) != []
    await webhooks.attempted("msg_1", NOON, status=200, error="", next_at=None)
    assert (await only(webhooks)).delivered_at == NOON


async def test_another_owners_message_is_not_redelivered(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(opened, a_delivery(next_at=None))

    assert await webhooks.redeliver("msg_1", "bob", NOON) is None
    assert await webhooks.redeliver("msg_9", None, NOON) is None
    assert (await only(webhooks)).next_at is None
    assert await webhooks.redeliver("msg_1", None, NOON) is not None


async def test_old_messages_are_purged_unless_they_are_still_owed(opened: Transactions, webhooks: Webhooks) -> None:
    await owed(
        opened,
        a_delivery("msg_old", next_at=None, created_at=NOON - 2),
        a_delivery("msg_old_too", next_at=None, created_at=NOON - 2),
        a_delivery("msg_never_sent", next_at=NOON - 2, created_at=NOON - 2),
        a_delivery("msg_owed", next_at=NOON + 5, created_at=NOON - 2),
        a_delivery("msg_young", next_at=None, created_at=NOON),
    )

    purged = [await webhooks.purge(NOON - 1, limit=2) for _ in range(3)]

    assert purged == [2, 1, 0]
    assert await log(webhooks) == ["msg_young", "msg_owed"]
