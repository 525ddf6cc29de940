"""Webhook deliveries: what is owed, who is sending it, and the log of what became of it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import WebhookDelivery
from broker.store.file_tables import webhook_deliveries as table
from broker.store.paging import Order, upsert
from broker.store.transactions import Transactions

MAX_DELIVERIES = 100
"""A page of the log is never longer."""

_ORDER = Order(table, "created_at", "id")


async def owe(connection: AsyncConnection, deliveries: Sequence[WebhookDelivery]) -> None:
    """Add these in the transaction of what they tell of. Those that are there already stay as they are."""
    if deliveries:
        rows = [{name: getattr(delivery, name) for name in WebhookDelivery.__slots__} for delivery in deliveries]
        await connection.execute(upsert(connection, table).on_conflict_do_nothing(), rows)


class WebhookStore:
    """A `broker.store_interfaces.Webhooks`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def due(self, now: float, hold: float, limit: int) -> list[WebhookDelivery]:
        # SQLite has one writer at a time; on PostgreSQL senders pass over each other's rows instead of waiting.
        # Choosing is a statement of its own: as a subquery PostgreSQL may run it again and lock more than `limit`.
        choice = sa.select(table.c.id).where(table.c.next_at <= now).order_by(table.c.next_at).limit(limit)
        choice = choice.with_for_update(skip_locked=True)

        async def take(connection: AsyncConnection) -> list[WebhookDelivery]:
            ids = list(await connection.scalars(choice))
            if not ids:
                return []
            hold_them = sa.update(table).where(table.c.id.in_(ids)).values(next_at=now + hold).returning(table)
            return [_delivery(row) for row in await connection.execute(hold_them)]

        return await self._transactions.write(take)

    async def attempted(
        self, delivery_id: str, now: float, *, status: int | None, error: str, next_at: float | None
    ) -> None:
        # An attempt is known by its time, so that noting it again after a lost answer does not count it twice.
        statement = (
            sa.update(table)
            .where(table.c.id == delivery_id, table.c.attempted_at.is_distinct_from(now))
            .values(attempts=table.c.attempts + 1, attempted_at=now, status=status, error=error, next_at=next_at)
        )
        if next_at is None and not error:
            statement = statement.values(delivered_at=now)
        await self._transactions.write(lambda connection: connection.execute(statement))

    async def find(
        self, owner: str | None, *, subject: str | None = None, after: str | None = None, limit: int = 20
    ) -> list[WebhookDelivery]:
        statement = _ORDER.page(limit, MAX_DELIVERIES)
        if owner is not None:
            statement = statement.where(table.c.owner == owner)
        if subject is not None:
            statement = statement.where(table.c.subject == subject)
        if after is not None:
            statement = statement.where(_ORDER.beyond(after, owner))

        async def find(connection: AsyncConnection) -> list[WebhookDelivery]:
            return [_delivery(row) for row in await connection.execute(statement)]

        return await self._transactions.read(find)

    async def redeliver(self, delivery_id: str, owner: str | None, now: float) -> WebhookDelivery | None:
        """Its attempts are counted anew, so it is tried as often as a new one."""
        statement = sa.update(table).where(table.c.id == delivery_id).returning(table)
        if owner is not None:
            statement = statement.where(table.c.owner == owner)
        anew = statement.values(next_at=now, attempts=0, attempted_at=None, delivered_at=None, status=None, error="")

        async def redeliver(connection: AsyncConnection) -> WebhookDelivery | None:
            row = (await connection.execute(anew)).one_or_none()
            return None if row is None else _delivery(row)

        return await self._transactions.write(redeliver)

    async def purge(self, older_than: float, limit: int) -> int:
        """Delete deliveries that were made and, if they are still owed, due before `older_than`; how many."""
        old = sa.and_(table.c.created_at < older_than, sa.func.coalesce(table.c.next_at, 0.0) < older_than)
        page = sa.select(table.c.id).where(old).limit(limit)
        statement = sa.delete(table).where(table.c.id.in_(page))
        return (await self._transactions.write(lambda connection: connection.execute(statement))).rowcount


def _delivery(row: sa.Row[Any]) -> WebhookDelivery:
    values = dict(row._mapping)
    del values["attempted_at"]
    return WebhookDelivery(**values)
