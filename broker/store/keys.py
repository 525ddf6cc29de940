"""Virtual keys, by the hash of their text."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.account_records import Actor, Entry, KeyQuery, Kind, Resolved
from broker.records import KeyRecord
from broker.store.account_rows import (
    ENTRY_COLUMNS,
    KEY_COLUMNS,
    clean_text,
    columns,
    containing,
    entry,
    key_record,
    key_row,
    page,
    storable_key,
)
from broker.store.audit import AuditedTransactions, Journal, Note
from broker.store.bulk import among
from broker.store.directory_tables import directory, earlier_hashes
from broker.store.directory_tables import keys as table
from broker.store.paging import upsert
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest

_DELETED_AT_ONCE = 500  # keys whose rows are in memory for the audit
_SORTS = ("created_at", "updated_at", "alias", "expires_at")


class KeyStore:
    """A `broker.directory_interfaces.Keys`."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._audited = AuditedTransactions(transactions, now)

    async def add(self, record: KeyRecord, actor: Actor) -> str:
        """A hash that a regenerated key had before is taken as well: its spend is that key's."""
        new = storable_key(record)

        async def add(journal: Journal) -> str:
            connection = journal.connection
            insert = upsert(connection, table).values(key_row(new)).on_conflict_do_nothing()
            if not (await connection.execute(insert)).rowcount:
                return await _taken(connection, new.hash)
            # Only now does this transaction see what a regeneration had done that the insert waited for.
            if await _current_hash(connection, new.hash) is not None:
                await connection.execute(sa.delete(table).where(table.c.hash == new.hash))
                return "hash"
            await journal.add([Note("created", None, new)])
            return ""

        return await self._audited.write(actor, add)

    async def get(self, key_hash: str) -> KeyRecord | None:
        statement = sa.select(*KEY_COLUMNS).where(table.c.hash == key_hash)

        async def get(connection: AsyncConnection) -> KeyRecord | None:
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else key_record(row)

        return await self._transactions.read_at_once(get)

    async def resolve(self, key_hash: str) -> Resolved | None:
        async def resolve(connection: AsyncConnection) -> Resolved | None:
            return _resolved((await connection.execute(_RESOLVE, {"hash": key_hash})).all())

        return await self._transactions.read_at_once(resolve)

    async def find(self, query: KeyQuery) -> list[KeyRecord]:
        """Keys without a date of expiry come after all dates."""
        offset, limit = page(query.offset, query.limit)
        ordered = sa.select(*KEY_COLUMNS).order_by(*_order(query)).offset(offset).limit(limit)

        async def find(connection: AsyncConnection) -> list[KeyRecord]:
            rows = await connection.execute(ordered.where(*_filters(connection, query)))
            return [key_record(row) for row in rows]

        return await self._transactions.read_at_once(find)

    async def count(self, query: KeyQuery) -> int:
        async def count(connection: AsyncConnection) -> int:
            statement = sa.select(sa.func.count()).select_from(table).where(*_filters(connection, query))
            return int(await connection.scalar(statement) or 0)

        return await self._transactions.read_at_once(count)

    async def change(
        self, key_hash: str, change: Callable[[KeyRecord], KeyRecord], actor: Actor, action: str = "updated"
    ) -> tuple[KeyRecord | None, str]:
        """Sets `updated_at` and `updated_by` unless `change` does."""
        statement = sa.select(*KEY_COLUMNS).where(table.c.hash == key_hash).with_for_update()

        async def work(journal: Journal) -> tuple[KeyRecord | None, str]:
            row = (await journal.connection.execute(statement)).one_or_none()
            if row is None:
                return None, ""
            before = key_record(row)
            after = storable_key(journal.stamped(before, change(before)))
            taken = await _replace(journal, before, after)
            if taken:
                return before, taken
            await journal.add([Note(action, before, after)])
            return after, ""

        return await self._audited.write(actor, work)

    async def delete(self, key_hashes: Sequence[str], actor: Actor) -> list[str]:
        async def delete(journal: Journal) -> list[str]:
            deleted = set(await remove(journal, among(journal.connection, table.c.hash, key_hashes)))
            return [key_hash for key_hash in dict.fromkeys(key_hashes) if clean_text(key_hash) in deleted]

        return await self._audited.write(actor, delete)


async def lineage(connection: AsyncConnection, key_hash: str) -> list[str]:
    """The hashes that the key had before it was regenerated, oldest first, without its own."""
    earlier = earlier_hashes.c
    statement = sa.select(earlier.hash).where(earlier.key_hash == key_hash).order_by(earlier.replaced_at, earlier.hash)
    return list(await connection.scalars(statement))


async def remove(journal: Journal, condition: sa.ColumnElement[bool]) -> list[str]:
    """Delete the keys that meet the condition; their hashes."""
    doomed = sa.select(*KEY_COLUMNS).where(condition).order_by(table.c.hash).limit(_DELETED_AT_ONCE).with_for_update()
    connection, removed = journal.connection, list[str]()
    while records := [key_record(row) for row in await connection.execute(doomed)]:
        hashes = [record.hash for record in records]
        await connection.execute(sa.delete(table).where(among(connection, table.c.hash, hashes)))
        await connection.execute(sa.delete(earlier_hashes).where(among(connection, earlier_hashes.c.key_hash, hashes)))
        await journal.add([Note("deleted", record, None) for record in records])
        removed += hashes
    return removed


