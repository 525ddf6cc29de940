"""Idempotency keys of files: who has one, and who gets it."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import FileRecord, KeyedFile
from broker.store.file_tables import file_keys, files
from broker.store.job_rows import Condition
from broker.store.paging import upsert
from shared.errors import NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Key:
    owner: str
    name: str
    request_hash: str


async def take(connection: AsyncConnection, file_id: str, key: Key, holds: Sequence[Condition]) -> KeyedFile | None:
    """Give the key to the file, which is about to be sealed, and return None; or return the file that has it already.
    `holds` are the conditions on which a file keeps its key.

    Raises `NotFound` when the file is gone, and `Unavailable` when the key's file is being deleted.
    """
    await _lock(connection, file_id)
    held = sa.exists().where(files.c.id == file_keys.c.file_id, *holds)
    other = file_keys.c.file_id != file_id
    await connection.execute(sa.delete(file_keys).where(*_is(key), other, ~held))
    row = {"file_id": file_id, "owner": key.owner, "idempotency_key": key.name, "request_hash": key.request_hash}
    await connection.execute(upsert(connection, file_keys).values(row).on_conflict_do_nothing())
    if await connection.scalar(sa.select(file_keys.c.file_id).where(*_is(key))) == file_id:
        return None
    return await _holder(connection, key, holds)


async def _lock(connection: AsyncConnection, file_id: str) -> None:
    """Nobody purges the file before the transaction ends."""
    statement = sa.select(files.c.id).where(files.c.id == file_id).with_for_update()
    if await connection.scalar(statement) is None:
        raise NotFound(f"File {file_id} cannot be completed: it is gone.")


async def _holder(connection: AsyncConnection, key: Key, holds: Sequence[Condition]) -> KeyedFile:
    statement = sa.select(files, file_keys.c.request_hash).join(file_keys, file_keys.c.file_id == files.c.id)
    row = (await connection.execute(statement.where(*_is(key), *holds))).one_or_none()
    if row is None:
        raise Unavailable("The file that has this idempotency key is being deleted: send the upload again.")
    fields = dict(row._mapping)
    request_hash = fields.pop("request_hash")
    return KeyedFile(FileRecord(**fields), request_hash)


def _is(key: Key) -> list[Condition]:
    return [file_keys.c.owner == key.owner, file_keys.c.idempotency_key == key.name]
