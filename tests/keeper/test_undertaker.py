"""The undertaker's promises: a letter is acked when the store has it, and a durable job that nobody ended ends here."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from broker.records import DeadLetter, JobRecord
from broker.store import database
from broker.store.database import Database
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import Ending, Job, JobState, Lane, Leg, Outcome, Status
from tests.fakes.accounts import NotedAccounts
from tests.fakes.clock import FakeClock
from tests.fakes.schema import make_schema
from workers.checkout import Checkout
from workers.undertaker import Undertaker

NOW = time.time()  # the store tells by the real time what has expired


def a_job(job_id: str, *, durable: bool = True) -> Job:
    return Job(
        id=job_id,
        endpoint="chat.completions",
        model="chat",
        route=(Leg("p", "chat", ("d",)),),
        body=b'{"messages":[{"role":"user","content":"a secret"}]}',
        reply_to="",
        accepted_at=NOW - 60,
        deadline=NOW + 3600,
        lane=Lane.BATCH,
        durable=durable,
    )


def a_letter(job: Job, reason: str = "delivered over 20 times, and no worker settled it") -> DeadLetter:
    return DeadLetter(job.id, "p", reason, job.headers(), job.body, NOW - 1)


def an_outcome(job_id: str, attempt: int) -> Outcome:
    return Outcome(
        job_id, attempt, NOW - 30, "chat.completions", "chat", "chat", "d", "p", "m", Status.UNKNOWN,
        response_id=f"r{attempt}",
    )  # fmt: skip


@dataclass
class Dead:
    letter: DeadLetter
    abandoned: bool
    queue: "Queue"

    async def ack(self) -> None:
        self.queue.acked.append(self.letter.job_id)
        self.queue.happened.set()


@dataclass
class Queue:
    """The undertaker's side of a `JobQueue`."""

    acked: list[str] = field(default_factory=list)
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: "asyncio.Queue[Dead]" = field(default_factory=asyncio.Queue)

    def put(self, letter: DeadLetter, *, abandoned: bool = False) -> None:
        self.waiting.put_nowait(Dead(letter, abandoned, self))

    @asynccontextmanager
    async def dead_letters(self, prefetch: int) -> AsyncIterator[AsyncIterator[Dead]]:
        async def deliver() -> AsyncIterator[Dead]:
            while True:
                yield await self.waiting.get()

        deliveries = deliver()
        yield deliveries
        await deliveries.aclose()  # type: ignore[attr-defined]

    async def settled(self, *job_ids: str) -> None:
        async with asyncio.timeout(60):
            while self.acked != list(job_ids):
                self.happened.clear()
                await self.happened.wait()


@pytest.fixture
async def store() -> AsyncIterator[Database]:
    async with database.connect("sqlite://") as store:
        await make_schema(store)
        yield store


@pytest.fixture
def queue() -> Queue:
    return Queue()


