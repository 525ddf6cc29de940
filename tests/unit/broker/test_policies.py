"""What is remembered of keys and customers, for how long, and what makes it be forgotten."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from broker import policies
from broker.account_records import Entry, EntryQuery, Kind, Resolved
from broker.events.memory import MemoryEventLog
from broker.policies import PolicyCache, hashed
from broker.records import KeyRecord
from shared.errors import InvalidKey, KeyBlocked, KeyExpired, NoDatabase, Unavailable
from shared.management import Management
from tests.fakes.clock import FakeClock

RECORD = KeyRecord("h", "sk-...abcd", user="u", team="t")
MASTER = hashed("sk-master")


class Store:
    """Keys and a directory, that can be away, and count how often they are asked."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.hash: record for record in records}
        self.entries: dict[tuple[Kind, str], Entry] = {}
        self.asked = 0
        self.away = False
        self.meanwhile = lambda: None

    def has(self, kind: Kind, id: str, **fields: Any) -> None:
        self.entries[kind, id] = Entry(kind, id, fields=fields)

    async def resolve(self, key_hash: str) -> Resolved | None:
        self._reach()
        record = self.records.get(key_hash)
        self.meanwhile()
        if record is None:
            return None
        named = record.fields.get("budget_id")
        budgets: Mapping[str, Entry] = {named: self.entries[Kind.BUDGET, named]} if named else {}
        return Resolved(record, team=self.entries.get((Kind.TEAM, record.team)), budgets=budgets)

    async def get(self, kind: Kind, id: str) -> Entry | None:
        self._reach()
        return self.entries.get((kind, id))

    async def count(self, query: EntryQuery) -> int:
        self._reach()
        return len([1 for kind, _ in self.entries if kind is query.kind])

    def _reach(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the database is away")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog()


@pytest.fixture
def store() -> Store:
    return Store(RECORD)


@pytest.fixture
def cache(store: Store, clock: FakeClock, log: MemoryEventLog) -> PolicyCache:
    return a_cache(store, clock, log)


def a_cache(store: Store, clock: FakeClock, log: MemoryEventLog, **management: Any) -> PolicyCache:
    return PolicyCache(store, store, clock, log, Management(**management), MASTER)  # type: ignore[arg-type]  # a fake


async def test_a_key_is_looked_up_once_and_then_known(cache: PolicyCache, store: Store) -> None:
    assert cache.fresh("h") is None

    policy = await cache.look_up("h")

    assert cache.fresh("h") is policy
    assert await cache.look_up("h") is policy
    assert (policy.key, policy.user, policy.team, store.asked) == ("h", "u", "t", 1)


@pytest.mark.parametrize(("ttl", "still", "over"), [(60.0, 59, 2), (5.0, 4, 2), (0.0, 0, 1)])
async def test_a_key_is_believed_for_as_long_as_the_config_says(
    store: Store, clock: FakeClock, log: MemoryEventLog, ttl: float, still: float, over: float
) -> None:
    cache = a_cache(store, clock, log, user_api_key_cache_ttl=ttl)
    await cache.look_up("h")
    store.records.clear()

    clock.advance(still)
    assert cache.fresh("h") is not None
    clock.advance(over)

    assert cache.fresh("h") is None
    with pytest.raises(InvalidKey):
        await cache.look_up("h")


async def test_an_unknown_key_does_not_bother_the_store_each_time(
    cache: PolicyCache, store: Store, clock: FakeClock
) -> None:
    for _ in range(3):
        with pytest.raises(InvalidKey, match="Invalid API key provided"):
            await cache.look_up("new")
    assert store.asked == 1
    store.records["new"] = replace(RECORD, hash="new")

    clock.advance(6)

    assert (await cache.look_up("new")).key == "new"


async def test_while_the_store_is_away_known_keys_go_on_and_unknown_ones_get_told(
    cache: PolicyCache, store: Store, clock: FakeClock
) -> None:
    policy = await cache.look_up("h")
    store.away = True
    clock.advance(3600)

    assert await cache.look_up("h") is policy
    assert cache.fresh("h") is policy, "and the store is left alone for a while"
    with pytest.raises(NoDatabase):
        await cache.look_up("unknown")


@pytest.mark.parametrize(
    ("record", "kind"),
    [(replace(RECORD, blocked=True), KeyBlocked), (replace(RECORD, expires_at=FakeClock().now()), KeyExpired)],
)
async def test_a_key_that_is_blocked_or_expired_is_refused_and_remembered(
    clock: FakeClock, log: MemoryEventLog, record: KeyRecord, kind: type[InvalidKey]
) -> None:
    store = Store(record)
    cache = a_cache(store, clock, log)

    for _ in range(2):
        with pytest.raises(kind):
            await cache.look_up("h")

    assert store.asked == 1


async def test_keys_of_a_blocked_team_are_refused(cache: PolicyCache, store: Store) -> None:
    store.has(Kind.TEAM, "t", blocked=True)

    with pytest.raises(KeyBlocked, match="Team=t"):
        await cache.look_up("h")


async def test_a_key_expires_while_it_is_remembered(clock: FakeClock, log: MemoryEventLog) -> None:
    cache = a_cache(Store(replace(RECORD, expires_at=clock.now() + 10)), clock, log)
    await cache.look_up("h")

    clock.advance(10)

    with pytest.raises(KeyExpired) as caught:
        cache.fresh("h")
    assert caught.value.param == "h"


async def test_guessing_keys_neither_fills_the_memory_nor_pushes_good_ones_out(
    cache: PolicyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_MOST", 3)
    await cache.look_up("h")

    for number in range(9):
        with pytest.raises(InvalidKey):
            await cache.look_up(f"guess {number}")

    assert len(cache._refused.entries) == 3
    assert cache.fresh("h") is not None


async def test_the_oldest_key_makes_room(
    clock: FakeClock, log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_MOST", 2)
    cache = a_cache(Store(*(replace(RECORD, hash=name) for name in "abc")), clock, log)

    for name in "abc":
        await cache.look_up(name)

    assert [cache.fresh(name) is None for name in "abc"] == [True, False, False]


@pytest.mark.parametrize("digest", ["", MASTER])
async def test_the_master_key_needs_no_store(cache: PolicyCache, store: Store, digest: str) -> None:
    policy = await cache.look_up(digest)

    assert policy is cache.fresh(digest) is cache.master
    assert (policy.role, policy.key, store.asked) == ("proxy_admin", MASTER, 0)


# Changes


@pytest.mark.parametrize(
    ("subject", "forgotten"),
    [
        ("key:h", True),
        ("h", True),
        ("user:u", True),
        ("team:t", True),
        ("member:t/u", True),
        ("budget:b", True),
        ("models", True),
        ("", True),
        ("key:other", False),
        ("user:h", False),
        ("team:u", False),
        ("budget:other", False),
        ("customer:u", False),
    ],
)
async def test_what_a_change_concerns_is_looked_up_again(
    clock: FakeClock, log: MemoryEventLog, subject: str, forgotten: bool
) -> None:
    store = Store(replace(RECORD, fields={"budget_id": "b"}))
    store.has(Kind.BUDGET, "b", rpm_limit=5)
    cache = a_cache(store, clock, log)
    await cache.look_up("h")

    await log.announce_change(subject)

    assert (cache.fresh("h") is None) is forgotten


async def test_a_deleted_key_does_not_live_on_when_the_store_goes_away(
    cache: PolicyCache, store: Store, log: MemoryEventLog
) -> None:
    await cache.look_up("h")

    await log.announce_change("key:h")
    store.away = True

    with pytest.raises(NoDatabase):
        await cache.look_up("h")


async def test_when_changes_may_have_been_missed_known_keys_go_on_without_the_store(
    cache: PolicyCache, store: Store, log: MemoryEventLog
) -> None:
    policy = await cache.look_up("h")

    await log.announce_change("")
    store.away = True

    assert await cache.look_up("h") is policy


async def test_what_changed_while_it_was_read_is_read_again_next_time(cache: PolicyCache, store: Store) -> None:
    store.meanwhile = lambda: cache.forget("key:h")

    assert (await cache.look_up("h")).key == "h"

    assert cache.fresh("h") is None


async def test_a_key_that_is_unblocked_is_usable_at_once(clock: FakeClock, log: MemoryEventLog) -> None:
    store = Store(replace(RECORD, blocked=True))
    cache = a_cache(store, clock, log)
    with pytest.raises(KeyBlocked):
        await cache.look_up("h")
    store.records["h"] = RECORD

    await log.announce_change("key:h")

    assert (await cache.look_up("h")).key == "h"


# Customers


async def test_where_no_customer_is_known_none_is_looked_up(cache: PolicyCache, store: Store) -> None:
    found = [await cache.customer(f"c{number}") for number in range(50)]

    assert set(found) == {None}
    assert store.asked == 1


async def test_a_customer_is_looked_up_once(cache: PolicyCache, store: Store) -> None:
    store.has(Kind.CUSTOMER, "c", rpm_limit=5)

    first, second = await cache.customer("c"), await cache.customer("c")
    unknown = [await cache.customer("other") for _ in range(2)]

    assert first is not None
    assert first is second
    assert [account.rpm for account in first.plans.at(0.0)] == [5]
    assert (unknown, store.asked) == ([None, None], 3)


@pytest.mark.parametrize("subject", ["customer:c", "budget:b", ""])
async def test_a_changed_customer_is_looked_up_again(
    cache: PolicyCache, store: Store, log: MemoryEventLog, subject: str
) -> None:
    store.has(Kind.CUSTOMER, "c", budget_id="b")
    store.has(Kind.BUDGET, "b", rpm_limit=5)
    await cache.customer("c")
    store.has(Kind.BUDGET, "b", rpm_limit=7)

    await log.announce_change(subject)

    found = await cache.customer("c")
    assert found is not None
    assert [account.rpm for account in found.plans.at(0.0)] == [7]


async def test_the_first_customer_is_found_as_soon_as_it_is_announced(
    cache: PolicyCache, store: Store, log: MemoryEventLog
) -> None:
    assert await cache.customer("c") is None
    store.has(Kind.CUSTOMER, "c", blocked=True)

    await log.announce_change("customer:c")

    found = await cache.customer("c")
    assert found is not None
    assert found.blocked


async def test_customers_of_whom_nothing_is_known_have_the_default_budget(
    store: Store, clock: FakeClock, log: MemoryEventLog
) -> None:
    store.has(Kind.BUDGET, "small", max_budget=0.5)
    cache = a_cache(store, clock, log, max_end_user_budget_id="small")

    found = await cache.customer("c")

    assert found is not None
    assert [account.budgets[0].limit for account in found.plans.at(0.0)] == [500_000_000]


async def test_while_the_store_is_away_a_customer_is_as_it_was_or_let_go(
    cache: PolicyCache, store: Store, clock: FakeClock
) -> None:
    store.has(Kind.CUSTOMER, "c", rpm_limit=5)
    known = await cache.customer("c")
    store.away = True
    clock.advance(3600)

    assert await cache.customer("c") is known
    assert await cache.customer("new") is None
