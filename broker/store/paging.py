"""What the queries of several tables share: pages that go on after a row, and inserts that may find their row there."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a table is paged: by a time, and by the primary key among equal times."""

    table: sa.Table
    time: str
    key: str

    def page(self, limit: int, most: int, *, newest_first: bool = True) -> sa.Select[Any]:
        """All columns of the first `limit` rows; it is brought to between 1 and `most`."""
        columns = [self.table.c[self.time], self.table.c[self.key]]
        order = [column.desc() if newest_first else column.asc() for column in columns]
        return sa.select(self.table).order_by(*order).limit(min(max(limit, 1), most))

    def beyond(self, after: str, owner: str | None = None, *, newest_first: bool = True) -> sa.ColumnElement[bool]:
        """Whether a row comes after the one with the key `after`; none does when that is missing or not `owner`'s."""
        last = self.table.alias("last")
        cursor = sa.select(last.c[self.time], last.c[self.key]).where(last.c[self.key] == after)
        if owner is not None:
            cursor = cursor.where(last.c.owner == owner)
        place = sa.tuple_(self.table.c[self.time], self.table.c[self.key])
        bound = cursor.scalar_subquery()
        return place < bound if newest_first else place > bound


def upsert(connection: AsyncConnection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insert with `ON CONFLICT`, which SQLAlchemy has by dialect only."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
