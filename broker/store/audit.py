"""The audit: who did what to what. Whoever changes something writes it down here, in the same transaction."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.account_records import Actor, AuditQuery, AuditRecord, Entry, Kind
from broker.records import KeyRecord
from broker.store.account_rows import page
from broker.store.directory_tables import audit as table
from broker.store.directory_tables import directory_versions
from broker.store.paging import Order, upsert
from broker.store.transactions import Transactions
from shared.config_keys import is_secret
from shared.ids import uuid7

_ORDER = Order(table, "at", "id")
_HIDDEN = "***"

T = TypeVar("T")
R = TypeVar("R", KeyRecord, Entry)


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a key or an entry: None before for what was created, None after for what was deleted."""

    action: str
    before: KeyRecord | Entry | None
    after: KeyRecord | Entry | None


class Journal:
    """A transaction that writes down what it does."""

    def __init__(self, connection: AsyncConnection, actor: Actor, now: float) -> None:
        self.connection = connection
        self.now = now
        self.first = ""
        """The id of its first record; empty when nothing was done."""
        self._actor = actor
        self._kinds: set[str] = set()

    def stamped(self, before: R, after: R) -> R:
        """`after` with the time and the actor of the change, unless whoever changed it set a time."""
        if after.updated_at != before.updated_at:
            return after
        return replace(after, updated_at=self.now, updated_by=self._actor.id)

    async def add(self, notes: Sequence[Note]) -> None:
        """These must be what is stored, or was."""
        if not notes:
            return
        rows = [self._row(note) for note in notes]
        await self.connection.execute(sa.insert(table), rows)
        self.first = self.first or rows[0]["id"]
        self._kinds.update(row["subject_table"] for row in rows)

    async def close(self) -> None:
        """Every kind that was touched has a new version. Nothing may follow in the transaction: who waits for a version
        here holds all rows that it needs, so two never wait for each other."""
        for kind in sorted(self._kinds.intersection(Kind)):
            statement = upsert(self.connection, directory_versions).values(kind=kind, version=1)
            more = {"version": directory_versions.c.version + 1}
            await self.connection.execute(statement.on_conflict_do_update(index_elements=["kind"], set_=more))

    def _row(self, note: Note) -> dict[str, Any]:
        kind, subject = _subject(note.after or note.before)
        return {
            "id": uuid7(),
            "at": self.now,
            "actor_id": self._actor.id,
            "actor_key": self._actor.key,
            "address": self._actor.address,
            "action": note.action,
            "subject_table": kind,
            "subject": subject,
            "before": _described(note.before),
            "after": _described(note.after),
        }


class AuditedTransactions:
    """Transactions with a journal."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._now = now

    async def write(self, actor: Actor, work: Callable[[Journal], Awaitable[T]]) -> T:
        """Do the work once, even when its connection dies while it commits: its first record then tells whether it was
        done."""
        unconfirmed: list[tuple[str, T]] = []

        async def run(connection: AsyncConnection) -> T:
            if unconfirmed and await _exists(connection, unconfirmed[-1][0]):
                return unconfirmed[-1][1]
            unconfirmed.clear()
            journal = Journal(connection, actor, self._now())
            result = await work(journal)
            await journal.close()
            if journal.first:
                unconfirmed.append((journal.first, result))
            return result

        return await self._transactions.write(run)


async def find(connection: AsyncConnection, query: AuditQuery) -> list[AuditRecord]:
    """Newest first; from `start` up to, and not including, `end`."""
    limit = page(0, query.limit)[1]
    statement = _ORDER.page(limit, limit).where(*_filters(query))
    if query.after is not None:
        statement = statement.where(_ORDER.beyond(query.after))
    return [_record(row) for row in await connection.execute(statement)]


def _filters(query: AuditQuery) -> list[sa.ColumnElement[bool]]:
    equal = {
        table.c.id: query.id,
        table.c.actor_id: query.actor,
        table.c.action: query.action,
        table.c.subject_table: query.table,
        table.c.subject: query.subject,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if query.start is not None:
        conditions.append(table.c.at >= query.start)
    if query.end is not None:
        conditions.append(table.c.at < query.end)
    return conditions


def _record(row: sa.Row[Any]) -> AuditRecord:
    return AuditRecord(
        id=row.id,
        at=row.at,
        actor=Actor(row.actor_id, row.actor_key, row.address),
        action=row.action,
        table=row.subject_table,
        subject=row.subject,
        before=row.before,
        after=row.after,
    )


async def _exists(connection: AsyncConnection, id: str) -> bool:
    return await connection.scalar(sa.select(table.c.id).where(table.c.id == id)) is not None


# --- What a record shows --------------------------------------------------------------------------------------------


def _subject(record: KeyRecord | Entry | None) -> tuple[str, str]:
    match record:
        case KeyRecord():
            return "key", record.hash
        case Entry():
            return record.kind.value, record.id
    raise ValueError("a note of nothing: it has neither a before nor an after")


def _described(record: KeyRecord | Entry | None) -> dict[str, Any] | None:
    """Its fields, without secrets."""
    if record is None:
        return None
    values = {name: getattr(record, name) for name in record.__slots__}
    if isinstance(record, KeyRecord):
        values["metadata"] = _without_secrets(record.metadata)
    values["fields"] = fields = _without_secrets(record.fields)
    if isinstance(record, Entry) and record.kind is Kind.MODEL and "litellm_params" in fields:
        fields["litellm_params"] = _hidden(fields["litellm_params"])  # every text in there is encrypted
    return values


def _without_secrets(value: Any) -> Any:
    """With `***` for the texts that may be secrets by their names."""
    match value:
        case Mapping():
            return {name: _hidden(each) if is_secret(name) else _without_secrets(each) for name, each in value.items()}
        case list():
            return [_without_secrets(each) for each in value]
    return value


def _hidden(value: Any) -> Any:
    """With `***` for every text."""
    match value:
        case str():
            return _HIDDEN
        case Mapping():
            return {name: _hidden(each) for name, each in value.items()}
        case list():
            return [_hidden(each) for each in value]
    return value
