"""Dead letters, kept where they can be looked at, until somebody retries or purges them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import DeadLetter
from broker.store.file_tables import dead_letters as table
from broker.store.paging import Order, upsert
from broker.store.transactions import Transactions

MAX_LETTERS = 100
"""A page of dead letters is never longer."""

_ORDER = Order(table, "died_at", "job_id")


class DeadLetterStore:
    """A `broker.store_interfaces.DeadLetters`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        # In the order of the key, so that two who add the same letters never wait for each other in a circle.
        ordered = sorted(letters, key=lambda letter: (letter.job_id, letter.died_at))
        rows = [{name: getattr(letter, name) for name in DeadLetter.__slots__} for letter in ordered]

        async def insert(connection: AsyncConnection) -> None:
            statement = upsert(connection, table)
            new = {column.name: column for column in statement.excluded if column.name != "job_id"}
            later = statement.excluded.died_at >= table.c.died_at
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["job_id"], set_=new, where=later), rows
            )

        if rows:
            await self._transactions.write(insert)

    async def find(self, *, provider: str | None = None, after: str | None = None, limit: int = 20) -> list[DeadLetter]:
        statement = _ORDER.page(limit, MAX_LETTERS).with_only_columns(*_WITHOUT_BODY)
        if provider is not None:
            statement = statement.where(table.c.provider == provider)
        if after is not None:
            statement = statement.where(_ORDER.beyond(after))

        async def find(connection: AsyncConnection) -> list[DeadLetter]:
            return [DeadLetter(body=b"", **row._mapping) for row in await connection.execute(statement)]

        return await self._transactions.read(find)

    async def get(self, job_id: str) -> DeadLetter | None:
        async def get(connection: AsyncConnection) -> DeadLetter | None:
            row = (await connection.execute(sa.select(table).where(table.c.job_id == job_id))).one_or_none()
            return None if row is None else DeadLetter(**row._mapping)

        return await self._transactions.read(get)

    async def remove(self, job_ids: Sequence[str]) -> int:
        return await self._delete(table.c.job_id.in_(job_ids))

    async def purge(self, *, provider: str | None = None, older_than: float | None = None) -> int:
        conditions: list[sa.ColumnElement[bool]] = []
        if provider is not None:
            conditions.append(table.c.provider == provider)
        if older_than is not None:
            conditions.append(table.c.died_at < older_than)
        return await self._delete(*conditions)

    async def _delete(self, *conditions: sa.ColumnElement[bool]) -> int:
        statement = sa.delete(table).where(*conditions)
        return (await self._transactions.write(lambda connection: connection.execute(statement))).rowcount


_WITHOUT_BODY: list[sa.Column[Any]] = [column for column in table.c if column.name != "body"]
