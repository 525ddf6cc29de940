"""The lines of batches: jobs that are taken in together, counted together and read out in order."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import BatchStatus, EndedLine, JobRecord, Progress
from broker.store import endings as job_endings
from broker.store import job_rows
from broker.store.bulk import among, clean, json_bytes
from broker.store.job_tables import CONSIGNED, LINE, LINE_REQUEST, UNFINISHED, batches, job_requests, jobs
from broker.store.tables import TEXT_LENGTH
from shared.errors import AppError, Cancelled, DeadlineExceeded, InvalidRequest
from shared.jobs import JobState

_PAGE = 500  # lines
_PAGE_BYTES = 4 * 1024 * 1024  # of answers; a page with one line only may be larger

_FAILED = (JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)


async def take_in(
    connection: AsyncConnection, batch_id: str, records: Sequence[JobRecord], progress: Progress, *, held: bool
) -> bool:
    here = sa.and_(
        batches.c.id == batch_id,
        batches.c.status == BatchStatus.VALIDATING,
        batches.c.lines_read < progress.lines_read,
    )
    values = {
        "lines_read": progress.lines_read,
        "bytes_read": progress.bytes_read,
        "total": batches.c.total + len(records),
    }
    if (await connection.execute(sa.update(batches).where(here).values(values))).rowcount == 0:
        return False
    if records and not await job_rows.insert(connection, records, held=held):
        raise InvalidRequest(f"the lines of {batch_id} are in the store already")
    await job_endings.count(connection, [(batch_id, each.ending) for each in records if each.ending is not None])
    return True


async def known_custom_ids(connection: AsyncConnection, batch_id: str, custom_ids: Sequence[str]) -> set[str]:
    wanted = {custom_id: clean(custom_id[:TEXT_LENGTH]) for custom_id in custom_ids}
    stored = job_requests.c.custom_id
    statement = sa.select(stored).where(
        sa.text(LINE_REQUEST), job_requests.c.line_of == batch_id, among(connection, stored, wanted.values())
    )
    known = set(await connection.scalars(statement))
    return {custom_id for custom_id, kept in wanted.items() if kept in known}


async def unfinished(connection: AsyncConnection, batch_id: str) -> dict[JobState, int]:
    statement = (
        sa.select(jobs.c.state, sa.func.count())
        .where(sa.text(LINE), sa.text(UNFINISHED), jobs.c.batch_id == batch_id)
        .group_by(jobs.c.state)
    )
    return {JobState(state): count for state, count in await connection.execute(statement)}


async def cancel(connection: AsyncConnection, batch_id: str, state: JobState, now: float) -> int:
    queued = (sa.text(LINE), jobs.c.batch_id == batch_id, jobs.c.state == JobState.QUEUED)
    # Locked in the order in which all others lock jobs, and only then changed, in whatever order.
    locked = sa.select(jobs.c.id).where(*queued).order_by(jobs.c.id).with_for_update().subquery()
    await connection.execute(sa.select(sa.func.count()).select_from(locked))
    values = {
        "state": state,
        "moved_at": now,
        "finished_at": now,
        "attempts": 0,
        "cost_nanodollars": 0,
        "answer": b"",
        "error": json_bytes(_reason(state).to_wire()),
    }
    ended = (await connection.execute(sa.update(jobs).where(*queued).values(values))).rowcount
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(failed=batches.c.failed + ended))
    return ended


def _reason(state: JobState) -> AppError:
    match state:
        case JobState.CANCELLED:
            return Cancelled("the batch was cancelled before this line began")
        case JobState.EXPIRED:
            return DeadlineExceeded("the batch expired before this line began")
        case _:
            raise InvalidRequest(f"queued lines end as cancelled or expired, not as {state.value}")


async def dispatched(connection: AsyncConnection, batch_id: str, after_line: int, limit: int) -> list[str]:
    states = (JobState.DISPATCHING, JobState.DISPATCHED)
    statement = (
        sa.select(jobs.c.id)
        .where(sa.text(LINE), jobs.c.batch_id == batch_id, jobs.c.state.in_(states), jobs.c.line > after_line)
        .order_by(jobs.c.line)
        .limit(limit)
    )
    return list(await connection.scalars(statement))


async def consigned(connection: AsyncConnection, provider_batch: str, after_line: int, limit: int) -> list[JobRecord]:
    return await _with_bodies(
        connection, limit, sa.text(CONSIGNED), jobs.c.provider_batch == provider_batch, jobs.c.line > after_line
    )


async def queued(
    connection: AsyncConnection, batch_id: str, provider: str, after_line: int, limit: int
) -> list[JobRecord]:
    first = (jobs.c.provider == provider, jobs.c.line > after_line)
    return await _with_bodies(
        connection, limit, sa.text(LINE), jobs.c.batch_id == batch_id, jobs.c.state == JobState.QUEUED, *first
    )


async def _with_bodies(connection: AsyncConnection, limit: int, *conditions: job_rows.Condition) -> list[JobRecord]:
    """The first lines, in line order, at most `limit` and about `_PAGE_BYTES` bytes of bodies."""
    sizes = (
        sa.select(jobs.c.line, sa.func.length(job_requests.c.body))
        .select_from(jobs.join(job_requests, jobs.c.id == job_requests.c.id))
        .where(*conditions)
        .order_by(jobs.c.line)
        .limit(limit)
    )
    last = _last_within(_PAGE_BYTES, await connection.execute(sizes))
    if last is None:
        return []
    statement = job_rows.select(body=True).where(*conditions, jobs.c.line <= last)
    return await job_rows.records(connection, statement.order_by(jobs.c.line))


async def some(connection: AsyncConnection, batch_id: str, job_ids: Sequence[str]) -> list[JobRecord]:
    statement = job_rows.select(body=True).where(jobs.c.batch_id == batch_id, among(connection, jobs.c.id, job_ids))
    return await job_rows.records(connection, statement)


async def endings(connection: AsyncConnection, batch_id: str, completed: bool, after_line: int) -> list[EndedLine]:
    """A page of at most `_PAGE` lines and about `_PAGE_BYTES` bytes."""
    states = (JobState.COMPLETED,) if completed else _FAILED
    last = await _last_of_page(connection, batch_id, states, after_line)
    if last is None:
        return []
    return await job_rows.ended_lines(
        connection,
        sa.text(LINE), jobs.c.batch_id == batch_id, jobs.c.state.in_(states), jobs.c.line.between(after_line + 1, last),
    )  # fmt: skip


async def _last_of_page(
    connection: AsyncConnection, batch_id: str, states: Sequence[JobState], after_line: int
) -> int | None:
    """The line that the page after `after_line` ends with; found by the sizes of answers, without reading any."""
    lines = sa.select(jobs.c.line, sa.func.length(jobs.c.answer).label("size")).where(jobs.c.line > after_line)
    page = in_line_order(lines, batch_id, states, _PAGE)
    return _last_within(_PAGE_BYTES, await connection.execute(page))


def _last_within(most: int, sizes: Iterable[Any]) -> int | None:
    """The last of these (line, bytes) up to which they have at most so many bytes; at least the first."""
    last, size = None, 0
    for line, length in sizes:
        size += length
        if last is not None and size > most:
            break
        last = line
    return last


def in_line_order(
    lines: sa.Select[Any], batch_id: str, states: Sequence[JobState], limit: int, *, last_first: bool = False
) -> sa.CompoundSelect[Any]:
    """The first of the batch's lines in any of these states; `lines` selects the column `line` among others. A query
    for each state reads its page straight from the index, where one for all would sort the whole batch."""
    order = jobs.c.line.desc() if last_first else jobs.c.line.asc()
    page = lines.where(sa.text(LINE), jobs.c.batch_id == batch_id).order_by(order).limit(limit)
    pages = [sa.select(page.where(jobs.c.state == state).subquery()) for state in states]
    return sa.union_all(*pages).order_by(sa.desc("line") if last_first else sa.asc("line")).limit(limit)
