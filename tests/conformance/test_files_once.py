"""Files under idempotency keys: of one key there is one file, on every database."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import KeyedFile
from broker.store.file_tables import file_keys
from broker.store.file_tables import files as files_table
from broker.store.files import FileStore
from broker.store.transactions import Transactions
from broker.store_interfaces import Files
from shared.errors import InvalidRequest, NotFound
from tests.conformance.stores import NOON, a_file, transactions
from tests.fakes.clock import FakeClock


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def files(opened: Transactions, clock: FakeClock) -> Files:
    return FileStore(opened, clock.now)


async def once(files: Files, file_id: str = "file-1", key: str = "k", asked: str = "hash", **fields: object) -> object:
    """Upload a file of three bytes under a key."""
    record = a_file(file_id, **fields)
    await files.create(record)
    await files.write(file_id, 0, b"abc")
    return await files.seal_once(replace(record, bytes=3), key, asked)


async def visible(files: Files) -> list[str]:
    return [record.id for record in await files.find(None)]


async def keys(opened: Transactions) -> list[str]:
    """The files that have keys."""
    return await listed(opened, sa.select(file_keys.c.file_id).order_by(file_keys.c.file_id))


async def listed(opened: Transactions, statement: sa.Select[tuple[str]]) -> list[str]:
    async def read(connection: AsyncConnection) -> list[str]:
        return list(await connection.scalars(statement))

    return await opened.read(read)


async def test_the_first_file_under_a_key_is_sealed_with_what_its_form_says(files: Files) -> None:
    record = a_file(purpose="")
    await files.create(record)
    await files.write("file-1", 0, b"abc")
    said = replace(record, purpose="evals", expires_at=NOON + 60, bytes=3)

    assert await files.seal_once(said, "k", "hash") is None

    assert await files.get("file-1") == replace(said, ready=True)
    assert [piece async for piece in files.read("file-1")] == [b"abc"]


async def test_a_second_file_under_a_key_is_not_sealed_and_the_first_one_is_told(files: Files) -> None:
    await once(files, asked="one")

    holder = await once(files, "file-2", asked="two")

    assert holder == KeyedFile(a_file(bytes=3, ready=True), "one")
    assert await visible(files) == ["file-1"]


async def test_keys_and_owners_keep_files_apart(files: Files) -> None:
    sealed = [await once(files), await once(files, "file-2", key="l"), await once(files, "file-3", owner="bob")]

    assert sealed == [None, None, None]


async def test_of_many_uploads_at_once_under_a_key_one_is_sealed(files: Files) -> None:
    names = [f"file-{number}" for number in range(8)]

    told = await asyncio.gather(*(once(files, name) for name in names))

    (sealed,) = await visible(files)
    assert [name for name, holder in zip(names, told, strict=True) if holder is None] == [sealed]
    assert {holder.file.id for holder in told if isinstance(holder, KeyedFile)} == {sealed}


async def test_sealing_once_twice_is_sealing_once(files: Files) -> None:
    await once(files)

    again = await files.seal_once(a_file(bytes=3), "k", "hash")

    assert again is None
    assert await files.get("file-1") == a_file(bytes=3, ready=True)


@pytest.mark.parametrize(("after", "held"), [(86_400.0, True), (86_400.1, False)])
async def test_a_key_stands_for_a_file_for_a_day_from_its_creation(
    files: Files, opened: Transactions, clock: FakeClock, after: float, held: bool
) -> None:
    await once(files)
    clock.advance(after)

    holder = await once(files, "file-2", created_at=clock.now())

    assert (holder is not None) == held
    assert await keys(opened) == ["file-1" if held else "file-2"]
    assert await files.get("file-1") is not None


async def test_a_deleted_file_frees_its_key(files: Files, opened: Transactions) -> None:
    await once(files)
    await files.delete("file-1")

    assert await keys(opened) == []
    assert await once(files, "file-2") is None


async def test_a_file_whose_content_is_still_being_deleted_has_freed_its_key(
    files: Files, opened: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await once(files)

    async def die(self: FileStore, file_id: str) -> None:
        """The process ends before the content is removed."""

    monkeypatch.setattr(FileStore, "_remove", die)
    await files.delete("file-1")

    assert await once(files, "file-2") is None
    assert await keys(opened) == ["file-2"]


async def test_an_expired_file_frees_its_key_before_it_is_purged_and_after(
    files: Files, opened: Transactions, clock: FakeClock
) -> None:
    await once(files, expires_at=NOON + 60)
    clock.advance(60)

    assert await once(files, "file-2", expires_at=NOON + 120) is None
    clock.advance(60)
    await files.purge(clock.now(), abandoned_before=0, limit=10)

    assert await keys(opened) == []


async def test_a_file_that_cannot_be_sealed_takes_no_key(files: Files, opened: Transactions) -> None:
    await files.create(a_file())

    with pytest.raises(InvalidRequest, match="0 of 3 bytes"):
        await files.seal_once(a_file(bytes=3), "k", "hash")
    with pytest.raises(NotFound):
        await files.seal_once(a_file("file-unknown"), "k", "hash")

    assert await keys(opened) == []
    assert await files.get("file-1") is None


async def test_an_abandoned_upload_under_a_key_leaves_nothing(files: Files, opened: Transactions) -> None:
    await once(files)
    await once(files, "file-2")

    await files.abandon("file-2")

    assert await listed(opened, sa.select(files_table.c.id)) == ["file-1"]
    assert await keys(opened) == ["file-1"]
