"""Every implementation of `broker.directory_interfaces.Keys` keeps what its docstring promises."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from broker.account_records import Actor, AuditQuery, Entry, KeyQuery, Kind
from broker.directory_interfaces import Directory, Keys
from broker.records import KeyRecord
from broker.store.directory import DirectoryStore
from broker.store.directory_tables import keys as key_table
from broker.store.keys import KeyStore, lineage
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest
from tests.conformance.stores import HOSTILE, NOON, a_key, transactions

ACTOR = Actor("admin", "admin-hash", "10.0.0.1")


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def keys(opened: Transactions) -> Keys:
    return KeyStore(opened, lambda: NOON)


@pytest.fixture
def directory(opened: Transactions) -> Directory:
    return DirectoryStore(opened, lambda: NOON)


async def found(keys: Keys, **query: Any) -> list[str]:
    return [record.hash for record in await keys.find(KeyQuery(**query))]


async def actions(directory: Directory, subject: str) -> list[str]:
    return [record.action for record in await directory.audit(AuditQuery(subject=subject))]


# --- Adding ---------------------------------------------------------------------------------------------------------


async def test_every_field_of_a_key_comes_back_as_it_went_in(keys: Keys) -> None:
    record = KeyRecord(
        hash="ab" * 32,
        name="sk-...abcd",
        alias="ci",
        user="u1",
        team="t1",
        created_at=NOON,
        expires_at=NOON + 60.5,
        blocked=True,
        max_queue_wait=0.25,
        metadata={"a": ["ü", 1, None, {"b": 2.5}]},
        fields={"models": ["gpt-4o"], "max_budget": 12.5, "aliases": {}},
        created_by="boss",
        updated_at=NOON + 1,
        updated_by="clerk",
    )

    assert await keys.add(record, ACTOR) == ""

    assert await keys.get(record.hash) == record


async def test_a_key_is_added_once(keys: Keys, directory: Directory) -> None:
    added = [await keys.add(a_key(), ACTOR), await keys.add(a_key(name="another"), ACTOR)]

    assert added == ["", "hash"]
    assert await keys.get("aa") == a_key()
    assert await actions(directory, "aa") == ["created"]


async def test_an_alias_is_one_keys_but_any_number_have_none(keys: Keys) -> None:
    added = [
        await keys.add(a_key(hash, alias=alias), ACTOR) for hash, alias in zip("abcd", ["x", "x", "", ""], strict=True)
    ]

    assert added == ["", "alias", "", ""]
    assert await keys.get("b") is None


async def test_an_unknown_key_is_none(keys: Keys) -> None:
    assert await keys.get("bb") is None
    assert await keys.resolve("bb") is None
    assert await keys.change("bb", lambda record: record, ACTOR) == (None, "")


async def test_text_from_outside_is_only_text(keys: Keys) -> None:
    await keys.add(a_key("bystander"), ACTOR)

    for text in HOSTILE:
        kept = text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
        record = a_key(alias=text, user=text, team=text, metadata={text: [text]}, fields={"a": {text: text}})

        assert await keys.add(record, Actor(text, text, text)) == ""

        expected = a_key(alias=kept, user=kept, team=kept, metadata={kept: [kept]}, fields={"a": {kept: kept}})
        assert await keys.get("aa") == expected
        assert await found(keys, alias=text) == ["aa"]
        assert await found(keys, user=text, team=text, text=text, hashes=("aa", text)) == ["aa"]
        assert await found(keys, teams=(text,)) == ["aa"]
        assert await found(keys, created_by=text) == []
        assert await keys.get(text) is None
        assert await keys.delete([text, "aa"], ACTOR) == ["aa"]
    assert await found(keys) == ["bystander"]


async def test_what_cannot_be_kept_as_it_is_is_refused(keys: Keys) -> None:
    for fields in (
        {"fields": {"max_budget": float("nan")}},
        {"fields": {"max_budget": float("inf")}},
        {"metadata": {"a": object()}},
        {"metadata": {"a": 10**400}},
        {"hash": ""},
        {"hash": "a" * 513},
        {"user": "u" * 513},
        {"team": "t" * 513},
    ):
        with pytest.raises(InvalidRequest):
            await keys.add(a_key(**fields), ACTOR)

    assert await keys.count(KeyQuery()) == 0


async def test_json_that_is_nested_too_deeply_is_refused(keys: Keys) -> None:
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}

    with pytest.raises(InvalidRequest):
        await keys.add(a_key(metadata=deep), ACTOR)


# --- Finding --------------------------------------------------------------------------------------------------------


async def test_pages_come_in_the_order_that_was_asked_for(keys: Keys) -> None:
    for number in (3, 1, 5, 2, 4):
        await keys.add(a_key(f"k{number}", created_at=NOON + number // 2), ACTOR)

    pages = [await found(keys, offset=offset, limit=2) for offset in (0, 2, 4, 6)]

    assert pages == [["k5", "k4"], ["k3", "k2"], ["k1"], []]
    assert await found(keys, descending=False) == ["k1", "k2", "k3", "k4", "k5"]
    assert await keys.count(KeyQuery(offset=3, limit=1)) == 5


async def test_keys_are_sorted_with_those_that_never_expire_last(keys: Keys) -> None:
    await keys.add(a_key("a", created_at=1.0, updated_at=9.0, alias="m", expires_at=1.0), ACTOR)
    await keys.add(a_key("b", created_at=2.0, updated_at=3.0, alias="z", expires_at=None), ACTOR)
    await keys.add(a_key("c", created_at=3.0, updated_at=4.0, alias="a", expires_at=2.0), ACTOR)
    orders = {"updated_at": "bca", "alias": "cab", "expires_at": "acb", "created_at": "abc"}

    ascending = {sort: "".join(await found(keys, sort=sort, descending=False)) for sort in orders}
    descending = {sort: "".join(await found(keys, sort=sort)) for sort in orders}

    assert ascending == orders
    assert descending == {sort: order[::-1] for sort, order in orders.items()}


async def test_an_unknown_order_is_refused(keys: Keys) -> None:
    with pytest.raises(InvalidRequest, match="created_at, updated_at, alias, expires_at"):
        await keys.find(KeyQuery(sort="hash; DROP TABLE keys"))


QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"user": "u1"}, "ab"),
    ({"team": "t2"}, "c"),
    ({"teams": ("t2", "t9")}, "c"),
    ({"user": "u1", "teams": ("t2",)}, "abc"),
    ({"user": "u1", "team": "t1"}, "a"),
    ({"created_by": "boss"}, "b"),
    ({"alias": "CI-a"}, "a"),
    ({"alias": "ci-a"}, ""),
    ({"hashes": ("a", "c", "x")}, "ac"),
    ({"blocked": True}, "c"),
    ({"blocked": False}, "abd"),
    ({"expired": True, "now": 10.0}, "a"),
    ({"expired": False, "now": 10.0}, "bcd"),
    ({"expired": True, "now": 9.0}, ""),
    ({"text": "ci-"}, "ab"),
    ({"text": "GRÜN"}, "d"),
    ({"text": "100%"}, "c"),
    ({"text": "%"}, "c"),
    ({"text": "_"}, ""),
    ({"text": "/"}, ""),
    ({"text": "x" * 60_000}, ""),
    ({"text": ""}, "abcd"),
    ({"hashes": ("a",) * 40_000}, "a"),
    ({"offset": 10**30}, ""),
    ({"offset": -5}, "abcd"),
    ({"limit": 0}, "d"),
]


async def test_keys_are_found_by_what_they_are(keys: Keys) -> None:
    records = [
        a_key("a", created_at=1.0, alias="CI-a", user="u1", team="t1", expires_at=10.0),
        a_key("b", created_at=2.0, alias="ci-b", user="u1", created_by="boss", expires_at=11.0),
        a_key("c", created_at=3.0, alias="100% sure", user="u2", team="t2", blocked=True),
        a_key("d", created_at=4.0, alias="Grüne Brücke"),
    ]
    for record in records:
        await keys.add(record, ACTOR)

    answers = [(query, "".join(sorted(await found(keys, **query)))) for query, _ in QUERIES]
    counts = [await keys.count(replace(KeyQuery(**query), offset=0)) for query, _ in QUERIES]
    assert answers == QUERIES
    paged = {"offset", "limit"}
    assert [count for count, (query, _) in zip(counts, QUERIES, strict=True) if not paged & query.keys()] == [
        len(expected) for query, expected in QUERIES if not paged & query.keys()
    ]


async def test_a_page_is_never_longer_than_a_thousand(keys: Keys, opened: Transactions) -> None:
    await keys.add(a_key("0000"), ACTOR)

    async def multiply(connection: Any) -> None:
        row = dict((await connection.execute(sa.select(key_table))).mappings().one())
        await connection.execute(sa.insert(key_table), [row | {"hash": f"{number:04}"} for number in range(1, 1002)])

    await opened.write(multiply)
    assert (len(await keys.find(KeyQuery(limit=10**9))), await keys.count(KeyQuery(limit=1))) == (1000, 1002)


# --- Changing -------------------------------------------------------------------------------------------------------


async def test_a_change_gets_what_is_there_and_leaves_what_it_returns(keys: Keys) -> None:
    await keys.add(a_key(fields={"max_budget": 5}), ACTOR)

    changed, taken = await keys.change("aa", lambda record: replace(record, fields={}, blocked=True), ACTOR)

    assert (changed, taken) == (a_key(blocked=True, updated_at=NOON, updated_by="admin"), "")
    assert await keys.get("aa") == changed


async def test_a_change_may_say_itself_when_it_happened(keys: Keys) -> None:
    await keys.add(a_key(), ACTOR)

    changed, _ = await keys.change("aa", lambda record: replace(record, updated_at=7.0, updated_by="x"), ACTOR)

    assert changed == a_key(updated_at=7.0, updated_by="x")


async def test_a_change_that_raises_changes_nothing(keys: Keys, directory: Directory) -> None:
    await keys.add(a_key(), ACTOR)

    def refuse(record: KeyRecord) -> KeyRecord:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest, match="no"):
        await keys.change("aa", refuse, ACTOR)

    assert await keys.get("aa") == a_key()
    assert await actions(directory, "aa") == ["created"]


@pytest.mark.parametrize(("change", "taken"), [({"alias": "mine"}, "alias"), ({"hash": "bb"}, "hash")])
async def test_a_change_cannot_take_what_another_key_has(
    keys: Keys, directory: Directory, change: dict[str, str], taken: str
) -> None:
    await keys.add(a_key("aa", alias="old"), ACTOR)
    await keys.add(a_key("bb", alias="mine"), ACTOR)

    answer = await keys.change("aa", lambda record: replace(record, **change), ACTOR)  # type: ignore[arg-type]

    assert answer == (a_key("aa", alias="old"), taken)
    assert await keys.get("aa") == a_key("aa", alias="old")
    assert await actions(directory, "aa") == ["created"]


async def test_a_key_keeps_its_alias_when_it_changes(keys: Keys) -> None:
    await keys.add(a_key(alias="mine"), ACTOR)

    _, taken = await keys.change("aa", lambda record: replace(record, hash="bb", alias="mine"), ACTOR, "regenerated")

    assert taken == ""
    assert await found(keys, alias="mine") == ["bb"]


async def regenerate(keys: Keys, old: str, new: str) -> str:
    return (await keys.change(old, lambda record: replace(record, hash=new), ACTOR, "regenerated"))[1]


async def test_a_regenerated_key_is_known_by_its_new_hash_only_and_remembers_the_old_ones(
    keys: Keys, opened: Transactions, directory: Directory
) -> None:
    await keys.add(a_key("a"), ACTOR)

    await regenerate(keys, "a", "b")
    await regenerate(keys, "b", "c")

    assert [await keys.get("a"), await keys.get("b")] == [None, None]
    assert await opened.read(lambda connection: lineage(connection, "c")) == ["a", "b"]
    assert await opened.read(lambda connection: lineage(connection, "a")) == []
    assert {record.subject for record in await directory.audit(AuditQuery(action="regenerated"))} == {"b", "c"}


async def test_an_earlier_hash_stays_taken_but_its_own_key_may_go_back_to_it(keys: Keys, opened: Transactions) -> None:
    await keys.add(a_key("a"), ACTOR)
    await keys.add(a_key("x"), ACTOR)
    await regenerate(keys, "a", "b")

    refused = [await keys.add(a_key("a"), ACTOR), await regenerate(keys, "x", "a")]
    back = await regenerate(keys, "b", "a")

    assert (refused, back) == (["hash", "hash"], "")
    assert await opened.read(lambda connection: lineage(connection, "a")) == ["b"]


async def test_a_deleted_keys_earlier_hashes_are_free(keys: Keys, opened: Transactions) -> None:
    await keys.add(a_key("a"), ACTOR)
    await regenerate(keys, "a", "b")

    await keys.delete(["b"], ACTOR)

    assert await keys.add(a_key("a"), ACTOR) == ""
    assert await opened.read(lambda connection: lineage(connection, "b")) == []


# --- Deleting -------------------------------------------------------------------------------------------------------


async def test_deleting_tells_which_keys_were_there(keys: Keys) -> None:
    for name in "abc":
        await keys.add(a_key(name), ACTOR)

    deleted = [await keys.delete(each, ACTOR) for each in (["c", "x", "a", "c"], ["a"], [])]

    assert deleted == [["c", "a"], [], []]
    assert await found(keys) == ["b"]


# --- Resolving ------------------------------------------------------------------------------------------------------


def an_entry(kind: Kind, id: str, team: str = "", user: str = "", **fields: Any) -> Entry:
    return Entry(kind, id, alias=id.upper(), team=team, user=user, fields=fields, created_at=NOON)


async def test_a_key_is_resolved_with_everything_that_it_and_they_name(keys: Keys, directory: Directory) -> None:
    user = an_entry(Kind.USER, "u", budget_id="b1")
    team = an_entry(Kind.TEAM, "t", budget_id="b2")
    member = an_entry(Kind.MEMBER, "t/u", "t", "u", budget_id="b3")
    budgets = [an_entry(Kind.BUDGET, f"b{number}", max_budget=number) for number in range(6)]
    strangers = [an_entry(Kind.USER, "t"), an_entry(Kind.TEAM, "u"), an_entry(Kind.CUSTOMER, "b1")]
    await directory.add([user, team, member, *budgets, *strangers], ACTOR)
    key = a_key(user="u", team="t", fields={"budget_id": "b4"})
    await keys.add(key, ACTOR)

    resolved = await keys.resolve("aa")

    assert resolved is not None
    assert (resolved.key, resolved.user, resolved.team, resolved.member) == (key, user, team, member)
    assert resolved.budgets == {f"b{number}": budgets[number] for number in (1, 2, 3, 4)}


async def test_what_a_key_names_and_is_not_there_is_none(keys: Keys, directory: Directory) -> None:
    await directory.add([an_entry(Kind.USER, "u", budget_id=["b"]), an_entry(Kind.MEMBER, "t/u2", "t", "u2")], ACTOR)
    await keys.add(a_key("a", user="u", team="t", fields={"budget_id": "gone"}), ACTOR)
    await keys.add(a_key("b"), ACTOR)

    with_user, without = await keys.resolve("a"), await keys.resolve("b")

    assert with_user is not None and without is not None
    assert (with_user.user is None, with_user.team, with_user.member, with_user.budgets) == (False, None, None, {})
    assert (without.user, without.team, without.member, without.budgets) == (None, None, None, {})


async def test_a_slash_in_a_name_makes_nobody_a_member(keys: Keys, directory: Directory) -> None:
    await directory.add([an_entry(Kind.MEMBER, "a/b/c", "a/b", "c")], ACTOR)
    await keys.add(a_key("1", team="a", user="b/c"), ACTOR)
    await keys.add(a_key("2", team="a/b", user="c"), ACTOR)

    members = [resolved.member for hash in "12" if (resolved := await keys.resolve(hash))]

    assert members == [None, an_entry(Kind.MEMBER, "a/b/c", "a/b", "c")]


async def test_a_key_is_resolved_by_one_statement(keys: Keys, opened: Transactions) -> None:
    await keys.add(a_key(user="u", team="t", fields={"budget_id": "b"}), ACTOR)
    statements: list[str] = []
    sa.event.listen(
        opened._engines().reader.sync_engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *_: statements.append(statement),
    )

    await keys.resolve("aa")

    assert len([statement for statement in statements if not statement.startswith("BEGIN")]) == 1
