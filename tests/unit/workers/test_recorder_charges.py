"""The recorder and the accounts: what is committed is charged, before it is acked, and nothing else is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from broker.account_interfaces import Charge
from tests.fakes.accounts import NotedAccounts
from tests.fakes.recording import Batch, Queue, Store, an_outcome, running, until
from workers.charges import Charges


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def store(queue: Queue) -> Store:
    return Store(queue)


class Journal(NotedAccounts):
    """Notes what had been committed and acked when it was charged."""

    def __init__(self, queue: Queue, store: Store) -> None:
        super().__init__()
        self._queue = queue
        self._store = store
        self.seen: list[tuple[list[str], list[str]]] = []

    async def charge(self, rows: Sequence[Charge]) -> None:
        self.seen.append((list(self._store.rows), list(self._queue.acked)))
        await super().charge(rows)


async def test_rows_are_charged_after_their_commit_and_before_their_ack_in_one_call(queue: Queue, store: Store) -> None:
    accounts = Journal(queue, store)
    queue.put("ab", "c")

    async with running(queue, store, charges=Charges(accounts)):
        await until(lambda: len(queue.acked) == 2)

    assert accounts.seen == [(["a", "b", "c"], [])]
    assert [row.job_id for row in accounts.charges[0]] == ["a", "b", "c"]


async def test_accounts_that_are_away_hold_up_no_ack(queue: Queue, store: Store) -> None:
    accounts = NotedAccounts(away=True)
    queue.put("a", "b")

    async with running(queue, store, charges=Charges(accounts)):
        await until(lambda: len(queue.acked) == 2)

    assert store.rows == ["a", "b"]


async def test_a_row_that_the_store_refuses_is_not_charged(queue: Queue, store: Store) -> None:
    accounts = NotedAccounts()
    store.poison = "b"
    queue.put("abc")

    async with running(queue, store, charges=Charges(accounts)):
        await until(lambda: queue.acked)

    assert sorted(row.job_id for call in accounts.charges for row in call) == ["a", "c"]


async def test_a_row_that_the_store_refuses_is_logged_without_its_prompts(queue: Queue, store: Store) -> None:
    store.poison = "a"
    secret = replace(an_outcome("a"), request="what I asked", response="what it said")
    queue.waiting.put_nowait(Batch(queue, [secret]))

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: queue.acked)

    assert "what" not in str(logs)
