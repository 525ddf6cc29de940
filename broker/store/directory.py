"""Users, teams, members, budgets, customers and models: one table for all kinds."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.account_records import Actor, AuditQuery, AuditRecord, Entry, EntryQuery, Kind, Removed
from broker.store import audit, keys
from broker.store.account_rows import ENTRY_COLUMNS, clean_text, containing, entry, entry_row, page, storable_entry
from broker.store.audit import AuditedTransactions, Journal, Note
from broker.store.bulk import among, clean
from broker.store.directory_tables import directory as table
from broker.store.directory_tables import directory_versions
from broker.store.directory_tables import keys as key_table
from broker.store.paging import upsert
from broker.store.transactions import Transactions

_DELETED_AT_ONCE = 500  # entries whose rows are in memory for the audit


class DirectoryStore:
    """A `broker.directory_interfaces.Directory`."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._audited = AuditedTransactions(transactions, now)

    async def add(self, entries: Sequence[Entry], actor: Actor) -> list[str]:
        new = [storable_entry(each) for each in entries]
        places = [(each.kind, each.id) for each in new]
        if twice := [id for (_, id), times in Counter(places).items() if times > 1]:
            return twice

        async def add(journal: Journal) -> list[str]:
            added = await _insert(journal.connection, new)
            taken = [given.id for given, place in zip(entries, places, strict=True) if place not in added]
            if not taken:
                await journal.add([Note("created", None, each) for each in new])
            return taken

        return await self._audited.write(actor, add) if new else []

    async def get(self, kind: Kind, id: str) -> Entry | None:
        statement = sa.select(*ENTRY_COLUMNS).where(table.c.kind == kind, table.c.id == id)

        async def get(connection: AsyncConnection) -> Entry | None:
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else entry(row)

        return await self._transactions.read_at_once(get)

    async def find(self, query: EntryQuery) -> list[Entry]:
        offset, limit = page(query.offset, query.limit)
        order = [table.c.created_at, table.c.id]
        ordered = sa.select(*ENTRY_COLUMNS).offset(offset).limit(limit)
        ordered = ordered.order_by(*(column.desc() if query.newest_first else column.asc() for column in order))

        async def find(connection: AsyncConnection) -> list[Entry]:
            return [entry(row) for row in await connection.execute(ordered.where(*_filters(connection, query)))]

        return await self._transactions.read_at_once(find)

    async def count(self, query: EntryQuery) -> int:
        async def count(connection: AsyncConnection) -> int:
            statement = sa.select(sa.func.count()).select_from(table).where(*_filters(connection, query))
            return int(await connection.scalar(statement) or 0)

        return await self._transactions.read_at_once(count)

    async def change(
        self, kind: Kind, id: str, change: Callable[[Entry], Entry], actor: Actor, action: str = "updated"
    ) -> Entry | None:
        """Sets `updated_at` and `updated_by` unless `change` does. Raises `ValueError` when it gives another kind or
        id."""
        place = sa.and_(table.c.kind == kind, table.c.id == id)
        statement = sa.select(*ENTRY_COLUMNS).where(place).with_for_update()

        async def work(journal: Journal) -> Entry | None:
            row = (await journal.connection.execute(statement)).one_or_none()
            if row is None:
                return None
            before = entry(row)
            after = storable_entry(journal.stamped(before, change(before)))
            if (after.kind, after.id) != (before.kind, before.id):
                raise ValueError(f"{kind} {id!r} cannot become {after.kind} {after.id!r}: remove it and add the other")
            await journal.connection.execute(sa.update(table).where(place).values(entry_row(after)))
            await journal.add([Note(action, before, after)])
            return after

        return await self._audited.write(actor, work)

    async def remove(self, kind: Kind, ids: Sequence[str], actor: Actor) -> Removed:
        async def remove(journal: Journal) -> Removed:
            connection = journal.connection
            wanted = sa.and_(table.c.kind == kind, among(connection, table.c.id, ids))
            locked = sa.select(table.c.id).where(wanted).order_by(table.c.id).with_for_update()
            there = list(await connection.scalars(locked))
            if not there:
                return Removed(())
            hashes = await _remove_dependents(journal, kind, there)
            await _remove(journal, sa.and_(table.c.kind == kind, among(connection, table.c.id, there)))
            found = frozenset(there)
            return Removed(tuple(id for id in dict.fromkeys(ids) if clean_text(id) in found), tuple(hashes))

        return await self._audited.write(actor, remove)

    async def version(self, kind: Kind) -> str:
        """Ask for it before the entries: what changes in between then shows the next time."""
        statement = sa.select(directory_versions.c.version).where(directory_versions.c.kind == kind)
        return str(await self._transactions.read_at_once(lambda connection: connection.scalar(statement)) or 0)

    async def audit(self, query: AuditQuery) -> list[AuditRecord]:
        return await self._transactions.read_at_once(lambda connection: audit.find(connection, query))


