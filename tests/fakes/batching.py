"""The seams in memory, and batches in them as the api would leave them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson

from broker.account_records import Actor
from broker.accounts.memory import MemoryAccounts
from broker.backends import Backends
from broker.events.memory import MemoryEventLog
from broker.limits.memory import MemoryLimiter
from broker.queues.memory import MemoryQueue
from broker.records import BatchRecord, BatchStatus, EndedLine, FileRecord, JobRecord, KeyRecord
from broker.store.database import connect
from shared.catalog import Catalog, Deployment
from shared.clock import Clock
from shared.ids import uuid7
from shared.jobs import Job, JobState, Lane, Leg
from tests.fakes.schema import make_schema

ENDPOINT = "/v1/chat/completions"
OWNERS = ("alice", "bob")


def simulated_catalog() -> Catalog:
    """One model, `echo`, that answers the last message at once."""
    return Catalog([Deployment(id="d", group="echo", provider="simulated", model="echo", credential="c", bucket="b")])


@asynccontextmanager
async def memory_backends(clock: Clock, *, bound: int = 10_000) -> AsyncIterator[Backends]:
    """All seams, with the lanes of `simulated` declared, the store's schema in place and a key for each of `OWNERS`."""
    async with MemoryQueue(bound) as queue, MemoryEventLog() as log, connect("sqlite://") as store:
        await make_schema(store)
        await queue.declare(["simulated"])
        for owner in OWNERS:
            await store.keys.add(KeyRecord(owner, f"sk-...{owner}", created_at=clock.now()), Actor("test"))
        yield Backends(queue, log, MemoryLimiter(clock), store, MemoryAccounts(clock))


def a_line(number: int, **changes: Any) -> dict[str, Any]:
    """A line of a batch's file; `body` replaces single fields of the body."""
    body = {"model": "echo", "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 10}
    line = {"custom_id": f"line-{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return line | changes | {"body": body | changes["body"] if isinstance(changes.get("body"), dict) else
                             changes.get("body", body)}  # fmt: skip


def json_lines(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


@dataclass
class Desk:
    """Puts batches into a store."""

    backends: Backends
    clock: Clock

    async def file(self, content: bytes, owner: str = "alice", *, chunk: int = 1024 * 1024) -> str:
        files = self.backends.store.files
        file_id = f"file-{uuid7().replace('-', '')}"
        await files.create(FileRecord(file_id, owner, "input.jsonl", "batch", self.clock.now()))
        for number, begin in enumerate(range(0, len(content), chunk)):
            await files.write(file_id, number, content[begin : begin + chunk])
        await files.seal(file_id, len(content))
        return file_id

    async def batch(self, content: bytes, owner: str = "alice", **fields: Any) -> BatchRecord:
        """A batch that waits for its intake."""
        now = self.clock.now()
        record = BatchRecord(
            id=f"batch_{uuid7().replace('-', '')}",
            owner=owner,
            tenant=owner,
            endpoint=ENDPOINT,
            input_file_id=await self.file(content, owner),
            completion_window="24h",
            created_at=now,
            expires_at=now + 86_400,
            stamps={BatchStatus.VALIDATING: now},
        )
        record = replace(record, **fields)
        await self.backends.store.batches.add(record)
        return record

    async def batch_of(self, batch_id: str) -> BatchRecord:
        record = await self.backends.store.batches.get(batch_id)
        assert record is not None
        return record

    async def lines_of(self, batch_id: str, *, completed: bool = False) -> list[EndedLine]:
        """Finished lines: the completed ones or all others."""
        endings = self.backends.store.batches.endings(batch_id, completed=completed)
        return [record async for page in endings for record in page]

    async def text_of(self, file_id: str) -> bytes:
        return b"".join([piece async for piece in self.backends.store.files.read(file_id)])

    async def rows_of(self, file_id: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (await self.text_of(file_id)).splitlines()]


def a_job(clock: Clock, owner: str = "alice", **changes: Any) -> Job:
    """A durable job for the simulated model that nobody waits for."""
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    job = Job(
        id=uuid7(),
        endpoint="chat.completions",
        model="echo",
        route=(Leg("simulated", "echo", ("d",)),),
        body=orjson.dumps(body),
        reply_to="",
        accepted_at=clock.now(),
        deadline=clock.now() + 3600,
        lane=Lane.BATCH,
        key=owner,
        durable=True,
    )
    return replace(job, **changes)


def a_record(job: Job, state: JobState = JobState.QUEUED, **fields: Any) -> JobRecord:
    return replace(JobRecord(job=job, state=state, moved_at=job.accepted_at), **fields)


async def eventually(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    """What `condition` returns once it is true; it may be a coroutine function."""
    import asyncio
    import inspect

    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.01)
