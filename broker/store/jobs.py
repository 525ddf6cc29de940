"""Durable jobs in the store: accepted, moved from state to state, ended, found, forgotten."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import Flow, JobQuery, JobRecord
from broker.store import batch_lines, bulk, flows, job_rows
from broker.store.endings import end as end_jobs
from broker.store.job_rows import Condition
from broker.store.job_tables import (
    EXPIRING,
    IDEMPOTENCY_WINDOW,
    KEYED,
    SINGLE,
    UNDERWAY,
    UNFINISHED,
    job_requests,
    jobs,
)
from broker.store.paging import Order
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import Ending, JobState

MAX_JOBS = 100
"""A page of jobs is never longer."""

_NEWEST = Order(jobs, "created_at", "id")


class JobStore:
    """A `broker.store_interfaces.Jobs`."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._now = now

    async def add(self, record: JobRecord) -> JobRecord | None:
        now = self._now()
        if not record.idempotency_key:  # the usual one, whose client waits for it
            added = await self._transactions.write_at_once(lambda connection: job_rows.insert_one(connection, record))
            if added:
                return None
        return await self._transactions.write(lambda connection: _add(connection, record, now))

    async def release_key(self, job_id: str) -> None:
        statement = sa.update(jobs).where(jobs.c.id == job_id).values(idempotency_key="")
        await self._transactions.write(lambda connection: connection.execute(statement))

    async def get(self, job_id: str, owner: str | None = None, *, bodies: bool = False) -> JobRecord | None:
        statement = job_rows.select(body=bodies, answer=bodies).where(jobs.c.id == job_id, _unexpired(self._now()))
        if owner is not None:
            statement = statement.where(jobs.c.owner == owner)
        found = await self._read(statement)
        return found[0] if found else None

    async def find(self, query: JobQuery) -> list[JobRecord]:
        return await self._read(_page(query, self._now()))

    async def move(
        self, job_ids: Sequence[str], state: JobState, now: float, *, expected: JobState | None = None
    ) -> list[str]:
        if state.final:
            raise InvalidRequest(f"a job ends with an ending: it cannot be moved to {state.value}")
        values: dict[str, Any] = {"state": state, "moved_at": now, "provider_batch": ""}
        if state is JobState.DISPATCHING:
            values["dispatches"] = jobs.c.dispatches + 1
        movable: list[Condition] = [] if expected is None else [jobs.c.state == expected]
        return await self._transactions.write(lambda connection: _set(connection, job_ids, movable, values))

    async def consign(self, job_ids: Sequence[str], provider_batch: str, now: float) -> list[str]:
        # Those that went with it already, because the answer to the first call was lost, count as queued.
        queued = sa.or_(jobs.c.state == JobState.QUEUED, jobs.c.provider_batch == provider_batch)
        values = {"state": JobState.CONSIGNED, "moved_at": now, "provider_batch": provider_batch}
        return await self._transactions.write(lambda connection: _set(connection, job_ids, [queued], values))

    async def end(self, endings: Sequence[Ending]) -> list[str]:
        now = self._now()
        return await self._transactions.write(lambda connection: end_jobs(connection, endings, now))

    async def flows(self) -> list[Flow]:
        return await self._transactions.read(flows.find)

    async def head(self, tenant: str, provider: str, limit: int) -> list[JobRecord]:
        return await self._transactions.read(lambda connection: flows.head(connection, tenant, provider, limit))

    async def position(self, job_id: str) -> int | None:
        return await self._transactions.read(lambda connection: flows.position(connection, job_id))

    async def unfinished(self, state: JobState, moved_before: float, limit: int) -> list[JobRecord]:
        # The index's condition follows from the state, but no planner sees that.
        underway = [] if state is JobState.QUEUED else [sa.text(UNDERWAY)]
        statement = (
            job_rows.select(body=True)
            .where(sa.text(UNFINISHED), *underway, jobs.c.state == state, jobs.c.moved_at < moved_before)
            .order_by(jobs.c.moved_at)
            .limit(limit)
        )
        return await self._read(statement)

    async def overdue(self, now: float, limit: int) -> list[JobRecord]:
        statement = job_rows.select().where(sa.text(UNFINISHED), jobs.c.deadline <= now)
        return await self._read(statement.order_by(jobs.c.deadline).limit(limit))

    async def purge(self, now: float, limit: int) -> int:
        expired = sa.select(jobs.c.id).where(sa.text(EXPIRING), jobs.c.expires_at <= now)
        expired = expired.order_by(jobs.c.expires_at).limit(limit)

        async def purge(connection: AsyncConnection) -> int:
            return await job_rows.delete(connection, list(await connection.scalars(expired)))

        return await self._transactions.write(purge)

    async def _read(self, statement: sa.Select[Any]) -> list[JobRecord]:
        return await self._transactions.read(lambda connection: job_rows.records(connection, statement))


