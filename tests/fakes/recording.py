"""A recorder's surroundings: the queue that outcomes come from, and the store that they go to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from broker.interfaces import OutcomeBatch
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import Ending, Outcome, Status
from workers.recorder import Recorder


def an_outcome(job_id: str) -> Outcome:
    return Outcome(
        job_id=job_id,
        attempt=1,
        started_at=0.0,
        endpoint="chat.completions",
        model="m",
        group="m",
        deployment="d",
        provider="p",
        upstream_model="m",
        status=Status.SUCCESS,
    )


@dataclass
class Batch:
    queue: "Queue"
    outcomes: Sequence[Outcome]
    endings: Sequence[Ending] = ()

    async def ack(self) -> None:
        if self.queue.away:
            raise Unavailable("the queue is away")
        self.queue.acked.append("".join(outcome.job_id for outcome in self.outcomes))
        self.queue.happened.set()


@dataclass
class Queue:
    """The recorder's side of a `JobQueue`."""

    acked: list[str] = field(default_factory=list)
    away: bool = False
    unacked: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: "asyncio.Queue[Batch]" = field(default_factory=asyncio.Queue)

    def put(self, *batches: str) -> None:
        """One message for each word, an outcome for each of its letters."""
        for batch in batches:
            self.waiting.put_nowait(Batch(self, [an_outcome(letter) for letter in batch]))

    @asynccontextmanager
    async def outcomes(self, prefetch: int) -> AsyncIterator[AsyncIterator[OutcomeBatch]]:
        async def deliver() -> AsyncIterator[OutcomeBatch]:
            while True:
                while self.unacked - len(self.acked) >= prefetch:
                    self.happened.clear()
                    await self.happened.wait()
                batch = await self.waiting.get()
                self.unacked += 1
                yield batch

        deliveries = deliver()
        try:
            yield deliveries
        finally:
            with suppress(RuntimeError):
                await deliveries.aclose()  # type: ignore[attr-defined]


class Store:
    """The recorder's side of a `Store`. It takes its time until `let_go` is set, and refuses job ids in `poison`."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.rows: list[str] = []
        self.calls: list[str] = []
        self.acked_before: list[list[str]] = []
        self.endings: list[Ending] = []
        self.away = False
        self.poison = ""
        self.poisoned_answer = b"what no database takes"
        self.called = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> int:
        letters = "".join(outcome.job_id for outcome in outcomes)
        self.calls.append(letters)
        self.acked_before.append(list(self.queue.acked))
        self.called.set()
        await self.let_go.wait()
        if self.away:
            raise Unavailable("the database is away")
        if set(letters) & set(self.poison):
            raise InvalidRequest("no such number")
        if any(ending.answer == self.poisoned_answer for ending in endings):
            raise InvalidRequest("no such text")
        self.endings += endings
        new = [letter for letter in letters if letter not in self.rows]
        self.rows += new
        return len(new)


@asynccontextmanager
async def running(queue: Queue, store: Store, **options: Any) -> AsyncIterator["asyncio.Task[None]"]:
    options = {"linger": 0.01, **options}
    task = asyncio.create_task(Recorder(queue, store, **options).run())  # type: ignore[arg-type]
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Let others run until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)