@dataclass
class Naps:
    """Sleeps that take no time."""

    taken: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def running(
    queue: Queue, store: Database, naps: Naps | None = None, accounts: NotedAccounts | None = None
) -> AsyncIterator["asyncio.Task[None]"]:
    undertaker = Undertaker(
        queue,  # type: ignore[arg-type]  # one method
        store,
        FakeClock(NOW),
        checkout=Checkout(accounts),
        sleep=naps or Naps(),
    )
    task = asyncio.create_task(undertaker.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def accepted(store: Database, job: Job) -> None:
    assert await store.jobs.add(JobRecord(job, JobState.DISPATCHED)) is None


async def ending(store: Database, job_id: str) -> Ending | None:
    record = await store.jobs.get(job_id, bodies=True)
    assert record is not None
    return record.ending


async def test_a_letter_is_acked_when_the_store_has_it(queue: Queue, store: Database) -> None:
    letter = a_letter(a_job("a"), "crashed 3 workers")

    async with running(queue, store):
        queue.put(letter)
        await queue.settled("a")

    assert await store.dead_letters.get("a") == letter


async def test_an_abandoned_durable_job_ends_as_quarantined(queue: Queue, store: Database) -> None:
    await accepted(store, a_job("a"))
    await store.record([an_outcome("a", 1), an_outcome("a", 2), an_outcome("other", 1)])

    async with running(queue, store):
        queue.put(a_letter(a_job("a")), abandoned=True)
        await queue.settled("a")

    ended = await ending(store, "a")
    assert ended is not None
    assert (ended.state, ended.attempts, ended.finished_at) == (JobState.FAILED, 2, NOW)
    assert ended.error is not None
    assert ended.error["code"] == "quarantined"
    assert ended.error["message"] == "The job was set aside: delivered over 20 times, and no worker settled it."


async def test_a_job_that_a_worker_set_aside_is_left_to_the_workers_ending(queue: Queue, store: Database) -> None:
    await accepted(store, a_job("a"))

    async with running(queue, store):
        queue.put(a_letter(a_job("a"), "crashed 3 workers"), abandoned=False)
        await queue.settled("a")

    assert await ending(store, "a") is None


async def test_an_ending_that_was_there_first_stays(queue: Queue, store: Database) -> None:
    await accepted(store, a_job("a"))
    completed = Ending("a", JobState.COMPLETED, NOW - 5, 1, b"{}")
    await store.record((), [completed])

    async with running(queue, store):
        queue.put(a_letter(a_job("a")), abandoned=True)
        await queue.settled("a")

    assert await ending(store, "a") == completed


@pytest.mark.parametrize("headers", [b"", b"\xff", b"[]", b'{"id":"a"}', a_job("a", durable=False).headers()])
async def test_an_abandoned_message_that_is_no_durable_job_is_a_letter_only(
    queue: Queue, store: Database, headers: bytes
) -> None:
    await accepted(store, a_job("a"))
    letter = replace(a_letter(a_job("a")), headers=headers)

    async with running(queue, store):
        queue.put(letter, abandoned=True)
        await queue.settled("a")

    assert await ending(store, "a") is None
    assert await store.dead_letters.get("a") == letter


async def test_while_the_store_is_away_nothing_is_acked_and_waits_grow(
    queue: Queue, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls, naps = store.dead_letters.add, [], Naps()

    async def away(letters: list[DeadLetter]) -> None:
        calls.append(list(queue.acked))
        if len(calls) <= 7:
            raise Unavailable("the database is away")
        await add(letters)

    monkeypatch.setattr(store.dead_letters, "add", away)

    async with running(queue, store, naps):
        queue.put(a_letter(a_job("a")))
        await queue.settled("a")

    assert calls == [[]] * 8
    assert naps.taken == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_a_letter_that_the_store_refuses_stays_on_the_queue_and_holds_up_no_other(
    queue: Queue, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = store.dead_letters.add

    async def refuse(letters: list[DeadLetter]) -> None:
        if letters[0].job_id == "bad":
            raise InvalidRequest("no such character")
        await add(letters)

    monkeypatch.setattr(store.dead_letters, "add", refuse)
    async with running(queue, store):
        queue.put(a_letter(a_job("bad")))
        queue.put(a_letter(a_job("good")))
        await queue.settled("good")

    assert await store.dead_letters.get("good") is not None


async def test_no_prompt_is_logged(queue: Queue, store: Database) -> None:
    with capture_logs() as logs:
        async with running(queue, store):
            queue.put(a_letter(a_job("a")), abandoned=True)
            await queue.settled("a")

    assert [(each["event"], each["job"], each["provider"]) for each in logs] == [("job_dead", "a", "p")]
    assert "secret" not in repr(logs)


@pytest.mark.parametrize(("abandoned", "told"), [(True, ["a"]), (False, [])], ids=["by the queue", "by a worker"])
async def test_a_job_that_the_queue_gave_up_gives_back_what_it_holds(
    queue: Queue, store: Database, abandoned: bool, told: list[str]
) -> None:
    accounts = NotedAccounts()
    job = replace(a_job("a"), durable=False, accounts=("key:abc",))

    async with running(queue, store, accounts=accounts):
        queue.put(a_letter(job, "delivered too often"), abandoned=abandoned)
        await queue.settled("a")

    assert [each.job_id for each in accounts.finished] == told


async def test_headers_that_cannot_be_read_name_no_accounts(queue: Queue, store: Database) -> None:
    accounts = NotedAccounts()
    letter = replace(a_letter(a_job("a"), "unreadable"), headers=b'{"accounts": [7]')

    async with running(queue, store, accounts=accounts):
        queue.put(letter, abandoned=True)
        await queue.settled("a")

    assert accounts.attempts == 0