# --- Writing --------------------------------------------------------------------------------------------------------


async def _taken(connection: AsyncConnection, key_hash: str) -> str:
    """What kept a row with this hash from being inserted."""
    there = await connection.scalar(sa.select(table.c.hash).where(table.c.hash == key_hash))
    return "alias" if there is None else "hash"


async def _replace(journal: Journal, before: KeyRecord, after: KeyRecord) -> str:
    """Write the row anew; what another key has already, and then nothing is written."""
    connection, moves = journal.connection, after.hash != before.hash
    if moves and await _current_hash(connection, after.hash) not in (None, before.hash):
        return "hash"
    update = sa.update(table).where(table.c.hash == before.hash).values(key_row(after))
    try:
        async with connection.begin_nested():
            await connection.execute(update)
    except sa.exc.IntegrityError:
        return await _taken(connection, after.hash) if moves else "alias"
    if moves:
        await _move_lineage(journal, before.hash, after.hash)
    return ""


async def _current_hash(connection: AsyncConnection, key_hash: str) -> str | None:
    """Of the key that had this hash before it was regenerated."""
    earlier = earlier_hashes.c
    found: str | None = await connection.scalar(sa.select(earlier.key_hash).where(earlier.hash == key_hash))
    return found


async def _move_lineage(journal: Journal, old: str, new: str) -> None:
    connection, earlier = journal.connection, earlier_hashes.c
    await connection.execute(sa.update(earlier_hashes).where(earlier.key_hash == old).values(key_hash=new))
    await connection.execute(sa.delete(earlier_hashes).where(earlier.hash == new))  # it goes back to one it had
    row = {"hash": old, "key_hash": new, "replaced_at": journal.now}
    await connection.execute(sa.insert(earlier_hashes).values(row))


# --- Reading --------------------------------------------------------------------------------------------------------


def _filters(connection: AsyncConnection, query: KeyQuery) -> list[sa.ColumnElement[bool]]:
    equal = {table.c.alias: query.alias, table.c.team_id: query.team, table.c.created_by: query.created_by}
    conditions = [column == value for column, value in equal.items() if value is not None]
    if query.hashes:
        conditions.append(among(connection, table.c.hash, query.hashes))
    whose = [] if query.user is None else [table.c.user_id == query.user]
    if query.teams:
        whose.append(among(connection, table.c.team_id, query.teams))
    if whose:
        conditions.append(sa.or_(*whose))
    if query.text:
        conditions.append(containing(table, query.text))
    if query.expired is not None:
        expired = sa.func.coalesce(table.c.expires_at <= query.now, sa.false())
        conditions.append(expired if query.expired else sa.not_(expired))
    if query.blocked is not None:
        conditions.append(table.c.blocked.is_(query.blocked))
    return conditions


def _order(query: KeyQuery) -> list[sa.ColumnElement[Any]]:
    if query.sort not in _SORTS:
        raise InvalidRequest(
            f"keys cannot be sorted by {query.sort[:50]!r}: expected one of {', '.join(_SORTS)}", param="sort_by"
        )
    column = table.c[query.sort]
    if query.descending:
        first = column.desc().nulls_first() if column.nullable else column.desc()
        return [first, table.c.hash.desc()]
    return [column.asc().nulls_last() if column.nullable else column.asc(), table.c.hash.asc()]


_PARTS = [directory.alias(name) for name in ("named_user", "named_team", "named_member")]


def _resolve() -> sa.Select[Any]:
    """The key's row with the rows of its user, team and member beside it, once for each budget that they name."""
    user, team, member = _PARTS
    budget = directory.alias("budget")
    named = [part.c.fields["budget_id"].as_string() for part in (table, *_PARTS)]
    in_team = sa.and_(member.c.team_id == table.c.team_id, member.c.user_id == table.c.user_id)
    return (
        sa.select(*KEY_COLUMNS, *(column for part in (*_PARTS, budget) for column in columns(part, Entry)))
        .select_from(table)
        .outerjoin(user, sa.and_(user.c.kind == Kind.USER, user.c.id == table.c.user_id))
        .outerjoin(team, sa.and_(team.c.kind == Kind.TEAM, team.c.id == table.c.team_id))
        # By its id, which the primary key finds; by its parts, as a slash in one of them makes an id ambiguous.
        .outerjoin(
            member,
            sa.and_(member.c.kind == Kind.MEMBER, member.c.id == table.c.team_id + "/" + table.c.user_id, in_team),
        )
        .outerjoin(budget, sa.and_(budget.c.kind == Kind.BUDGET, budget.c.id.in_(named)))
        .where(table.c.hash == sa.bindparam("hash", type_=table.c.hash.type))
    )


_RESOLVE = _resolve()


def _resolved(rows: Sequence[sa.Row[Any]]) -> Resolved | None:
    if not rows:
        return None
    start, width = len(KEY_COLUMNS), len(ENTRY_COLUMNS)
    places = [slice(at, at + width) for at in range(start, start + 4 * width, width)]
    user, team, member = (_entry(rows[0][place]) for place in places[:3])
    budgets = [budget for row in rows if (budget := _entry(row[places[3]])) is not None]
    return Resolved(key_record(rows[0][:start]), user, team, member, {budget.id: budget for budget in budgets})


def _entry(row: Sequence[Any]) -> Entry | None:
    """None for the columns of a join that found nothing."""
    return None if row[0] is None else entry(row)
