"""The policies of keys that were used lately, and of their customers. While the store is away, they stay known.

Whoever changes something announces it (`EventLog.announce_change`), and what depends on it is forgotten within a
second; what nobody announced is found out when an entry's time is over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

from broker import policy
from broker.account_records import EntryQuery, Kind
from broker.directory_interfaces import Directory, Keys
from broker.interfaces import EventLog
from broker.policy import Customer as Customer
from broker.policy import Policy as Policy
from shared.clock import Clock
from shared.errors import InvalidKey, NoDatabase, Unavailable
from shared.management import Management

_UNKNOWN_TTL = 5.0  # seconds that the store is not asked again for a key that it did not have
_AWAY_TTL = 5.0  # seconds that the store is not asked again for what is known, after it was away
_MOST = 10_000  # keys, refused keys, and customers

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    fresh_until: float
    """Monotonic seconds."""


class _Memory(Generic[T]):
    """By name; the oldest goes when there are too many."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str, _Entry[T]] = {}

    def put(self, name: str, value: T, fresh_until: float) -> None:
        self.entries.pop(name, None)
        while len(self.entries) >= _MOST:
            del self.entries[next(iter(self.entries))]
        self.entries[name] = _Entry(value, fresh_until)

    def forget(self, about: Callable[[str, T], bool]) -> None:
        for name in [name for name, entry in self.entries.items() if about(name, entry.value)]:
            del self.entries[name]

    def doubt(self) -> None:
        """They are to be asked for again, and stay known while nobody answers."""
        for entry in self.entries.values():
            entry.fresh_until = float("-inf")


class PolicyCache:
    def __init__(
        self,
        keys: Keys,
        directory: Directory,
        clock: Clock,
        event_log: EventLog,
        management: Management | None = None,
        master: str = "",
    ) -> None:
        """`master` is the master key's SHA-256 in hex; empty while the broker runs open."""
        self._keys = keys
        self._directory = directory
        self._clock = clock
        self._management = management or Management()
        self._ttl = self._management.user_api_key_cache_ttl
        self.master = policy.master(master, self._management)
        self._known: _Memory[Policy] = _Memory()
        self._refused: _Memory[Policy | None] = _Memory()  # apart, so that guessing keys pushes no good one out
        self._customers: _Memory[Customer | None] = _Memory()
        self._any_customers: _Entry[bool] | None = None
        self._changes = 0
        event_log.on_change(self.forget)

    def fresh(self, digest: str) -> Policy | None:
        """The key's policy; None when the store must be asked. Jobs without a key, accepted while the broker ran open,
        are the master key's. Raises `InvalidKey` and its kinds: the key is unknown, blocked or expired."""
        if not digest or digest == self.master.key:
            return self.master
        entry = self._known.entries.get(digest) or self._refused.entries.get(digest)
        if entry is None or entry.fresh_until < self._clock.monotonic():
            return None
        return self._usable(entry.value)

    async def look_up(self, digest: str) -> Policy:
        """The key's policy, from the store if need be. Raises what `fresh` does, and `NoDatabase` when the store is
        away and the key is not known."""
        if (known := self.fresh(digest)) is not None:
            return known
        changes = self._changes
        try:
            found = await self._keys.resolve(digest)
        except Unavailable as error:
            stale = self._known.entries.get(digest)
            if stale is None:
                raise NoDatabase(f"The key cannot be looked up: {error.message}") from error
            stale.fresh_until = self._clock.monotonic() + _AWAY_TTL
            return self._usable(stale.value)
        value = None if found is None else policy.resolve(found, self._management)
        usable = value is not None and value.refusal(self._clock.now()) is None
        ttl = self._ttl if value is not None else min(self._ttl, _UNKNOWN_TTL)
        # What changed meanwhile may have been read as it was before: it is good for this one request.
        until = self._clock.monotonic() + ttl if changes == self._changes else float("-inf")
        self._drop(digest)
        if value is not None and usable:
            self._known.put(digest, value, until)
        else:
            self._refused.put(digest, value, until)
        return self._usable(value)

    async def customer(self, id: str) -> Customer | None:
        """None for an end user of whom nothing is known and whom nothing limits, as most are. While the store is away
        one that is not remembered is let go: for budgets of customers it must answer anyway."""
        entry = self._customers.entries.get(id)
        if entry is not None and entry.fresh_until >= self._clock.monotonic():
            return entry.value
        changes, ttl = self._changes, self._ttl
        try:
            value = await self._find_customer(id)
        except Unavailable:
            value = entry.value if entry is not None else policy.customer(id, None, None, self._management)
            ttl = _AWAY_TTL
        self._customers.put(id, value, self._clock.monotonic() + ttl if changes == self._changes else float("-inf"))
        return value

    def forget(self, subject: str) -> None:
        """Something about the subject (as in `EventLog.announce_change`) changed; empty: perhaps anything. A key may be
        named by its hash alone."""
        self._changes += 1
        self._any_customers = None
        if subject in ("", "models"):
            for memory in (self._known, self._refused, self._customers):
                memory.doubt()
            return
        self._drop(subject.removeprefix("key:"))
        self._known.forget(lambda _, value: subject in value.depends_on)
        self._refused.forget(lambda _, value: value is not None and subject in value.depends_on)
        self._customers.forget(
            lambda id, value: subject == f"customer:{id}" or (value is not None and subject in value.depends_on)
        )

    async def _find_customer(self, id: str) -> Customer | None:
        default = self._management.max_end_user_budget_id
        entry = await self._directory.get(Kind.CUSTOMER, id) if await self._has_customers() else None
        named = str((entry.fields.get("budget_id") if entry is not None else None) or default)
        budget = await self._directory.get(Kind.BUDGET, named) if named else None
        return policy.customer(id, entry, budget, self._management)

    async def _has_customers(self) -> bool:
        """Clients name end users whether or not the operator knows any; where there is none, each need not be looked
        up."""
        known, now = self._any_customers, self._clock.monotonic()
        if known is None or known.fresh_until < now:
            changes = self._changes
            known = _Entry(await self._directory.count(EntryQuery(Kind.CUSTOMER)) > 0, now + self._ttl)
            if changes == self._changes:
                self._any_customers = known
        return known.value

    def _drop(self, digest: str) -> None:
        self._known.entries.pop(digest, None)
        self._refused.entries.pop(digest, None)

    def _usable(self, value: Policy | None) -> Policy:
        if value is None:
            raise InvalidKey("Authentication Error, Invalid API key provided.", param="key")
        if (refusal := value.refusal(self._clock.now())) is not None:
            raise refusal
        return value


def hashed(key: str) -> str:
    """What is kept of a key: its SHA-256 in hex."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