async def _insert(connection: AsyncConnection, entries: Sequence[Entry]) -> set[tuple[str, str]]:
    """Those that were not there; none stays unless all do."""
    # Sorted, so that two never wait for each other in a circle.
    rows = sorted(map(entry_row, entries), key=lambda row: (row["kind"], row["id"]))
    statement = upsert(connection, table).on_conflict_do_nothing().returning(table.c.kind, table.c.id)
    attempt = await connection.begin_nested()
    added = {(kind, id) for kind, id in await connection.execute(statement, rows)}
    await (attempt.commit() if len(added) == len(rows) else attempt.rollback())
    return added


async def _remove_dependents(journal: Journal, kind: Kind, ids: Sequence[str]) -> list[str]:
    """What goes with them; the hashes of the keys among it."""
    connection = journal.connection
    match kind:
        case Kind.TEAM:
            members, owned = table.c.team_id, key_table.c.team_id
        case Kind.USER:
            members, owned = table.c.user_id, key_table.c.user_id
        case Kind.MEMBER:
            theirs = sa.exists().where(
                table.c.kind == Kind.MEMBER,
                among(connection, table.c.id, ids),
                table.c.team_id == key_table.c.team_id,
                table.c.user_id == key_table.c.user_id,
            )
            return await keys.remove(journal, theirs)
        case _:
            return []
    await _remove(journal, sa.and_(table.c.kind == Kind.MEMBER, among(connection, members, ids)))
    return await keys.remove(journal, among(connection, owned, ids))


async def _remove(journal: Journal, condition: sa.ColumnElement[bool]) -> None:
    connection = journal.connection
    doomed = sa.select(*ENTRY_COLUMNS).where(condition).order_by(table.c.id).limit(_DELETED_AT_ONCE).with_for_update()
    while entries := [entry(row) for row in await connection.execute(doomed)]:
        kinds, ids = {each.kind for each in entries}, [each.id for each in entries]
        these = sa.and_(table.c.kind.in_(kinds), among(connection, table.c.id, ids))
        await connection.execute(sa.delete(table).where(these))
        await journal.add([Note("deleted", each, None) for each in entries])


def _filters(connection: AsyncConnection, query: EntryQuery) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [table.c.kind == query.kind]
    if query.ids:
        conditions.append(among(connection, table.c.id, query.ids))
    if query.team is not None:
        conditions.append(table.c.team_id == query.team)
    if query.user is not None:
        conditions.append(table.c.user_id == query.user)
    if query.text:
        conditions.append(containing(table, query.text))
    if query.field is not None:
        conditions.append(_field_is(connection, *clean(query.field)))
    return conditions


def _field_is(connection: AsyncConnection, name: str, text: str) -> sa.ColumnElement[bool]:
    """Name and text are both parameters: a path into the JSON would have to be quoted."""
    if connection.dialect.name == "postgresql":
        return table.c.fields.op("@>")(sa.cast({name: text}, postgresql.JSONB))
    each = sa.func.json_each(table.c.fields).table_valued("key", "value", "type")
    return sa.exists().where(each.c.key == name, each.c.type == "text", each.c.value == text)
