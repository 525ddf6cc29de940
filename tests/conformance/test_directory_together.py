"""Keys and the directory when several processes change them at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from broker.account_records import Actor, AuditQuery, Entry, EntryQuery, KeyQuery, Kind
from broker.records import KeyRecord
from broker.store.database import Database, connect
from broker.store.keys import lineage
from tests.conformance.stores import a_key
from tests.fakes.schema import make_schema

ACTOR = Actor("admin")


@pytest.fixture
async def processes(shared_url: str) -> AsyncIterator[list[Database]]:
    """Three stores on one database."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(connect(shared_url)) for _ in range(3)]
        await make_schema(stores[0])
        yield stores


async def test_no_change_of_an_entry_is_lost(processes: list[Database]) -> None:
    await processes[0].directory.add([Entry(Kind.USER, "u", fields={"count": 0})], ACTOR)

    def increment(entry: Entry) -> Entry:
        return replace(entry, fields={"count": entry.fields["count"] + 1})

    await asyncio.gather(
        *(store.directory.change(Kind.USER, "u", increment, ACTOR) for store in processes for _ in range(10))
    )

    entry = await processes[0].directory.get(Kind.USER, "u")
    assert entry is not None
    assert entry.fields == {"count": 30}
    assert len(await processes[0].directory.audit(AuditQuery(action="updated"))) == 30
    assert await processes[0].directory.version(Kind.USER) == "31"


async def test_no_change_of_a_key_is_lost(processes: list[Database]) -> None:
    await processes[0].keys.add(a_key(fields={"count": 0}), ACTOR)

    def increment(record: KeyRecord) -> KeyRecord:
        return replace(record, fields={"count": record.fields["count"] + 1})

    await asyncio.gather(*(store.keys.change("aa", increment, ACTOR) for store in processes for _ in range(10)))

    record = await processes[0].keys.get("aa")
    assert record is not None
    assert record.fields == {"count": 30}


async def test_of_many_keys_with_an_alias_one_is_added(processes: list[Database]) -> None:
    answers = await asyncio.gather(
        *(store.keys.add(a_key(f"{number}", alias="mine"), ACTOR) for number, store in enumerate(processes * 4))
    )

    assert sorted(answers) == [""] + ["alias"] * 11
    assert await processes[0].keys.count(KeyQuery()) == 1


async def test_of_many_keys_that_take_an_alias_one_gets_it(processes: list[Database]) -> None:
    for number in range(12):
        await processes[0].keys.add(a_key(f"{number}"), ACTOR)

    answers = await asyncio.gather(
        *(
            store.keys.change(f"{number}", lambda record: replace(record, alias="mine"), ACTOR)
            for number, store in enumerate(processes * 4)
        )
    )

    assert sorted(taken for _, taken in answers) == [""] + ["alias"] * 11
    assert await processes[0].keys.count(KeyQuery(alias="mine")) == 1


async def test_of_many_additions_of_overlapping_entries_none_is_half_done(processes: list[Database]) -> None:
    ids = [f"u{number}" for number in range(20)]

    answers = await asyncio.gather(
        *(
            store.directory.add([Entry(Kind.USER, id) for id in order], ACTOR)
            for store in processes
            for order in (ids, ids[::-1], ids[10:])
        )
    )

    assert answers.count([]) == 1
    assert await processes[0].directory.count(EntryQuery(Kind.USER)) in (10, 20)


async def test_a_key_that_is_regenerated_by_many_at_once_is_regenerated_once(processes: list[Database]) -> None:
    await processes[0].keys.add(a_key("old"), ACTOR)

    def renewed(number: int) -> KeyRecord:
        return a_key(f"new{number}")

    answers = await asyncio.gather(
        *(
            store.keys.change("old", lambda _, number=number: renewed(number), ACTOR)  # type: ignore[misc]
            for number, store in enumerate(processes * 2)
        )
    )

    (winner,) = (record.hash for record, _ in answers if record is not None)
    assert [record.hash for record in await processes[0].keys.find(KeyQuery())] == [winner]
    assert await processes[0]._transactions.read(lambda connection: lineage(connection, winner)) == ["old"]


async def test_a_hash_that_a_regeneration_leaves_cannot_be_taken_meanwhile(processes: list[Database]) -> None:
    await processes[0].keys.add(a_key("old"), ACTOR)

    answers = await asyncio.gather(
        processes[0].keys.change("old", lambda record: replace(record, hash="new"), ACTOR),
        *(store.keys.add(a_key("old"), ACTOR) for store in processes * 3),
    )

    assert answers[1:] == ["hash"] * 9
    assert [record.hash for record in await processes[0].keys.find(KeyQuery())] == ["new"]


async def test_removals_and_changes_of_the_same_entries_all_end(processes: list[Database]) -> None:
    teams, users = [f"t{number}" for number in range(4)], [f"u{number}" for number in range(4)]
    members = [Entry(Kind.MEMBER, f"{team}/{user}", team=team, user=user) for team in teams for user in users]
    entries = [*(Entry(Kind.TEAM, team) for team in teams), *(Entry(Kind.USER, user) for user in users), *members]
    await processes[0].directory.add(entries, ACTOR)
    for member in members:
        await processes[0].keys.add(a_key(member.id, team=member.team, user=member.user), ACTOR)

    await asyncio.gather(
        processes[0].directory.remove(Kind.TEAM, teams, ACTOR),
        processes[1].directory.remove(Kind.USER, users[::-1], ACTOR),
        processes[2].directory.remove(Kind.MEMBER, [member.id for member in members], ACTOR),
        *(processes[1].keys.delete([member.id], ACTOR) for member in members),
        *(processes[2].keys.change(each.id, lambda record: replace(record, blocked=True), ACTOR) for each in members),
    )

    deleted = [record.subject for record in await processes[0].directory.audit(AuditQuery(action="deleted", limit=99))]
    assert sorted(deleted) == sorted(
        [*teams, *users, *(member.id for member in members), *(each.id for each in members)]
    )
    assert await processes[0].keys.count(KeyQuery()) == 0
