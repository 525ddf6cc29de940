"""Durable jobs as rows: from a `JobRecord` or an `Ending` to what the tables hold, and back."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import EndedLine, JobRecord
from broker.store import bulk
from broker.store.job_tables import MAX_TAGS, job_requests, jobs
from broker.store.tables import TEXT_LENGTH, URL_LENGTH
from shared.errors import InvalidRequest
from shared.jobs import Ending, Job, JobState

Condition: TypeAlias = sa.ColumnExpressionArgument[bool]


# --- Writing --------------------------------------------------------------------------------------------------------

_INSERT_JOBS = bulk.insert(jobs)
_INSERT_REQUESTS = bulk.insert(job_requests)
_INSERT_BOTH = bulk.insert_both(jobs, job_requests)


async def insert(connection: AsyncConnection, records: Sequence[JobRecord], *, held: bool = False) -> bool:
    """Add jobs; `held` keeps queued ones from being released. False, having added nothing, when they are there already.
    Raises `InvalidRequest`, also when only some are."""
    small, requests, large, bodies = [], [], bulk.Bytes(), bulk.Bytes()
    for record in records:
        small.append(_job_row(record, held and record.state is JobState.QUEUED, large))
        requests.append(_request_row(record, bodies))
    added = await bulk.execute(connection, _INSERT_JOBS, small, large)
    if added == 0:
        return False
    if added < len(records):
        raise InvalidRequest(f"{len(records) - added} of {len(records)} jobs are in the store already")
    await bulk.execute(connection, _INSERT_REQUESTS, requests, bodies)
    return True


async def insert_one(connection: AsyncConnection, record: JobRecord) -> bool:
    """As `insert` of a single job. On PostgreSQL it is one statement, for which a connection that commits by itself
    will do."""
    if connection.dialect.name != "postgresql":
        return await insert(connection, [record])
    large, bodies = bulk.Bytes(), bulk.Bytes()
    small, request = [_job_row(record, False, large)], [_request_row(record, bodies)]
    parameters = {"rows": bulk.document(small), "bytes": large.joined()}
    parameters |= {"rows2": bulk.document(request), "bytes2": bodies.joined()}
    return bool(await connection.scalar(_INSERT_BOTH, parameters))


def _job_row(record: JobRecord, held: bool, large: bulk.Bytes) -> dict[str, Any]:
    job = record.job
    row = {
        "id": job.id,
        "owner": job.key,
        "state": record.state,
        "held": held,
        "provider": job.route[0].provider if job.route else "",  # a bad line has no route
        "tenant": job.tenant[:TEXT_LENGTH],
        "rank": -record.priority,
        "deadline": job.deadline,
        "created_at": job.accepted_at,
        "moved_at": record.moved_at or job.accepted_at,
        "dispatches": record.dispatches,
        "batch_id": record.batch_id,
        "line": record.line,
        "result_ttl": record.result_ttl,
        "idempotency_key": record.idempotency_key,
        "webhook": record.webhook[:URL_LENGTH],
        "provider_batch": record.provider_batch,
    }
    if record.ending is None:
        return row
    return row | ending_row(record.ending, large) | {"expires_at": _expires_at(record, record.ending)}


def _expires_at(record: JobRecord, ending: Ending) -> float | None:
    return None if record.batch_id else ending.finished_at + record.result_ttl


def ending_row(ending: Ending, large: bulk.Bytes) -> dict[str, Any]:
    if not ending.state.final:
        raise InvalidRequest(f"job {ending.job_id} cannot end as {ending.state.value}: that is no final state")
    row = {
        "id": ending.job_id,
        "state": ending.state,
        "finished_at": ending.finished_at,
        "attempts": ending.attempts,
        "cost_nanodollars": ending.cost,
    }
    return (
        row
        | large.place("answer", ending.answer)
        | large.place("error", None if ending.error is None else bulk.json_bytes(ending.error))
        | large.place("served", None if ending.served is None else bulk.json_bytes(ending.served))
    )


def _request_row(record: JobRecord, large: bulk.Bytes) -> dict[str, Any]:
    job = record.job
    row = {
        "id": job.id,
        "line_of": record.batch_id,
        "custom_id": record.custom_id[:TEXT_LENGTH],
        "model": job.model[:TEXT_LENGTH],
        "user_id": (job.customer or job.user)[:TEXT_LENGTH],
        "tags": "\n".join([tag[:TEXT_LENGTH] for tag in job.tags[:MAX_TAGS]]),
        "weight": max(record.weight, 1),
        "request_hash": record.request_hash,
        "retry_of": record.retry_of,
    }
    try:
        headers = job.headers()
    except TypeError as exc:
        raise InvalidRequest(f"job {job.id} cannot be stored: {exc}") from exc
    return row | large.place("headers", headers) | large.place("body", job.body)


async def lock(
    connection: AsyncConnection, job_ids: Iterable[str], conditions: Sequence[Condition], *columns: sa.Column[Any]
) -> Sequence[sa.Row[Any]]:
    """The id and these columns of the unfinished jobs that meet the conditions; nobody else changes them now.

    They are taken in the order of their ids, so that two transactions with the same jobs never wait for each other in a
    circle. SQLite has one writer at a time and needs no locks.
    """
    unfinished = jobs.c.finished_at.is_(None)  # `UNFINISHED` would lead PostgreSQL to the wrong index
    statement = (
        sa.select(jobs.c.id, *columns)
        .where(bulk.among(connection, jobs.c.id, job_ids), unfinished, *conditions)
        .order_by(jobs.c.id)
        .with_for_update()
    )
    return (await connection.execute(statement)).all()


async def delete(connection: AsyncConnection, job_ids: Sequence[str]) -> int:
    """How many were there."""
    await connection.execute(sa.delete(job_requests).where(bulk.among(connection, job_requests.c.id, job_ids)))
    result = await connection.execute(sa.delete(jobs).where(bulk.among(connection, jobs.c.id, job_ids)))
    return result.rowcount


# --- Reading --------------------------------------------------------------------------------------------------------

_STATES = {state.value: state for state in JobState}

# The fields of `JobRecord` between `state` and `ending`, in their order.
_FIELDS = (
    job_requests.c.weight,
    -jobs.c.rank,
    jobs.c.result_ttl,
    jobs.c.batch_id,
    jobs.c.line,
    job_requests.c.custom_id,
    jobs.c.idempotency_key,
    job_requests.c.request_hash,
    jobs.c.webhook,
    job_requests.c.retry_of,
    jobs.c.moved_at,
    jobs.c.dispatches,
    jobs.c.provider_batch,
)
_ENDING = (jobs.c.finished_at, jobs.c.attempts, jobs.c.error, jobs.c.served, jobs.c.cost_nanodollars)


def select(*, body: bool = False, answer: bool = False) -> sa.Select[Any]:
    """Rows for `records`, with the large values that are asked for."""
    large = (job_requests.c.body if body else sa.null(), jobs.c.answer if answer else sa.null())
    columns = (job_requests.c.headers, jobs.c.state, *_FIELDS, jobs.c.expires_at, *_ENDING, *large)
    return sa.select(*columns).select_from(jobs.join(job_requests, jobs.c.id == job_requests.c.id))


async def records(connection: AsyncConnection, statement: sa.Select[Any]) -> list[JobRecord]:
    return [_record(row) for row in await connection.execute(statement)]


async def ended_lines(connection: AsyncConnection, *conditions: Condition) -> list[EndedLine]:
    """In line order, with their answers."""
    columns = (job_requests.c.custom_id, jobs.c.line, jobs.c.id, jobs.c.state, *_ENDING, jobs.c.answer)
    statement = sa.select(*columns).select_from(jobs.join(job_requests, jobs.c.id == job_requests.c.id))
    rows = await connection.execute(statement.where(*conditions).order_by(jobs.c.line))
    return [EndedLine(custom_id, line, _ending(values)) for custom_id, line, *values in rows]


def _record(row: sa.Row[Any]) -> JobRecord:
    # By position: to look every column up by its name would cost as much as all the rest.
    headers, state, *fields, expires_at, finished_at, attempts, error, served, cost, body, answer = tuple(row)
    job = Job.from_wire(headers, body or b"")
    ending = None
    if finished_at is not None:
        ending = _ending((job.id, state, finished_at, attempts, error, served, cost, answer))
    return JobRecord(job, _STATES[state], *(*fields, ending, expires_at))


def _ending(values: Sequence[Any]) -> Ending:
    """Of the job's id and state, `_ENDING` and the answer."""
    job_id, state, finished_at, attempts, error, served, cost, answer = values
    return Ending(
        job_id=job_id,
        state=_STATES[state],
        finished_at=finished_at,
        attempts=attempts,
        answer=answer or b"",
        error=None if error is None else orjson.loads(error),
        served=None if served is None else orjson.loads(served),
        cost=cost,
    )
