"""What is known of batches that run at a provider's own batch API."""

from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import ProviderBatch
from broker.store.bulk import json_bytes
from broker.store.job_tables import provider_batches
from broker.store.paging import upsert

MOST_UNSETTLED = 1000

_SETTLED = ("done", "pulled_back")


async def add(connection: AsyncConnection, record: ProviderBatch) -> None:
    await connection.execute(upsert(connection, provider_batches).on_conflict_do_nothing(), _row(record))


async def save(connection: AsyncConnection, record: ProviderBatch) -> None:
    await connection.execute(sa.update(provider_batches).where(provider_batches.c.id == record.id).values(_row(record)))


async def unsettled(connection: AsyncConnection, batch_id: str | None) -> list[ProviderBatch]:
    columns = provider_batches.c
    statement = sa.select(provider_batches).where(columns.state.not_in(_SETTLED))
    if batch_id is not None:
        statement = statement.where(columns.batch_id == batch_id)
    statement = statement.order_by(columns.checked_at, columns.id).limit(MOST_UNSETTLED)
    return [_record(row) for row in await connection.execute(statement)]


def _row(record: ProviderBatch) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in ProviderBatch.__slots__}
    return fields | {"remote_files": json_bytes(dict(record.remote_files))}


def _record(row: sa.Row[Any]) -> ProviderBatch:
    fields = dict(row._mapping)
    return ProviderBatch(**fields | {"remote_files": orjson.loads(row.remote_files)})
