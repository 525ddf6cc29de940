"""Units of work on a database: begun, committed, tried again where that helps, and foreign errors turned into ours."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.errors import AppError, InvalidRequest, Unavailable

_ATTEMPTS = 3
_RETRY_DELAY = 0.05  # seconds, doubled each time

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Engines:
    """Connections by what they are for. SQLite has one writer at a time: its writers queue here and not at the file."""

    reader: AsyncEngine
    writer: AsyncEngine
    migrator: AsyncEngine
    autocommit: AsyncEngine
    """Each statement is its own transaction, where the database knows such a thing: no round trips around it."""

    async def dispose(self) -> None:
        for engine in {self.reader, self.writer, self.migrator}:
            await engine.dispose()


class Transactions:
    """Runs work in a transaction, again when its connection proved dead or another transaction got in the way.

    A connection may die while it commits, and then the work is done twice: it must be idempotent, and keep nothing from
    its first run. Every method raises `Unavailable` when the database cannot be reached or fails, and `InvalidRequest`
    when it refuses the data: trying again does not help then.
    """

    def __init__(self, engines: Callable[[], Engines]) -> None:
        """`engines` may raise `Unavailable` while the database is not open."""
        self._engines = engines

    async def read(self, work: Work[T]) -> T:
        return await _transaction(self._engines().reader, work)

    async def read_at_once(self, work: Work[T]) -> T:
        """As `read`, for work that is one statement: on PostgreSQL one round trip."""
        engines = self._engines()
        on_sqlite = engines.reader.dialect.name == "sqlite"  # where the writer would do it, and nothing is saved
        return await _transaction(engines.reader if on_sqlite else engines.autocommit, work)

    async def write(self, work: Work[T]) -> T:
        return await _transaction(self._engines().writer, work)

    async def write_at_once(self, work: Work[T]) -> T:
        """As `write`, for work that is one statement."""
        return await _transaction(self._engines().autocommit, work)

    async def migrate(self, work: Work[T]) -> T:
        """On a connection whose statements may take minutes."""
        return await _transaction(self._engines().migrator, work)


async def _transaction(engine: AsyncEngine, work: Work[T]) -> T:
    attempts = _attempts(engine, work)
    return await (_to_the_end(attempts) if engine.dialect.name == "sqlite" else attempts)


async def _to_the_end(attempts: Coroutine[Any, Any, T]) -> T:
    """A cancellation waits. SQLite's thread cannot stop halfway, and abandoned it would take its connection along, with
    a database in memory everything."""
    task = asyncio.create_task(attempts)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _attempts(engine: AsyncEngine, work: Work[T]) -> T:
    attempt = 1
    while True:
        try:
            async with engine.begin() as connection:
                return await work(connection)
        except DBAPIError as exc:
            if attempt == _ATTEMPTS or not _passes(exc):
                raise _translated(exc) from exc
        except (PoolTimeout, TimeoutError) as exc:
            raise Unavailable("the database did not answer in time") from exc
        except OSError as exc:
            raise Unavailable(f"the database cannot be reached: {exc}") from exc
        await asyncio.sleep(_RETRY_DELAY * 2**attempt)
        attempt += 1


_PASSING_STATES = ("40001", "40P01")  # serialization failure, deadlock
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

# PostgreSQL's classes of errors that are the data's doing: data exception, integrity, limits of the program.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_DATA_CLASSES = ("22", "23", "54")


def _passes(exc: DBAPIError) -> bool:
    code = getattr(exc.orig, "sqlite_errorcode", None)
    return exc.connection_invalidated or _state(exc) in _PASSING_STATES or (code is not None and code & 0xFF in _BUSY)


def _translated(exc: DBAPIError) -> AppError:
    # Only the driver's own words: SQLAlchemy's message carries the statement and its parameters.
    if _state(exc)[:2] in _DATA_CLASSES or isinstance(exc, sa.exc.IntegrityError | sa.exc.DataError):
        return InvalidRequest(f"the database refused a row: {exc.orig}")
    return Unavailable(f"the database failed: {exc.orig}")


def _state(exc: DBAPIError) -> str:
    return getattr(exc.orig, "sqlstate", None) or ""
