"""The store's parts for callers and money, in memory: `Keys`, `Directory` and a `Bill` that a test writes itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from broker.account_records import (
    Actor,
    AuditQuery,
    AuditRecord,
    Entry,
    EntryQuery,
    KeyQuery,
    Kind,
    Removed,
    Resolved,
)
from broker.records import KeyRecord
from broker.spend_records import Activity, ActivityQuery, Subject
from broker.store_interfaces import Store
from shared.clock import Clock, SystemClock
from shared.errors import Unavailable
from shared.ids import uuid7


@dataclass
class FakeStore:
    """A store whose keys, directory and bill are these; everything else is the real one's."""

    real: Store
    clock: Clock = field(default_factory=SystemClock)
    keys: "FakeKeys" = field(init=False)
    directory: "FakeDirectory" = field(init=False)
    bill: "FakeBill" = field(init=False)

    def __post_init__(self) -> None:
        self.keys = FakeKeys(self.clock)
        self.directory = FakeDirectory(self.clock, self.keys)
        self.keys.directory = self.directory
        self.bill = FakeBill()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def audited(self) -> list[AuditRecord]:
        """Everything that was done, in order."""
        return self.directory.records


class FakeKeys:
    """A `broker.directory_interfaces.Keys`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[str, KeyRecord] = {}
        self.away = False
        """The database cannot be reached."""
        self.directory: FakeDirectory

    async def add(self, record: KeyRecord, actor: Actor) -> str:
        self._reach()
        taken = self._taken(record, None)
        if not taken:
            self.rows[record.hash] = record
            self.directory.note(actor, "created", "key", record.hash, None, record)
        return taken

    async def get(self, key_hash: str) -> KeyRecord | None:
        self._reach()
        return self.rows.get(key_hash)

    async def resolve(self, key_hash: str) -> Resolved | None:
        self._reach()
        key = self.rows.get(key_hash)
        if key is None:
            return None
        there = self.directory.rows
        user, team = there.get((Kind.USER, key.user)), there.get((Kind.TEAM, key.team))
        member = there.get((Kind.MEMBER, f"{key.team}/{key.user}"))
        named = {str(each.fields.get("budget_id")) for each in (key, user, team, member) if each}
        budgets = {id: there[Kind.BUDGET, id] for id in named if (Kind.BUDGET, id) in there}
        return Resolved(key, user, team, member, budgets)

    async def find(self, query: KeyQuery) -> list[KeyRecord]:
        self._reach()
        rows = sorted(self._matching(query), key=lambda row: row.hash)
        rows.sort(key=lambda row: getattr(row, query.sort) or 0 if query.sort != "alias" else row.alias)
        if query.descending:
            rows.reverse()
        return rows[query.offset : query.offset + query.limit]

    async def count(self, query: KeyQuery) -> int:
        self._reach()
        return len(list(self._matching(query)))

    async def change(
        self, key_hash: str, change: Callable[[KeyRecord], KeyRecord], actor: Actor, action: str = "updated"
    ) -> tuple[KeyRecord | None, str]:
        self._reach()
        before = self.rows.get(key_hash)
        if before is None:
            return None, ""
        after = change(before)
        taken = self._taken(after, before)
        if taken:
            return before, taken
        del self.rows[key_hash]
        self.rows[after.hash] = after
        self.directory.note(actor, action, "key", after.hash, before, after)
        return after, ""

    async def delete(self, key_hashes: Sequence[str], actor: Actor) -> list[str]:
        self._reach()
        there = [each for each in key_hashes if each in self.rows]
        for each in there:
            self.directory.note(actor, "deleted", "key", each, self.rows.pop(each), None)
        return there

    def _reach(self) -> None:
        if self.away:
            raise Unavailable("the fake database is away")

    def _taken(self, record: KeyRecord, before: KeyRecord | None) -> str:
        others = [row for row in self.rows.values() if row is not before]
        if any(row.hash == record.hash for row in others):
            return "hash"
        return "alias" if record.alias and any(row.alias == record.alias for row in others) else ""

    def _matching(self, query: KeyQuery) -> Iterator[KeyRecord]:
        text = (query.text or "").lower()
        for row in self.rows.values():
            whose = query.user is None or row.user == query.user
            if query.teams:
                whose = (query.user is not None and row.user == query.user) or row.team in query.teams
            expired = row.expires_at is not None and row.expires_at <= query.now
            if (
                whose
                and (not query.hashes or row.hash in query.hashes)
                and (query.alias is None or row.alias == query.alias)
                and (query.team is None or row.team == query.team)
                and (query.created_by is None or row.created_by == query.created_by)
                and (query.expired is None or expired == query.expired)
                and (query.blocked is None or row.blocked == query.blocked)
                and (text in row.alias.lower() or text in row.hash)
            ):
                yield row


class FakeDirectory:
    """A `broker.directory_interfaces.Directory`."""

    def __init__(self, clock: Clock, keys: FakeKeys) -> None:
        self.clock = clock
        self.keys = keys
        self.rows: dict[tuple[Kind, str], Entry] = {}
        self.records: list[AuditRecord] = []
        self.versions: dict[Kind, int] = {}

    async def add(self, entries: Sequence[Entry], actor: Actor) -> list[str]:
        taken = [entry.id for entry in entries if (entry.kind, entry.id) in self.rows]
        if not taken:
            for entry in entries:
                self.rows[entry.kind, entry.id] = entry
                self.note(actor, "created", entry.kind, entry.id, None, entry)
        return taken

    async def get(self, kind: Kind, id: str) -> Entry | None:
        return self.rows.get((kind, id))

    async def find(self, query: EntryQuery) -> list[Entry]:
        rows = sorted(self._matching(query), key=lambda row: (row.created_at, row.id), reverse=query.newest_first)
        return rows[query.offset : query.offset + query.limit]

    async def count(self, query: EntryQuery) -> int:
        return len(list(self._matching(query)))

    async def change(
        self, kind: Kind, id: str, change: Callable[[Entry], Entry], actor: Actor, action: str = "updated"
    ) -> Entry | None:
        before = self.rows.get((kind, id))
        if before is None:
            return None
        after = change(before)
        self.rows[kind, id] = after
        self.note(actor, action, kind, id, before, after)
        return after

    async def remove(self, kind: Kind, ids: Sequence[str], actor: Actor) -> Removed:
        gone: list[str] = []
        keys: list[str] = []
        for id in ids:
            entry = self.rows.pop((kind, id), None)
            if entry is None:
                continue
            gone.append(id)
            self.note(actor, "deleted", kind, id, entry, None)
            for member in [row for row in self.rows.values() if _goes_with(row, entry)]:
                del self.rows[member.kind, member.id]
                self.note(actor, "deleted", member.kind, member.id, member, None)
            keys += await self.keys.delete([row.hash for row in self.keys.rows.values() if _opens(row, entry)], actor)
        return Removed(tuple(gone), tuple(keys))

    async def version(self, kind: Kind) -> str:
        return str(self.versions.get(kind, 0))

    async def audit(self, query: AuditQuery) -> list[AuditRecord]:
        wanted = {"actor.id": query.actor, "action": query.action, "table": query.table, "subject": query.subject}
        rows = [
            row
            for row in reversed(self.records)
            if (query.id is None or row.id == query.id)
            and all(value is None or _deep(row, name) == value for name, value in wanted.items())
            and (query.start is None or row.at >= query.start)
            and (query.end is None or row.at < query.end)
        ]
        ids = [row.id for row in rows]
        first = 0 if query.after is None else ids.index(query.after) + 1
        return rows[first : first + query.limit]

    def note(self, actor: Actor, action: str, table: str, subject: str, before: Any, after: Any) -> None:
        now = self.clock.now()
        self.records.append(
            AuditRecord(uuid7(), now, actor, action, str(table), subject, _values(before), _values(after))
        )
        if table != "key":
            self.versions[Kind(table)] = self.versions.get(Kind(table), 0) + 1

    def _matching(self, query: EntryQuery) -> Iterator[Entry]:
        text = (query.text or "").lower()
        for (kind, id), row in self.rows.items():
            if (
                kind is query.kind
                and (not query.ids or id in query.ids)
                and (query.team is None or row.team == query.team)
                and (query.user is None or row.user == query.user)
                and (text in id.lower() or text in row.alias.lower())
                and (query.field is None or row.fields.get(query.field[0]) == query.field[1])
            ):
                yield row


class FakeBill:
    """A `broker.directory_interfaces.Bill` over rows of (account, seconds since the epoch, nano-dollars)."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []
        self.activities: list[Activity] = []
        """What `activity` answers, whatever it is asked."""
        self.asked: list[ActivityQuery] = []

    async def spent(self, account: str, start: float, end: float) -> int:
        return sum(cost for whose, at, cost in self.rows if whose == account and start <= at < end)

    async def totals(self, subject: Subject, ids: Sequence[str], start: float = 0.0) -> Mapping[str, int]:
        sums = {id: await self.spent(f"{subject}:{id}", start - start % 86_400, float("inf")) for id in ids}
        return {id: cost for id, cost in sums.items() if cost}

    async def activity(self, query: ActivityQuery) -> list[Activity]:
        self.asked.append(query)
        return self.activities


def _goes_with(row: Entry, gone: Entry) -> bool:
    if row.kind is not Kind.MEMBER:
        return False
    return (gone.kind is Kind.TEAM and row.team == gone.id) or (gone.kind is Kind.USER and row.user == gone.id)


def _opens(row: KeyRecord, gone: Entry) -> bool:
    match gone.kind:
        case Kind.TEAM:
            return row.team == gone.id
        case Kind.USER:
            return row.user == gone.id
        case Kind.MEMBER:
            return (row.team, row.user) == (gone.team, gone.user)
    return False


def _deep(row: AuditRecord, name: str) -> Any:
    value: Any = row
    for step in name.split("."):
        value = getattr(value, step)
    return value


def _values(row: KeyRecord | Entry | None) -> dict[str, Any] | None:
    return None if row is None else {each.name: getattr(row, each.name) for each in fields(row)}
