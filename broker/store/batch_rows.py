"""Batches as rows: added, found, moved from status to status, deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import BatchQuery, BatchRecord, BatchStatus
from broker.store import job_rows, notices, webhooks
from broker.store.bulk import among, json_bytes
from broker.store.job_rows import Condition
from broker.store.job_tables import IDEMPOTENCY_WINDOW, KEYED, LINE, batches, jobs, provider_batches
from broker.store.paging import Order, upsert
from shared.errors import Unavailable

MAX_BATCHES = 100
"""A page of batches is never longer."""

_ORDER = Order(batches, "created_at", "id")

# field -> column, where their names differ
_COLUMNS = {"user": "user_id", "cost": "cost_nanodollars"}
_FIELDS = {column: field for field, column in _COLUMNS.items()}
_JSON = ("metadata", "stamps", "errors")


async def add(connection: AsyncConnection, record: BatchRecord, now: float) -> BatchRecord | None:
    """The batch that has its key already, if there is one."""
    if record.idempotency_key:
        aged = (batches.c.created_at < now - IDEMPOTENCY_WINDOW, batches.c.id != record.id)
        under_key = _under_key(record.owner, record.idempotency_key)
        await connection.execute(sa.update(batches).where(*under_key, *aged).values(idempotency_key=""))
    if await _insert(connection, record) or await get(connection, record.id) is not None:
        return None
    found = await keyed(connection, record.owner, record.idempotency_key, now)
    if found is None:  # another process's clock is ahead, and has just taken the key off it
        raise Unavailable(f"the idempotency key of batch {record.id} changes hands: send the request again")
    return found


async def keyed(connection: AsyncConnection, owner: str, key: str, now: float) -> BatchRecord | None:
    young = batches.c.created_at >= now - IDEMPOTENCY_WINDOW
    row = (await connection.execute(sa.select(batches).where(*_under_key(owner, key), young))).one_or_none()
    return None if row is None else _record(row)


def _under_key(owner: str, key: str) -> list[Condition]:
    return [sa.text(KEYED), batches.c.owner == owner, batches.c.idempotency_key == key]


async def _insert(connection: AsyncConnection, record: BatchRecord) -> bool:
    """Whether it was not there, and nothing with its key."""
    fields = {name: getattr(record, name) for name in BatchRecord.__slots__}
    row = {_COLUMNS.get(name, name): value for name, value in fields.items()}
    row |= {name: json_bytes(_plain(row[name])) for name in _JSON}
    row["ended_at"] = record.stamps.get(record.status) if record.status.final else None
    result = await connection.execute(upsert(connection, batches).on_conflict_do_nothing(), row)
    return result.rowcount > 0


def _plain(value: Any) -> Any:
    return [dict(each) for each in value] if isinstance(value, list | tuple) else dict(value)


def _record(row: sa.Row[Any]) -> BatchRecord:
    fields = {_FIELDS.get(name, name): value for name, value in row._mapping.items() if name != "ended_at"}
    fields |= {name: orjson.loads(fields[name]) for name in _JSON}
    fields |= {"status": BatchStatus(row.status), "errors": tuple(fields["errors"])}
    return BatchRecord(**fields)


async def get(connection: AsyncConnection, batch_id: str, owner: str | None = None) -> BatchRecord | None:
    statement = sa.select(batches).where(batches.c.id == batch_id)
    if owner is not None:
        statement = statement.where(batches.c.owner == owner)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def find(connection: AsyncConnection, query: BatchQuery) -> list[BatchRecord]:
    statement = _ORDER.page(query.limit, MAX_BATCHES)
    if query.owner is not None:
        statement = statement.where(batches.c.owner == query.owner)
    if query.statuses:
        statement = statement.where(batches.c.status.in_(query.statuses))
    if query.after is not None:
        statement = statement.where(_ORDER.beyond(query.after, query.owner))
    return [_record(row) for row in await connection.execute(statement)]


# --- Moving ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A new status, the time, the statuses that it may follow, and what else the batch learns by it."""

    status: BatchStatus
    now: float
    expected: Sequence[BatchStatus]
    output_file_id: str = ""
    error_file_id: str = ""
    errors: Sequence[dict[str, object]] = ()


async def move(connection: AsyncConnection, batch_id: str, change: Change) -> BatchRecord | None:
    statement = sa.select(batches).where(batches.c.id == batch_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None or row.status not in change.expected:
        return None
    before = _record(row)
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(_changed(before, change)))
    if change.status is BatchStatus.IN_PROGRESS:
        await _release(connection, batch_id)
    after = await get(connection, batch_id)
    if after is not None and after.status.final and not before.status.final and after.webhook:
        await webhooks.owe(connection, [notices.of_batch(after, change.now)])
    return after


def _changed(before: BatchRecord, change: Change) -> dict[str, Any]:
    stamps = {change.status.value: change.now} | dict(before.stamps)  # it entered the status when it did so first
    values: dict[str, Any] = {"status": change.status, "stamps": json_bytes(stamps)}
    if change.status.final:
        values["ended_at"] = stamps[change.status]
    if change.output_file_id:
        values["output_file_id"] = change.output_file_id
    if change.error_file_id:
        values["error_file_id"] = change.error_file_id
    if change.errors:
        values["errors"] = json_bytes(list(change.errors))
    return values


async def _release(connection: AsyncConnection, batch_id: str) -> None:
    """The lines of a validated batch may run."""
    held = (sa.text(LINE), jobs.c.batch_id == batch_id, jobs.c.held)
    await connection.execute(sa.update(jobs).where(*held).values(held=False))


# --- Deleting -------------------------------------------------------------------------------------------------------


async def purge(connection: AsyncConnection, older_than: float, limit: int) -> int:
    """Lines first, so that a batch of any size goes page by page; a batch goes when it has none left."""
    old = sa.select(batches.c.id).where(batches.c.ended_at < older_than).order_by(batches.c.ended_at)
    lines = sa.select(jobs.c.id).where(sa.text(LINE), jobs.c.batch_id.in_(old.limit(limit))).limit(limit)
    deleted = await job_rows.delete(connection, list(await connection.scalars(lines)))
    if deleted == limit:
        return deleted
    has_lines = sa.exists().where(sa.text(LINE), jobs.c.batch_id == batches.c.id)
    empty = list(await connection.scalars(old.where(~has_lines).limit(limit - deleted)))
    if not empty:
        return deleted
    await connection.execute(sa.delete(provider_batches).where(among(connection, provider_batches.c.batch_id, empty)))
    result = await connection.execute(sa.delete(batches).where(among(connection, batches.c.id, empty)))
    return deleted + result.rowcount