async def _add(connection: AsyncConnection, record: JobRecord, now: float) -> JobRecord | None:
    if record.idempotency_key:
        await _free_key(connection, record, now)
    for _ in range(_ATTEMPTS):
        if await job_rows.insert(connection, [record]):
            return None
        if await connection.scalar(sa.select(jobs.c.id).where(jobs.c.id == record.job.id)):
            return None  # this call's row, of a first try whose answer was lost
        if found := await job_rows.records(connection, job_rows.select().where(*_keyed(record))):
            return found[0]
    raise Unavailable(f"the idempotency key of job {record.job.id} changes hands too fast: send the request again")


_ATTEMPTS = 3  # a key may be released, or its job deleted, between the insert that it stopped and the look at its job


async def _free_key(connection: AsyncConnection, record: JobRecord, now: float) -> None:
    """Take the key off a job that has expired, or had it for too long."""
    gone = sa.or_(jobs.c.expires_at <= now, jobs.c.created_at < now - IDEMPOTENCY_WINDOW)
    other = jobs.c.id != record.job.id
    await connection.execute(sa.update(jobs).where(*_keyed(record), gone, other).values(idempotency_key=""))


def _keyed(record: JobRecord) -> list[Condition]:
    """Has the record's key."""
    return [sa.text(KEYED), jobs.c.owner == record.job.key, jobs.c.idempotency_key == record.idempotency_key]


async def _set(
    connection: AsyncConnection, job_ids: Sequence[str], conditions: Sequence[Condition], values: dict[str, Any]
) -> list[str]:
    found = [row.id for row in await job_rows.lock(connection, job_ids, conditions)]
    if found:
        await connection.execute(sa.update(jobs).where(bulk.among(connection, jobs.c.id, found)).values(values))
    return found


# --- Finding --------------------------------------------------------------------------------------------------------


def _page(query: JobQuery, now: float) -> sa.Select[Any]:
    limit = min(max(query.limit, 1), MAX_JOBS)
    if query.batch_id:
        lines = _last_lines(query, limit).subquery()
        return job_rows.select().where(jobs.c.id.in_(sa.select(lines.c.id))).order_by(jobs.c.line.desc())
    statement = job_rows.select().where(sa.text(SINGLE), _unexpired(now), *_filters(query))
    if query.states:
        statement = statement.where(jobs.c.state.in_(query.states))
    if query.after is not None:
        statement = statement.where(_NEWEST.beyond(query.after, query.owner))
    return statement.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)


def _last_lines(query: JobQuery, limit: int) -> sa.CompoundSelect[Any]:
    lines = sa.select(jobs.c.id, jobs.c.line).where(*_filters(query))
    if query.model is not None or query.text:
        lines = lines.join(job_requests, jobs.c.id == job_requests.c.id)
    if query.after is not None:
        after = jobs.alias("after")
        line = sa.select(after.c.line).where(after.c.id == query.after, after.c.batch_id == query.batch_id)
        lines = lines.where(jobs.c.line < line.scalar_subquery())
    states = query.states or tuple(JobState)
    return batch_lines.in_line_order(lines, query.batch_id or "", states, limit, last_first=True)


def _filters(query: JobQuery) -> list[Condition]:
    conditions: list[Condition] = []
    if query.owner is not None:
        conditions.append(jobs.c.owner == query.owner)
    if query.model is not None:
        conditions.append(job_requests.c.model == query.model)
    if query.text:
        searched = (jobs.c.id, job_requests.c.custom_id, job_requests.c.user_id, job_requests.c.tags)
        conditions.append(sa.or_(*(column.icontains(query.text, autoescape=True) for column in searched)))
    return conditions


def _unexpired(now: float) -> Condition:
    return sa.or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > now)
