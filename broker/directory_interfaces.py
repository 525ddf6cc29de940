"""The store's parts for callers and money: keys, the directory of users, teams and the like, and the bill. Promises as
in `broker.store_interfaces`.

A change and its audit record are one transaction. `change` functions get what is there now, under a lock, and return
what shall be there; they may raise, and then nothing happens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

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
from broker.records import KeyRecord, SpendQuery
from broker.spend_records import Activity, ActivityQuery, Subject


class Keys(Protocol):
    """`fields`, `metadata` and the like are bounded by whoever calls: 64 KiB of JSON together."""

    async def add(self, record: KeyRecord, actor: Actor) -> str:
        """Empty when it was added, else what another key has already: `hash` or `alias`. Aliases are unique unless
        they are empty."""
        ...

    async def get(self, key_hash: str) -> KeyRecord | None: ...

    async def resolve(self, key_hash: str) -> Resolved | None:
        """In one round trip: it is on the way of every request whose key is not in memory."""
        ...

    async def find(self, query: KeyQuery) -> list[KeyRecord]: ...

    async def count(self, query: KeyQuery) -> int:
        """How many `find` would give without offset and limit."""
        ...

    async def change(
        self, key_hash: str, change: Callable[[KeyRecord], KeyRecord], actor: Actor, action: str = "updated"
    ) -> tuple[KeyRecord | None, str]:
        """The record as it is then, and what stood in the way as in `add`; None when there is no such key. A changed
        `hash` moves the key (regenerated): spend of the old hash is counted for the new one too (see `Bill.spent`)."""
        ...

    async def delete(self, key_hashes: Sequence[str], actor: Actor) -> list[str]:
        """Those that were there."""
        ...


class Directory(Protocol):
    async def add(self, entries: Sequence[Entry], actor: Actor) -> list[str]:
        """All of them, or none and the ids that are taken."""
        ...

    async def get(self, kind: Kind, id: str) -> Entry | None: ...

    async def find(self, query: EntryQuery) -> list[Entry]: ...

    async def count(self, query: EntryQuery) -> int: ...

    async def change(
        self, kind: Kind, id: str, change: Callable[[Entry], Entry], actor: Actor, action: str = "updated"
    ) -> Entry | None:
        """The entry as it is then; None when there is none."""
        ...

    async def remove(self, kind: Kind, ids: Sequence[str], actor: Actor) -> Removed:
        """Those that were there, and what goes with them: of a team its members and keys, of a user its memberships
        and keys, of a member the user's keys in that team."""
        ...

    async def version(self, kind: Kind) -> str:
        """Changes whenever an entry of the kind was added, changed or removed; cheap."""
        ...

    async def audit(self, query: AuditQuery) -> list[AuditRecord]:
        """Newest first."""
        ...


class Bill(Protocol):
    """Sums over the ledger, from rollups by UTC day that `Store.record` keeps in the same transaction."""

    async def spent(self, account: str, start: float, end: float) -> int:
        """Nano-dollars of committed rows that began in this time and count towards the account (its id as
        `shared.accounts` makes it). Rollups for whole days, the ledger for the rest. Of a regenerated key the rows of
        its earlier hashes count as well."""
        ...

    async def totals(self, subject: Subject, ids: Sequence[str], start: float = 0.0) -> Mapping[str, int]:
        """Nano-dollars by id, since the day of `start`; ids without rows are left out. Earlier hashes of a key count as
        in `spent`."""
        ...

    async def activity(self, query: ActivityQuery) -> list[Activity]:
        """Sums by day and whatever else the query groups by, newest day first. Of keys that `ids` or `key` name, those
        of earlier hashes are among them. Raises `InvalidRequest` for what the subject has no sums by (see `Dimension`),
        and when there would be more than 100,000 of them."""
        ...

    async def count(self, query: SpendQuery, most: int = 100_000) -> int:
        """How many rows `Store.spend` would give without offset and limit, counted up to `most` and not beyond."""
        ...

    async def purge(self, older_than: float, limit: int) -> int:
        """Delete rows of the ledger that began before `older_than`, the oldest first, at most `limit` of them, and the
        prompts kept with them; how many. Sums by day stay. What `spent` takes from the ledger, the parts of days at
        both ends of its time, is then missing there: keep rows for longer than the longest budget lasts."""
        ...
