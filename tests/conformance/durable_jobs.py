"""Durable jobs, endings and batches for the tests of the store."""

import time
from collections.abc import Sequence
from dataclasses import replace

from broker.records import BatchRecord, BatchStatus, JobRecord, Progress
from broker.store.database import Database
from shared.ids import uuid7
from shared.jobs import Ending, Job, JobState, Leg

NOW = time.time()
"""When these tests began; results expire by the real time."""

HOUR = 3600.0


def a_job(job_id: str = "", *, provider: str = "openai", body: bytes = b'{"model":"fast"}', **fields: object) -> Job:
    job = Job(
        id=job_id or uuid7(),
        endpoint="chat.completions",
        model="fast",
        route=(Leg(provider, "fast", ("d1", "d2")),),
        body=body,
        reply_to="",
        accepted_at=NOW,
        deadline=NOW + HOUR,
        durable=True,
    )
    return replace(job, **fields)  # type: ignore[arg-type]


def a_record(job: Job | None = None, state: JobState = JobState.QUEUED, **fields: object) -> JobRecord:
    return replace(JobRecord(job or a_job(), state, moved_at=NOW), **fields)  # type: ignore[arg-type]


def an_ending(job_id: str, state: JobState = JobState.COMPLETED, **fields: object) -> Ending:
    ending = Ending(job_id, state, finished_at=NOW, attempts=1, answer=b'{"id":"chatcmpl-1"}', cost=7)
    return replace(ending, **fields)  # type: ignore[arg-type]


def a_batch(batch_id: str = "batch_1", **fields: object) -> BatchRecord:
    batch = BatchRecord(
        id=batch_id,
        owner="",
        tenant="",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        created_at=NOW,
        expires_at=NOW + HOUR,
    )
    return replace(batch, **fields)  # type: ignore[arg-type]


def a_line(batch_id: str = "batch_1", line: int = 1, *, job: Job | None = None, **fields: object) -> JobRecord:
    """A queued line; its job is named for its batch and number."""
    job = job or a_job(f"{batch_id}-{line:05}")
    return a_record(job, batch_id=batch_id, line=line, custom_id=f"request-{line}", **fields)


def a_bad_line(batch_id: str = "batch_1", line: int = 1) -> JobRecord:
    record = a_line(batch_id, line, job=a_job(f"{batch_id}-{line:05}", body=b"", route=()))
    error = {"code": "invalid_request", "message": "this line is not JSON"}
    ending = an_ending(record.job.id, JobState.FAILED, attempts=0, answer=b"", error=error, cost=0)
    return replace(record, state=JobState.FAILED, ending=ending)


VALIDATING = (BatchStatus.VALIDATING,)
ANY = tuple(BatchStatus)


async def running(store: Database, lines: Sequence[JobRecord], **fields: object) -> list[str]:
    """A batch in progress with these lines; their ids."""
    await store.batches.add(a_batch(**fields))
    assert await store.batches.take_in("batch_1", lines, Progress(len(lines), 100))
    await store.batches.move("batch_1", BatchStatus.IN_PROGRESS, NOW, expected=VALIDATING)
    return [line.job.id for line in lines]


async def the_batch(store: Database) -> BatchRecord:
    batch = await store.batches.get("batch_1")
    assert batch is not None
    return batch


async def counts(store: Database) -> tuple[int, int, int, int]:
    batch = await the_batch(store)
    return batch.total, batch.completed, batch.failed, batch.cost


async def added(store: Database, *records: JobRecord) -> list[str]:
    for record in records:
        assert await store.jobs.add(record) is None
    return [record.job.id for record in records]


async def state_of(store: Database, job_id: str) -> JobState:
    found = await store.jobs.get(job_id)
    assert found is not None
    return found.state
