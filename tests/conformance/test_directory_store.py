"""Every implementation of `broker.directory_interfaces.Directory` keeps what its docstring promises."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from broker.account_records import Actor, Entry, EntryQuery, KeyQuery, Kind, Removed
from broker.directory_interfaces import Directory, Keys
from broker.store.directory import DirectoryStore
from broker.store.keys import KeyStore
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest
from tests.conformance.stores import HOSTILE, NOON, a_key, transactions

ACTOR = Actor("admin")


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def directory(opened: Transactions) -> Directory:
    return DirectoryStore(opened, lambda: NOON)


@pytest.fixture
def keys(opened: Transactions) -> Keys:
    return KeyStore(opened, lambda: NOON)


def a_user(id: str = "u", **values: Any) -> Entry:
    return replace(Entry(Kind.USER, id, created_at=NOON), **values)


def a_member(team: str, user: str) -> Entry:
    return Entry(Kind.MEMBER, f"{team}/{user}", team=team, user=user, fields={"role": "user"}, created_at=NOON)


async def found(directory: Directory, kind: Kind = Kind.USER, **query: Any) -> list[str]:
    return [entry.id for entry in await directory.find(EntryQuery(kind, **query))]


# --- Adding ---------------------------------------------------------------------------------------------------------


async def test_every_field_of_an_entry_comes_back_as_it_went_in(directory: Directory) -> None:
    whole = Entry(
        kind=Kind.USER,
        id="e1",
        alias="Grün",
        team="t1",
        user="u1",
        fields={"max_budget": 0.1, "models": ["a", None], "on": True, "deep": {"ü": [1, 2.5]}},
        created_at=NOON + 0.25,
        created_by="boss",
        updated_at=NOON + 1,
        updated_by="clerk",
    )
    entries = [replace(whole, kind=kind) for kind in Kind]

    assert await directory.add(entries, ACTOR) == []

    assert [await directory.get(kind, "e1") for kind in Kind] == entries


async def test_all_entries_are_added_or_none(directory: Directory) -> None:
    await directory.add([a_user("b"), a_user("d")], ACTOR)

    taken = await directory.add([a_user("d"), a_user("a"), a_user("b"), a_user("c")], ACTOR)

    assert taken == ["d", "b"]
    assert await found(directory) == ["d", "b"]


async def test_an_id_that_is_given_twice_is_taken(directory: Directory) -> None:
    assert await directory.add([a_user("a"), a_user("b"), a_user("a", alias="x")], ACTOR) == ["a"]
    assert await found(directory) == []


async def test_an_id_is_its_kinds_own_and_an_alias_anybodys(directory: Directory) -> None:
    entries = [Entry(kind, "same", alias="same", fields={"of": kind.value}) for kind in Kind]

    assert await directory.add([*entries, a_user("other", alias="same")], ACTOR) == []

    assert [await directory.get(kind, "same") for kind in Kind] == entries


async def test_adding_nothing_is_nothing(directory: Directory) -> None:
    assert await directory.add([], ACTOR) == []


async def test_an_unknown_entry_is_none(directory: Directory) -> None:
    await directory.add([a_user("u")], ACTOR)

    assert await directory.get(Kind.TEAM, "u") is None
    assert await directory.change(Kind.TEAM, "u", lambda entry: entry, ACTOR) is None
    assert await directory.remove(Kind.TEAM, ["u"], ACTOR) == Removed(())


async def test_text_from_outside_is_only_text(directory: Directory) -> None:
    await directory.add([a_user("bystander")], ACTOR)

    for text in HOSTILE:
        kept = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
        entry = a_user(text, alias=text, team=text, user=text, fields={text: text})

        assert await directory.add([entry], ACTOR) == []

        expected = a_user(kept, alias=kept, team=kept, user=kept, fields={kept: kept})
        assert await directory.get(Kind.USER, text) == expected
        assert await found(directory, ids=(text,), team=text, user=text) == [kept]
        assert await found(directory, text=text) == [kept]
        assert await found(directory, field=(text, text)) == [kept]
        assert await directory.change(Kind.USER, text, lambda entry: entry, ACTOR) is not None
        assert await directory.remove(Kind.USER, [text], ACTOR) == Removed((text,))
    assert await found(directory) == ["bystander"]


async def test_what_cannot_be_kept_as_it_is_is_refused(directory: Directory) -> None:
    for values in (
        {"id": ""},
        {"id": "a" * 513},
        {"team": "a" * 513},
        {"user": "a" * 513},
        {"fields": {"tpm_limit": float("nan")}},
        {"fields": {"tpm_limit": b"1"}},
    ):
        with pytest.raises(InvalidRequest):
            await directory.add([a_user("good"), a_user(**({"id": "bad"} | values))], ACTOR)

    assert await found(directory) == []


# --- Finding --------------------------------------------------------------------------------------------------------


async def test_pages_come_newest_first_or_oldest_first(directory: Directory) -> None:
    await directory.add([a_user(f"u{number}", created_at=NOON + number // 2) for number in (3, 1, 5, 2, 4)], ACTOR)

    pages = [await found(directory, offset=offset, limit=2) for offset in (0, 2, 4, 6)]

    assert pages == [["u5", "u4"], ["u3", "u2"], ["u1"], []]
    assert await found(directory, newest_first=False) == ["u1", "u2", "u3", "u4", "u5"]
    assert await directory.count(EntryQuery(Kind.USER, offset=3, limit=1)) == 5


async def test_a_page_is_never_longer_than_a_thousand(directory: Directory) -> None:
    await directory.add([a_user(f"{number:04}") for number in range(2345)], ACTOR)

    assert len(await directory.find(EntryQuery(Kind.USER, limit=10**9))) == 1000
    assert len(await directory.find(EntryQuery(Kind.USER, limit=-1))) == 1
    assert await directory.find(EntryQuery(Kind.USER, offset=10**30)) == []
    assert await directory.count(EntryQuery(Kind.USER)) == 2345


QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"ids": ("a", "c", "x")}, "ac"),
    ({"ids": ("a",) * 40_000}, "a"),
    ({"team": "t1"}, "ab"),
    ({"team": "t1", "user": "u2"}, "b"),
    ({"team": ""}, "cd"),
    ({"text": "RESEARCH"}, "ab"),
    ({"text": "müller"}, "c"),
    ({"text": "STRASSE"}, "d"),
    ({"text": "A"}, "abd"),
    ({"text": "100%"}, "c"),
    ({"text": "_"}, ""),
    ({"text": "/"}, ""),
    ({"text": "x" * 60_000}, ""),
    ({"field": ("user_role", "internal_user")}, "a"),
    ({"field": ("user_role", "internal")}, ""),
    ({"field": ("models", "internal_user")}, ""),
    ({"field": ("number", "1")}, ""),
    ({"field": ("on", "true")}, ""),
    ({"field": ("gone", "")}, ""),
    ({"field": ("a.b", "x")}, "b"),
    ({"field": ("x" * 5000, "y" * 5000)}, ""),
    ({"text": "research", "field": ("user_role", "internal_user"), "user": "u1"}, "a"),
]


async def test_entries_are_found_by_what_they_are(directory: Directory) -> None:
    entries = [
        a_user("a", alias="Research", team="t1", user="u1", fields={"user_role": "internal_user"}),
        a_user("b", alias="research 2", team="t1", user="u2", fields={"models": ["internal_user"], "a.b": "x"}),
        a_user("c", alias="100% MÜLLER", fields={"number": 1, "on": True}),
        a_user("d", alias="Hauptstraße", fields={"a": {"b": "x"}}),
    ]
    await directory.add([*entries, Entry(Kind.TEAM, "a", alias="Research", team="t1", user="u1")], ACTOR)

    answers = [(query, "".join(sorted(await found(directory, **query)))) for query, _ in QUERIES]
    counts = [await directory.count(EntryQuery(Kind.USER, **query)) for query, _ in QUERIES]

    assert answers == QUERIES
    assert counts == [len(expected) for _, expected in QUERIES]


# --- Changing -------------------------------------------------------------------------------------------------------


async def test_a_change_gets_what_is_there_and_leaves_what_it_returns(directory: Directory) -> None:
    await directory.add([a_user(fields={"max_budget": 1}), a_user("v")], ACTOR)

    def double(entry: Entry) -> Entry:
        return replace(entry, alias="x", fields={"max_budget": entry.fields["max_budget"] * 2})

    changed = await directory.change(Kind.USER, "u", double, ACTOR)

    assert changed == a_user(alias="x", fields={"max_budget": 2}, updated_at=NOON, updated_by="admin")
    assert await directory.get(Kind.USER, "u") == changed
    assert await directory.get(Kind.USER, "v") == a_user("v")
    assert await found(directory, text="X") == ["u"]


async def test_an_entry_stays_itself(directory: Directory) -> None:
    await directory.add([a_user()], ACTOR)

    with pytest.raises(ValueError, match="user 'u' cannot become team 'u'"):
        await directory.change(Kind.USER, "u", lambda entry: replace(entry, kind=Kind.TEAM), ACTOR)

    assert await directory.get(Kind.USER, "u") == a_user()


async def test_a_change_that_raises_or_cannot_be_kept_changes_nothing(directory: Directory) -> None:
    await directory.add([a_user()], ACTOR)
    version = await directory.version(Kind.USER)

    def refuse(entry: Entry) -> Entry:
        raise InvalidRequest("no")

    for change in (refuse, lambda entry: replace(entry, fields={"max_budget": float("nan")})):
        with pytest.raises(InvalidRequest):
            await directory.change(Kind.USER, "u", change, ACTOR)

    assert await directory.get(Kind.USER, "u") == a_user()
    assert await directory.version(Kind.USER) == version


# --- Removing -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def populated(directory: Directory, keys: Keys) -> None:
    """Two teams, two users who are in both, and a key of each user in each team and in none."""
    teams = [Entry(Kind.TEAM, team) for team in ("t1", "t2")]
    users = [a_user(user) for user in ("u1", "u2")]
    members = [a_member(team, user) for team in ("t1", "t2") for user in ("u1", "u2")]
    await directory.add([*teams, *users, *members, Entry(Kind.BUDGET, "t1"), Entry(Kind.CUSTOMER, "u1")], ACTOR)
    for team in ("t1", "t2", ""):
        for user in ("u1", "u2", ""):
            await keys.add(a_key(f"{team}-{user}", team=team, user=user), ACTOR)


@pytest.mark.parametrize(
    ("kind", "ids", "gone", "members", "gone_keys"),
    [
        (Kind.TEAM, ["t1", "x"], ("t1",), ["t2/u1", "t2/u2"], ["t1-", "t1-u1", "t1-u2"]),
        (Kind.USER, ["u2"], ("u2",), ["t1/u1", "t2/u1"], ["-u2", "t1-u2", "t2-u2"]),
        (Kind.MEMBER, ["t1/u2"], ("t1/u2",), ["t1/u1", "t2/u1", "t2/u2"], ["t1-u2"]),
        (Kind.BUDGET, ["t1"], ("t1",), ["t1/u1", "t1/u2", "t2/u1", "t2/u2"], []),
        (Kind.CUSTOMER, ["u1"], ("u1",), ["t1/u1", "t1/u2", "t2/u1", "t2/u2"], []),
        (Kind.TEAM, ["x", ""], (), ["t1/u1", "t1/u2", "t2/u1", "t2/u2"], []),
        (Kind.USER, [], (), ["t1/u1", "t1/u2", "t2/u1", "t2/u2"], []),
    ],
)
@pytest.mark.usefixtures("populated")
async def test_with_an_entry_goes_what_belongs_to_it_and_nothing_else(
    directory: Directory,
    keys: Keys,
    kind: Kind,
    ids: list[str],
    gone: tuple[str, ...],
    members: list[str],
    gone_keys: list[str],
) -> None:
    before = {record.hash for record in await keys.find(KeyQuery())}

    removed = await directory.remove(kind, ids, ACTOR)

    assert (removed.ids, sorted(removed.keys)) == (gone, gone_keys)
    assert {record.hash for record in await keys.find(KeyQuery())} == before - set(gone_keys)
    assert sorted(await found(directory, Kind.MEMBER)) == members
    for id in gone:
        assert await directory.get(kind, id) is None


async def test_a_team_of_more_members_and_keys_than_are_taken_at_once_goes_whole(
    directory: Directory, keys: Keys
) -> None:
    await directory.add([Entry(Kind.TEAM, "t"), *(a_member("t", f"u{number}") for number in range(1100))], ACTOR)
    for number in range(510):
        await keys.add(a_key(f"{number}", team="t"), ACTOR)

    removed = await directory.remove(Kind.TEAM, ["t"], ACTOR)

    assert (removed.ids, len(removed.keys)) == (("t",), 510)
    assert await directory.count(EntryQuery(Kind.MEMBER)) == await keys.count(KeyQuery()) == 0


async def test_ids_come_back_once_in_the_order_given(directory: Directory) -> None:
    await directory.add([a_user("a"), a_user("b")], ACTOR)

    assert await directory.remove(Kind.USER, ["b", "x", "a", "b"], ACTOR) == Removed(("b", "a"))


# --- Versions -------------------------------------------------------------------------------------------------------


async def test_a_version_changes_with_every_change_of_its_kind_alone(directory: Directory) -> None:
    versions = [await directory.version(Kind.MODEL)]
    others = await directory.version(Kind.USER)

    await directory.add([Entry(Kind.MODEL, "m1"), Entry(Kind.MODEL, "m2")], ACTOR)
    versions.append(await directory.version(Kind.MODEL))
    await directory.change(Kind.MODEL, "m1", lambda entry: replace(entry, updated_at=1.0), ACTOR)
    versions.append(await directory.version(Kind.MODEL))
    await directory.remove(Kind.MODEL, ["m1"], ACTOR)
    versions.append(await directory.version(Kind.MODEL))
    await directory.remove(Kind.MODEL, ["m2"], ACTOR)
    versions.append(await directory.version(Kind.MODEL))

    assert len(set(versions)) == 5
    assert await directory.version(Kind.USER) == others


async def test_a_version_stays_when_nothing_happened(directory: Directory) -> None:
    await directory.add([a_user()], ACTOR)
    version = await directory.version(Kind.USER)

    await directory.add([a_user("new"), a_user()], ACTOR)
    await directory.remove(Kind.USER, ["x"], ACTOR)
    await directory.change(Kind.USER, "x", lambda entry: entry, ACTOR)

    assert await directory.version(Kind.USER) == version


@pytest.mark.usefixtures("populated")
async def test_a_version_changes_when_entries_go_with_others(directory: Directory) -> None:
    version = await directory.version(Kind.MEMBER)

    await directory.remove(Kind.TEAM, ["t1"], ACTOR)

    assert await directory.version(Kind.MEMBER) != version
