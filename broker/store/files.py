"""Files: a row for what is known of one, and its content in chunks, so that no step holds more than one of them."""

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import FileRecord, KeyedFile
from broker.store import file_keys
from broker.store.file_tables import file_chunks, files
from broker.store.job_tables import IDEMPOTENCY_WINDOW
from broker.store.paging import Order, upsert
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest, NotFound

MAX_CHUNK_BYTES = 1024 * 1024
MAX_FILES = 10_000
"""A page of files is never longer."""

_DELETED_AT_ONCE = 4  # chunks, 4 MiB: on SQLite other writers were measured to wait 40 ms for that
_ORDER = Order(files, "created_at", "id")


class FileStore:
    """A `broker.store_interfaces.Files`. `now` gives seconds since the epoch."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._now = now

    async def create(self, record: FileRecord) -> None:
        async def insert(connection: AsyncConnection) -> None:
            values = {name: getattr(record, name) for name in FileRecord.__slots__}
            await connection.execute(upsert(connection, files).values(values).on_conflict_do_nothing())

        await self._transactions.write(insert)

    async def write(self, file_id: str, number: int, data: bytes) -> None:
        """Raises `NotFound` when there is no such file to write to: never created, purged as abandoned, or sealed."""
        if len(data) > MAX_CHUNK_BYTES:
            raise ValueError(f"chunk {number} of {file_id} has {len(data)} bytes: at most {MAX_CHUNK_BYTES}")
        if not await self._transactions.write(lambda connection: _write(connection, file_id, number, data)):
            raise NotFound(f"File {file_id} is not being written: it is gone or complete.")

    async def seal(
        self, file_id: str, size: int, *, purpose: str | None = None, expires_at: float | None = None
    ) -> None:
        """Raises `InvalidRequest` when fewer than `size` bytes were written, `NotFound` when there is no such file."""
        given = {"bytes": size, "purpose": purpose, "expires_at": expires_at}
        await self._transactions.write(lambda connection: _seal(connection, file_id, given))

    async def seal_once(self, record: FileRecord, idempotency_key: str, request_hash: str) -> KeyedFile | None:
        """Raises as `seal` does, and `Unavailable` when the key changes hands meanwhile."""
        key = file_keys.Key(record.owner, idempotency_key, request_hash)
        holds = [*self._visible(record.owner), files.c.created_at >= self._now() - IDEMPOTENCY_WINDOW]
        given = {"bytes": record.bytes, "purpose": record.purpose, "expires_at": record.expires_at}

        async def seal(connection: AsyncConnection) -> KeyedFile | None:
            holder = await file_keys.take(connection, record.id, key, holds)
            if holder is None:
                await _seal(connection, record.id, given)
            return holder

        return await self._transactions.write(seal)

    async def abandon(self, file_id: str) -> None:
        async def unsealed(connection: AsyncConnection) -> bool:
            statement = sa.select(files.c.id).where(files.c.id == file_id, sa.not_(files.c.ready))
            return await connection.scalar(statement) is not None

        if await self._transactions.read(unsealed):
            await self._remove(file_id)

    async def get(self, file_id: str, owner: str | None = None) -> FileRecord | None:
        async def get(connection: AsyncConnection) -> FileRecord | None:
            statement = sa.select(files).where(files.c.id == file_id, *self._visible(owner))
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else _record(row)

        return await self._transactions.read(get)

    async def find(
        self, owner: str | None, *, purpose: str | None = None, after: str | None = None, limit: int = 100,
        newest_first: bool = True,
    ) -> list[FileRecord]:  # fmt: skip
        async def find(connection: AsyncConnection) -> list[FileRecord]:
            statement = _ORDER.page(limit, MAX_FILES, newest_first=newest_first).where(*self._visible(owner))
            if purpose is not None:
                statement = statement.where(files.c.purpose == purpose)
            if after is not None:
                statement = statement.where(_ORDER.beyond(after, owner, newest_first=newest_first))
            return [_record(row) for row in await connection.execute(statement)]

        return await self._transactions.read(find)

    async def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Raises `NotFound` when there is no such file, and in the middle when it is deleted meanwhile: a reader never
        takes a part for the whole."""
        record = await self.get(file_id)
        if record is None:
            raise NotFound(f"No such File object: {file_id}")
        missing = record.bytes - offset
        if missing <= 0:
            return
        number, skip = await self._transactions.read(lambda connection: _locate(connection, file_id, offset))
        while missing > 0:
            chunk = await self._transactions.read(partial(_chunk, file_id=file_id, number=number))
            piece = chunk[skip : skip + missing]
            number, skip, missing = number + 1, 0, missing - len(piece)
            yield piece

    async def delete(self, file_id: str, owner: str | None = None) -> bool:
        """Gone for everybody at once; its content follows page by page. What a crash leaves of it, `purge` takes for
        abandoned."""
        statement = sa.update(files).where(files.c.id == file_id, *self._visible(owner)).values(ready=False)
        deleted = (await self._transactions.write(lambda connection: connection.execute(statement))).rowcount
        if deleted:
            await self._remove(file_id)
        return bool(deleted)

    async def purge(self, now: float, abandoned_before: float, limit: int) -> int:
        abandoned = sa.and_(sa.not_(files.c.ready), files.c.created_at < abandoned_before)
        garbage = sa.select(files.c.id).where(sa.or_(files.c.expires_at <= now, abandoned)).limit(limit)

        async def find(connection: AsyncConnection) -> list[str]:
            ids = list(await connection.scalars(garbage))
            await connection.execute(sa.update(files).where(files.c.id.in_(ids)).values(ready=False))
            return ids

        ids = await self._transactions.write(find)
        for file_id in ids:
            await self._remove(file_id)
        return len(ids)

    def _visible(self, owner: str | None) -> list[sa.ColumnElement[bool]]:
        conditions = [files.c.ready, sa.or_(files.c.expires_at.is_(None), files.c.expires_at > self._now())]
        return conditions if owner is None else [*conditions, files.c.owner == owner]

    async def _remove(self, file_id: str) -> None:
        while await self._transactions.write(lambda connection: _remove_page(connection, file_id)):
            pass


