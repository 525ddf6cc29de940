"""Virtual keys, by the hash of their text."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import KeyRecord
from broker.store.file_tables import keys as table
from broker.store.paging import Order, upsert
from broker.store.transactions import Transactions

MAX_KEYS = 1000
"""A page of keys is never longer."""

_COLUMNS = {
    "user": "user_id",
    "team": "team_id",
}  # field -> column, where their names differ: `user` is reserved in SQL
_ORDER = Order(table, "created_at", "hash")


class KeyStore:
    """A `broker.store_interfaces.Keys`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def add(self, record: KeyRecord) -> bool:
        row = {_COLUMNS.get(name, name): getattr(record, name) for name in KeyRecord.__slots__}
        row["metadata"] = dict(record.metadata)

        async def insert(connection: AsyncConnection) -> bool:
            result = await connection.execute(upsert(connection, table).values(row).on_conflict_do_nothing())
            return bool(result.rowcount)

        return await self._transactions.write(insert)

    async def get(self, key_hash: str) -> KeyRecord | None:
        async def get(connection: AsyncConnection) -> KeyRecord | None:
            row = (await connection.execute(sa.select(table).where(table.c.hash == key_hash))).one_or_none()
            return None if row is None else _record(row)

        return await self._transactions.read(get)

    async def find(self, *, after: str | None = None, limit: int = 100) -> list[KeyRecord]:
        """Newest first."""
        statement = _ORDER.page(limit, MAX_KEYS)
        if after is not None:
            statement = statement.where(_ORDER.beyond(after))

        async def find(connection: AsyncConnection) -> list[KeyRecord]:
            return [_record(row) for row in await connection.execute(statement)]

        return await self._transactions.read(find)

    async def delete(self, key_hashes: Sequence[str]) -> list[str]:
        statement = sa.delete(table).where(table.c.hash.in_(key_hashes)).returning(table.c.hash)

        async def delete(connection: AsyncConnection) -> list[str]:
            return list(await connection.scalars(statement))

        return await self._transactions.write(delete)


def _record(row: sa.Row[Any]) -> KeyRecord:
    return KeyRecord(**{field: row._mapping[_COLUMNS.get(field, field)] for field in KeyRecord.__slots__})
