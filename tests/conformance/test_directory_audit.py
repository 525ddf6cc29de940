"""Every change leaves a record of who did what, with before and after, in the transaction of the change."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.account_records import Actor, AuditQuery, AuditRecord, Entry, EntryQuery, KeyQuery, Kind
from broker.directory_interfaces import Directory, Keys
from broker.store.directory import DirectoryStore
from broker.store.keys import KeyStore
from broker.store.transactions import Transactions, Work
from shared.errors import Unavailable
from tests.conformance.stores import HOSTILE, NOON, a_key, transactions
from tests.fakes.clock import FakeClock

ACTOR = Actor("admin", "admin-hash", "10.0.0.1")


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def keys(opened: Transactions, clock: FakeClock) -> Keys:
    return KeyStore(opened, clock.now)


@pytest.fixture
def directory(opened: Transactions, clock: FakeClock) -> Directory:
    return DirectoryStore(opened, clock.now)


async def audit(directory: Directory, **query: Any) -> list[AuditRecord]:
    return await directory.audit(AuditQuery(**query))


def seen(records: list[AuditRecord]) -> list[tuple[str, str, str]]:
    return sorted((record.action, record.table, record.subject) for record in records)


async def test_a_key_that_comes_changes_and_goes_leaves_three_records(
    keys: Keys, directory: Directory, clock: FakeClock
) -> None:
    await keys.add(a_key(fields={"max_budget": 5.0}), ACTOR)
    clock.advance(1)
    await keys.change("aa", lambda record: replace(record, blocked=True), Actor("boss"), "blocked")
    clock.advance(1)
    await keys.delete(["aa"], ACTOR)

    deleted, blocked, created = await audit(directory)

    assert (created.actor, created.action, created.table, created.subject) == (ACTOR, "created", "key", "aa")
    assert created.at == NOON
    assert created.before is None
    assert created.after is not None
    assert (created.after["name"], created.after["fields"]) == ("sk-...abcd", {"max_budget": 5.0})
    assert (blocked.actor, blocked.action, blocked.before) == (Actor("boss"), "blocked", created.after)
    assert blocked.after == {**created.after, "blocked": True, "updated_at": NOON + 1, "updated_by": "boss"}
    assert (deleted.action, deleted.before, deleted.after) == ("deleted", blocked.after, None)


async def test_an_entry_that_comes_changes_and_goes_leaves_three_records(directory: Directory) -> None:
    for kind in Kind:
        await directory.add([Entry(kind, "e", fields={"tpm_limit": 1})], ACTOR)
        await directory.change(kind, "e", lambda entry: replace(entry, fields={"tpm_limit": 2}), ACTOR)
        await directory.remove(kind, ["e"], ACTOR)

        records = await audit(directory, table=kind.value, subject="e")

        by_action = {record.action: record for record in records}
        assert set(by_action) == {"created", "updated", "deleted"}
        created, updated, deleted = (by_action[action] for action in ("created", "updated", "deleted"))
        assert (created.before, deleted.after) == (None, None)
        assert created.after is not None and updated.after is not None
        assert (created.after["fields"], updated.after["fields"]) == ({"tpm_limit": 1}, {"tpm_limit": 2})
        assert (updated.before, deleted.before) == (created.after, updated.after)


async def test_everything_that_goes_with_a_team_is_recorded(keys: Keys, directory: Directory) -> None:
    await directory.add([Entry(Kind.TEAM, "t"), Entry(Kind.MEMBER, "t/u", team="t", user="u")], Actor("setup"))
    await keys.add(a_key(team="t"), Actor("setup"))

    await directory.remove(Kind.TEAM, ["t"], ACTOR)

    records = await audit(directory, actor="admin")
    assert seen(records) == [("deleted", "key", "aa"), ("deleted", "member", "t/u"), ("deleted", "team", "t")]
    assert all(record.before is not None and record.actor == ACTOR for record in records)


async def test_what_did_not_happen_is_not_recorded(keys: Keys, directory: Directory) -> None:
    await keys.add(a_key(alias="x"), Actor("setup"))
    await directory.add([Entry(Kind.USER, "u")], Actor("setup"))

    await keys.add(a_key(), ACTOR)
    await keys.add(a_key("bb", alias="x"), ACTOR)
    await keys.delete(["bb"], ACTOR)
    await keys.change("bb", lambda record: record, ACTOR)
    await directory.add([Entry(Kind.USER, "v"), Entry(Kind.USER, "u")], ACTOR)
    await directory.remove(Kind.TEAM, ["u"], ACTOR)

    assert await audit(directory, actor="admin") == []


# --- Secrets --------------------------------------------------------------------------------------------------------


async def test_no_secret_of_a_model_is_in_the_audit(directory: Directory) -> None:
    params = {
        "model": "v2:gcm:c2VjcmV0",
        "api_key": "v2:gcm:a2V5",
        "headers": {"x": ["c2VjcmV0"]},
        "rpm": 5,
        "on": True,
    }
    model = Entry(Kind.MODEL, "m", alias="gpt", fields={"litellm_params": params, "model_info": {"mode": "chat"}})

    await directory.add([model], ACTOR)

    (record,) = await audit(directory)
    assert record.after is not None
    assert record.after["fields"] == {
        "litellm_params": {"model": "***", "api_key": "***", "headers": {"x": ["***"]}, "rpm": 5, "on": True},
        "model_info": {"mode": "chat"},
    }
    assert await directory.get(Kind.MODEL, "m") == model


async def test_what_may_be_a_secret_by_its_name_is_not_in_the_audit(
    keys: Keys, directory: Directory, clock: FakeClock
) -> None:
    logging = [{"callback_vars": {"langfuse_secret_key": "s3cret", "host": "example.com"}}]

    await keys.add(a_key(metadata={"logging": logging}, fields={"slack_url": "s3cret", "tpm_limit": 5}), ACTOR)
    clock.advance(1)
    await directory.add([Entry(Kind.TEAM, "t", fields={"metadata": {"password": ["s3cret"], "note": "x"}})], ACTOR)

    team, key = await audit(directory)
    assert key.after is not None and team.after is not None
    assert key.after["metadata"] == {
        "logging": [{"callback_vars": {"langfuse_secret_key": "***", "host": "example.com"}}]
    }
    assert key.after["fields"] == {"slack_url": "***", "tpm_limit": 5}
    assert team.after["fields"] == {"metadata": {"password": ["***"], "note": "x"}}


# --- Finding --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def history(keys: Keys, directory: Directory, clock: FakeClock) -> list[AuditRecord]:
    """Five records at NOON, a second apart; newest first."""
    for number in range(3):
        await keys.add(a_key(f"k{number}"), Actor(f"actor{number % 2}"))
        clock.advance(1)
    await directory.add([Entry(Kind.USER, "k1")], Actor("actor1"))
    clock.advance(1)
    await keys.delete(["k1"], ACTOR)
    return await audit(directory)


QUERIES: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4]),
    ({"actor": "actor1"}, [1, 3]),
    ({"action": "deleted"}, [0]),
    ({"table": "key"}, [0, 2, 3, 4]),
    ({"subject": "k1"}, [0, 1, 3]),
    ({"subject": "k1", "table": "user"}, [1]),
    ({"start": NOON + 3}, [0, 1]),
    ({"end": NOON + 1}, [4]),
    ({"start": NOON + 1, "end": NOON + 2}, [3]),
    ({"limit": 2}, [0, 1]),
    ({"limit": 0}, [0]),
    ({"limit": 10**9}, [0, 1, 2, 3, 4]),
    ({"after": "unknown"}, []),
]


async def test_records_are_found_by_what_they_tell(directory: Directory, history: list[AuditRecord]) -> None:
    answers = [(query, [history.index(each) for each in await audit(directory, **query)]) for query, _ in QUERIES]

    assert answers == QUERIES


async def test_records_come_page_by_page(directory: Directory, history: list[AuditRecord]) -> None:
    pages = [await audit(directory, limit=2)]
    while pages[-1]:
        pages.append(await audit(directory, limit=2, after=pages[-1][-1].id))

    assert [record for page in pages for record in page] == history
    assert await audit(directory, id=history[3].id) == [history[3]]


async def test_text_from_outside_is_only_text(keys: Keys, directory: Directory) -> None:
    for number, text in enumerate(HOSTILE):
        kept = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")

        await keys.add(a_key(f"{number}", metadata={text: text}), Actor(text, text, text))

        (record,) = await audit(directory, actor=text)
        assert record.actor == Actor(kept, kept, kept)
        for name in ("after", "subject", "table", "action", "id"):
            assert await audit(directory, **{name: text}) == []


# --- One transaction ------------------------------------------------------------------------------------------------


async def test_without_its_record_a_change_does_not_happen(
    keys: Keys, directory: Directory, opened: Transactions
) -> None:
    await keys.add(a_key(team="t"), ACTOR)
    await directory.add([Entry(Kind.TEAM, "t"), Entry(Kind.MEMBER, "t/u", team="t", user="u")], ACTOR)
    await opened.write(lambda connection: connection.execute(sa.text("ALTER TABLE audit RENAME TO lost")))

    for attempt in (
        keys.add(a_key("bb"), ACTOR),
        keys.change("aa", lambda record: replace(record, blocked=True), ACTOR),
        keys.delete(["aa"], ACTOR),
        directory.add([Entry(Kind.USER, "u")], ACTOR),
        directory.change(Kind.TEAM, "t", lambda entry: replace(entry, alias="x"), ACTOR),
        directory.remove(Kind.TEAM, ["t"], ACTOR),
    ):
        with pytest.raises(Unavailable):
            await attempt

    assert await keys.find(KeyQuery()) == [a_key(team="t")]
    assert await directory.get(Kind.TEAM, "t") == Entry(Kind.TEAM, "t")
    assert await directory.count(EntryQuery(Kind.MEMBER)) == 1
    assert await directory.count(EntryQuery(Kind.USER)) == 0


class LosesCommits(Transactions):
    """Its connection dies after every first commit, before it hears of it."""

    async def write(self, work: Work[Any]) -> Any:
        await super().write(work)
        return await super().write(work)


async def test_a_change_whose_commit_was_not_confirmed_happens_once(opened: Transactions) -> None:
    unlucky = LosesCommits(opened._engines)
    keys, directory = KeyStore(unlucky), DirectoryStore(unlucky)
    counted: list[str] = []

    def regenerate(record: Any) -> Any:
        counted.append(record.hash)
        return replace(record, hash=record.hash + "+")

    answers = [
        await keys.add(a_key("a"), ACTOR),
        (await keys.change("a", regenerate, ACTOR, "regenerated"))[1],
        await directory.add([Entry(Kind.USER, "u")], ACTOR),
        await directory.remove(Kind.USER, ["u"], ACTOR),
        await keys.delete(["a+"], ACTOR),
    ]

    assert answers[:3] == ["", "", []]
    assert answers[3].ids == ("u",)  # type: ignore[union-attr]
    assert answers[4] == ["a+"]
    assert counted == ["a"]
    assert len(await audit(directory)) == 5


async def test_no_two_records_have_an_id(keys: Keys, directory: Directory, opened: Transactions) -> None:
    await directory.add([Entry(Kind.USER, f"u{number}") for number in range(700)], ACTOR)

    async def ids(connection: AsyncConnection) -> list[str]:
        return list(await connection.scalars(sa.text("SELECT id FROM audit")))

    found = await opened.read(ids)

    assert len(set(found)) == 700
    assert {id[14] for id in found} == {"7"}
