"""Durable jobs of an api in a test: accepted over HTTP, begun and ended as a worker does it."""

from typing import Any

from shared.events import Event, Kind
from shared.jobs import Ending, Job, JobState, Outcome, Status
from tests.fakes.api import Api

ASYNC = {"prefer": "respond-async"}
ANSWER = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[]}'


async def accepted(it: Api, headers: dict[str, str] | None = None, **body: Any) -> Job:
    """A durable job, on its lane."""
    exchange = await it.chat(headers={**ASYNC, **(headers or {})}, **body).finished()
    record = await it.backends.store.jobs.get(exchange.json["id"], bodies=True)
    assert record is not None
    return record.job


async def begin(it: Api, job: Job, attempt: int = 1) -> None:
    meta = {"attempt": attempt, "deployment": "d", "worker": "w", "at": job.accepted_at + attempt, "queue_wait": 0.5}
    await it.log.mark_started(Event(job.id, 0, Kind.STARTED, meta=meta))


async def end(it: Api, job: Job, state: JobState = JobState.COMPLETED, *rows: Outcome, **fields: Any) -> None:
    fields = {"attempts": 1, **({"answer": ANSWER} if state is JobState.COMPLETED else {}), **fields}
    await it.backends.store.record(rows, [Ending(job.id, state, job.accepted_at + 10, **fields)])


def row(job: Job, attempt: int, status: Status, **fields: Any) -> Outcome:
    started_at = job.accepted_at + attempt
    where = ("chat", "d", "openai", "gpt")
    return Outcome(job.id, attempt, started_at, job.endpoint, job.model, *where, status, key=job.key, **fields)
