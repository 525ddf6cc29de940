"""Every implementation of `broker.store_interfaces.Files` keeps what its docstring promises."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from broker.store.file_tables import file_chunks
from broker.store.file_tables import files as files_table
from broker.store.files import MAX_CHUNK_BYTES, FileStore
from broker.store.transactions import Transactions
from broker.store_interfaces import Files
from shared.errors import InvalidRequest, NotFound
from tests.conformance.stores import NOON, a_file, transactions
from tests.fakes.clock import FakeClock

MEGABYTE = 1024 * 1024


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Transactions]:
    async with transactions(url) as opened:
        yield opened


@pytest.fixture
def files(opened: Transactions, clock: FakeClock) -> Files:
    return FileStore(opened, clock.now)


async def stored(files: Files, file_id: str = "file-1", content: bytes = b"", **fields: object) -> None:
    """A complete file, written in chunks of ten bytes."""
    await files.create(a_file(file_id, **fields))
    for number, start in enumerate(range(0, len(content), 10)):
        await files.write(file_id, number, content[start : start + 10])
    await files.seal(file_id, len(content))


async def content(files: Files, file_id: str = "file-1", offset: int = 0) -> bytes:
    return b"".join([piece async for piece in files.read(file_id, offset)])


async def ids(files: Files, owner: str | None = None, **query: object) -> list[str]:
    return [record.id for record in await files.find(owner, **query)]  # type: ignore[arg-type]


async def rows(opened: Transactions) -> tuple[int, int]:
    """How many files and chunks there are, whoever may see them."""

    async def count(connection: sa.ext.asyncio.AsyncConnection) -> tuple[int, int]:
        counts = [
            await connection.scalar(sa.select(sa.func.count()).select_from(table))
            for table in (files_table, file_chunks)
        ]
        return counts[0], counts[1]

    return await opened.read(count)


# --- Writing --------------------------------------------------------------------------------------------------------


async def test_a_sealed_file_comes_back_as_it_went_in(files: Files) -> None:
    await stored(files, content=b"0123456789abcdefghij!", filename="ünï.jsonl", expires_at=NOON + 60)

    record = await files.get("file-1")

    assert record == a_file(filename="ünï.jsonl", expires_at=NOON + 60, bytes=21, ready=True)
    assert await content(files) == b"0123456789abcdefghij!"


async def test_a_file_is_visible_to_nobody_before_it_is_sealed(files: Files) -> None:
    await files.create(a_file())
    await files.write("file-1", 0, b"abc")

    assert await files.get("file-1") is None
    assert await ids(files) == []
    assert not await files.delete("file-1")
    with pytest.raises(NotFound):
        await content(files)


async def test_every_step_may_be_taken_twice(files: Files) -> None:
    for _ in range(2):
        await files.create(a_file())
    for _ in range(2):
        await files.write("file-1", 0, b"abc")
    for _ in range(2):
        await files.seal("file-1", 3)
    await files.create(a_file(filename="another"))

    assert await files.get("file-1") == a_file(bytes=3, ready=True)
    assert await content(files) == b"abc"


async def test_a_chunk_that_is_written_again_is_replaced(files: Files) -> None:
    await files.create(a_file())
    await files.write("file-1", 0, b"first")
    await files.write("file-1", 1, b"!")
    await files.write("file-1", 0, b"the second")
    await files.seal("file-1", 11)

    assert await content(files) == b"the second!"


async def test_what_an_earlier_and_longer_try_left_behind_is_no_part_of_the_file(files: Files) -> None:
    await files.create(a_file())
    for number in range(3):
        await files.write("file-1", number, b"old")
    await files.write("file-1", 0, b"new content")
    await files.seal("file-1", 11)

    assert await content(files) == b"new content"


async def test_chunks_may_arrive_in_any_order(files: Files) -> None:
    await files.create(a_file())
    for number in (2, 0, 1):
        await files.write("file-1", number, str(number).encode())
    await files.seal("file-1", 3)

    assert await content(files) == b"012"


async def test_a_chunk_is_at_most_a_megabyte(files: Files) -> None:
    await files.create(a_file())
    await files.write("file-1", 0, bytes(MAX_CHUNK_BYTES))

    with pytest.raises(ValueError, match="at most 1048576"):
        await files.write("file-1", 1, bytes(MAX_CHUNK_BYTES + 1))


async def test_a_file_with_missing_content_is_not_sealed(files: Files) -> None:
    await files.create(a_file())
    await files.write("file-1", 0, b"abc")

    with pytest.raises(InvalidRequest, match="3 of 4 bytes"):
        await files.seal("file-1", 4)

    assert await files.get("file-1") is None


async def test_a_file_that_is_gone_or_complete_takes_no_more_content(files: Files) -> None:
    await stored(files, content=b"abc")

    for file_id in ("file-1", "file-unknown"):
        with pytest.raises(NotFound):
            await files.write(file_id, 0, b"xyz")
    with pytest.raises(NotFound):
        await files.seal("file-unknown", 0)

    assert await content(files) == b"abc"


async def test_an_empty_file_is_a_file(files: Files) -> None:
    await stored(files, content=b"")

    assert await files.get("file-1") == a_file(bytes=0, ready=True)
    assert await content(files) == b""


async def test_text_that_no_database_holds_is_replaced_and_found_nowhere(files: Files) -> None:
    await stored(files, filename="a\x00b\ud800.jsonl")

    record = await files.get("file-1")

    assert record is not None
    assert record.filename == "a\ufffdb\ufffd.jsonl"
    assert await files.get("file-\x00") is None
    assert await ids(files, "\ud800", after="\x00", purpose="\x00") == []


# --- Reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 9, 10, 11, 24, 25, 1000])
async def test_reading_begins_at_any_byte(files: Files, offset: int) -> None:
    whole = bytes(range(25))
    await stored(files, content=whole)

    assert await content(files, offset=offset) == whole[offset:]


async def test_a_reader_of_a_deleted_file_is_told_and_never_takes_a_part_for_the_whole(files: Files) -> None:
    await stored(files, content=bytes(25))
    reader = files.read("file-1")
    assert len(await anext(reader)) == 10

    await files.delete("file-1")

    with pytest.raises(NotFound, match="deleted while it was read"):
        await anext(reader)


async def test_a_large_file_passes_in_constant_memory(shared_url: str, clock: FakeClock) -> None:
    async with transactions(shared_url) as opened:
        files = FileStore(opened, clock.now)
        await files.create(a_file())
        chunk = b"x" * MEGABYTE
        tracemalloc.start()
        try:
            for number in range(24):
                await files.write("file-1", number, chunk)
            await files.seal("file-1", 24 * MEGABYTE)
            size = 0
            async for piece in files.read("file-1"):
                assert len(piece) <= MEGABYTE
                size += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert size == 24 * MEGABYTE
    assert peak < 12 * MEGABYTE


# --- Finding --------------------------------------------------------------------------------------------------------


async def test_another_owners_file_is_as_good_as_not_there(files: Files) -> None:
    await stored(files, content=b"abc")

    assert await files.get("file-1", "bob") is None
    assert await ids(files, "bob") == []
    assert not await files.delete("file-1", "bob")
    assert await files.get("file-1", "alice") is not None
    assert await ids(files, None) == ["file-1"]


async def test_an_expired_file_is_as_good_as_not_there(files: Files, clock: FakeClock) -> None:
    await stored(files, expires_at=NOON + 60)
    clock.advance(59.9)
    assert await ids(files) == ["file-1"]

    clock.advance(0.1)

    assert await files.get("file-1") is None
    assert await ids(files) == []
    assert not await files.delete("file-1")


@pytest.mark.parametrize(("newest_first", "expected"), [(True, "edcba"), (False, "abcde")])
async def test_pages_join_to_the_whole_in_either_order(files: Files, newest_first: bool, expected: str) -> None:
    for name, age in zip("abcde", (5, 3, 3, 3, 1), strict=True):  # three of them are of the same second
        await stored(files, name, created_at=NOON - age)

    found: list[str] = []
    while page := await ids(files, limit=2, after=found[-1] if found else None, newest_first=newest_first):
        found += page

    assert "".join(found) == expected


async def test_a_page_goes_on_after_a_file_of_the_same_owner_only(files: Files) -> None:
    await stored(files, "a", owner="alice", created_at=NOON - 1)
    await stored(files, "b", owner="bob", created_at=NOON)

    assert await ids(files, "alice", after="b") == []
    assert await ids(files, "alice", after="unknown") == []
    assert await ids(files, None, after="b") == ["a"]


async def test_files_are_found_by_purpose(files: Files) -> None:
    await stored(files, "in", purpose="batch")
    await stored(files, "out", purpose="batch_output")

    assert await ids(files, purpose="batch_output") == ["out"]


@pytest.mark.parametrize(("limit", "found"), [(-1, 1), (0, 1), (2, 2), (10**9, 3)])
async def test_a_page_has_at_least_one_row(files: Files, limit: int, found: int) -> None:
    for name in "abc":
        await stored(files, name)

    assert len(await ids(files, limit=limit)) == found


# --- Deleting -------------------------------------------------------------------------------------------------------


async def test_a_deleted_file_is_gone_with_its_content(files: Files, opened: Transactions) -> None:
    await stored(files, content=bytes(1000))

    deleted = [await files.delete("file-1", "alice") for _ in range(2)]

    assert deleted == [True, False]
    assert await files.get("file-1") is None
    assert await rows(opened) == (0, 0)


async def test_a_large_file_is_deleted_in_pages_between_which_others_write(
    files: Files, opened: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(files, content=bytes(1000))
    left: list[int] = []
    write = opened.write

    async def note(self: Transactions, work: object) -> object:
        result = await write(work)  # type: ignore[arg-type]
        left.append((await rows(opened))[1])
        return result

    monkeypatch.setattr(Transactions, "write", note)

    await files.delete("file-1")

    assert left == [*range(100, -1, -4), 0]


async def test_expired_and_abandoned_files_are_purged_and_no_others(
    files: Files, opened: Transactions, clock: FakeClock
) -> None:
    await stored(files, "kept", content=bytes(25))
    await stored(files, "kept longer", content=bytes(25), expires_at=NOON + 61)
    await stored(files, "expired", content=bytes(25), expires_at=NOON + 60)
    await files.create(a_file("abandoned", created_at=NOON - 10))
    await files.write("abandoned", 0, b"abc")
    await files.create(a_file("being written", created_at=NOON))
    clock.advance(60)

    purged = await files.purge(clock.now(), abandoned_before=NOON, limit=10)

    assert purged == 2
    assert sorted(await ids(files)) == ["kept", "kept longer"]
    assert await rows(opened) == (3, 6)
    await files.write("being written", 0, b"abc")


async def test_a_purge_stops_at_its_limit(files: Files) -> None:
    for name in "abc":
        await stored(files, name, expires_at=NOON + 1)

    purged = [await files.purge(NOON + 2, abandoned_before=0, limit=2) for _ in range(3)]

    assert purged == [2, 1, 0]


async def test_what_an_interrupted_delete_left_is_purged(
    files: Files, opened: Transactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(files, content=bytes(1000))
    write, calls = opened.write, iter([True, True])

    async def die_after_two(self: Transactions, work: object) -> object:
        if not next(calls, False):
            raise RuntimeError("the process dies")
        return await write(work)  # type: ignore[arg-type]

    with monkeypatch.context() as dying:
        dying.setattr(Transactions, "write", die_after_two)
        with pytest.raises(RuntimeError):
            await files.delete("file-1")
    assert await files.get("file-1") is None
    assert await rows(opened) == (1, 96)

    assert await files.purge(NOON, abandoned_before=NOON + 1, limit=10) == 1
    assert await rows(opened) == (0, 0)


async def test_many_files_are_written_at_once(files: Files) -> None:
    names = [f"file-{number}" for number in range(20)]

    await asyncio.gather(*(stored(files, name, content=name.encode() * 10) for name in names))

    assert [await content(files, name) for name in names] == [name.encode() * 10 for name in names]