async def _write(connection: AsyncConnection, file_id: str, number: int, data: bytes) -> bool:
    # From a select, so that a late writer neither changes what others read already nor adds to a file that is gone.
    values = sa.select(
        files.c.id,
        sa.literal(number, sa.Integer),
        sa.literal(len(data), sa.Integer),
        sa.literal(data, sa.LargeBinary),
    ).where(files.c.id == file_id, sa.not_(files.c.ready))
    statement = upsert(connection, file_chunks).from_select(["file_id", "number", "size", "data"], values)
    statement = statement.on_conflict_do_update(
        index_elements=["file_id", "number"],
        set_={"size": statement.excluded.size, "data": statement.excluded.data},
    )
    return bool((await connection.execute(statement)).rowcount)


async def _seal(connection: AsyncConnection, file_id: str, given: dict[str, Any]) -> None:
    values = {name: value for name, value in given.items() if value is not None}
    statement = sa.update(files).where(files.c.id == file_id).values(ready=True, **values)
    if not (await connection.execute(statement)).rowcount:
        raise NotFound(f"File {file_id} cannot be completed: it is gone.")
    sizes = sa.select(sa.func.coalesce(sa.func.sum(file_chunks.c.size), 0))
    written = await connection.scalar(sizes.where(file_chunks.c.file_id == file_id))
    if written is None or written < given["bytes"]:
        raise InvalidRequest(f"File {file_id} cannot be completed: {written} of {given['bytes']} bytes were written.")


async def _locate(connection: AsyncConnection, file_id: str, offset: int) -> tuple[int, int]:
    """The number of the chunk with that byte, and the byte's place in it."""
    chunks = file_chunks.c
    end = sa.func.sum(chunks.size).over(order_by=chunks.number)
    ends = sa.select(chunks.number, chunks.size, end.label("end")).where(chunks.file_id == file_id).subquery()
    statement = sa.select(ends.c.number, ends.c.end - ends.c.size).where(ends.c.end > offset)
    row = (await connection.execute(statement.order_by(ends.c.number).limit(1))).one_or_none()
    if row is None:
        raise _deleted(file_id)
    return int(row[0]), offset - int(row[1])


async def _chunk(connection: AsyncConnection, file_id: str, number: int) -> bytes:
    chunks = file_chunks.c
    data = await connection.scalar(sa.select(chunks.data).where(chunks.file_id == file_id, chunks.number == number))
    if data is None:
        raise _deleted(file_id)
    return bytes(data)


def _deleted(file_id: str) -> NotFound:
    return NotFound(f"File {file_id} was deleted while it was read.")


async def _remove_page(connection: AsyncConnection, file_id: str) -> bool:
    """Delete some chunks, or the row when none is left; whether there may be more to delete."""
    chunks = file_chunks.c
    numbers = sa.select(chunks.number).where(chunks.file_id == file_id).order_by(chunks.number).limit(_DELETED_AT_ONCE)
    page = sa.delete(file_chunks).where(chunks.file_id == file_id, chunks.number.in_(numbers))
    if (await connection.execute(page)).rowcount:
        return True
    await connection.execute(sa.delete(files).where(files.c.id == file_id, sa.not_(files.c.ready)))
    return False


def _record(row: sa.Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)
