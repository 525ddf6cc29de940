"""Every implementation of `broker.store_interfaces.Keys` keeps what its docstring promises."""

from collections.abc import AsyncIterator

import pytest

from broker.records import KeyRecord
from broker.store.keys import KeyStore
from broker.store_interfaces import Keys
from shared.errors import InvalidRequest
from tests.conformance.stores import NOON, a_key, transactions


@pytest.fixture
async def keys(url: str) -> AsyncIterator[Keys]:
    async with transactions(url) as opened:
        yield KeyStore(opened)


async def hashes(keys: Keys, **query: object) -> list[str]:
    return [record.hash for record in await keys.find(**query)]  # type: ignore[arg-type]


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
    )

    assert await keys.add(record)

    assert await keys.get(record.hash) == record


async def test_a_key_is_added_once(keys: Keys) -> None:
    added = [await keys.add(a_key()), await keys.add(a_key(alias="another"))]

    assert added == [True, False]
    assert await keys.get("aa") == a_key()


async def test_an_unknown_key_is_none(keys: Keys) -> None:
    assert await keys.get("bb") is None


async def test_metadata_that_the_database_cannot_hold_is_refused_or_kept_whole(keys: Keys) -> None:
    try:
        await keys.add(a_key(metadata={"a": "\x00"}))
    except InvalidRequest:
        assert await keys.get("aa") is None
    else:
        assert await keys.get("aa") == a_key(metadata={"a": "\x00"})


async def test_the_newest_come_first_page_by_page(keys: Keys) -> None:
    for number in (3, 1, 5, 2, 4):
        await keys.add(a_key(f"k{number}", created_at=NOON + number // 2))

    first = await hashes(keys, limit=2)
    second = await hashes(keys, limit=2, after=first[-1])
    third = await hashes(keys, limit=2, after=second[-1])

    assert (first, second, third) == (["k5", "k4"], ["k3", "k2"], ["k1"])


async def test_deleting_tells_which_keys_were_there(keys: Keys) -> None:
    for name in "abc":
        await keys.add(a_key(name))

    deleted = [sorted(await keys.delete(["a", "c", "x"])), await keys.delete(["a"]), await keys.delete([])]

    assert deleted == [["a", "c"], [], []]
    assert await hashes(keys) == ["b"]
