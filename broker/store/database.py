"""The store on SQLite or PostgreSQL: connections, transactions, retries, and foreign errors turned into ours."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from broker.interfaces import DailySpend, SpendQuery, SpendSummary
from broker.store import ledger, revisions
from shared.errors import AppError, InvalidRequest, Unavailable
from shared.jobs import Outcome

_POOL_SIZE = 5
_CONNECT_TIMEOUT = 5.0  # seconds; also for a free connection of the pool
_STATEMENT_TIMEOUT = 15.0  # seconds
_MIGRATION_TIMEOUT = 600.0  # seconds; on a large table, and while another process migrates
_BUSY_TIMEOUT = 5.0  # seconds that SQLite waits for another process's transaction

_ATTEMPTS = 3
_RETRY_DELAY = 0.05  # seconds, doubled each time

T = TypeVar("T")


def connect(url: str) -> "Database":
    """A store at `sqlite:///path`, `sqlite://` (in memory) or `postgresql://user:password@host:port/name`.

    PostgreSQL's address is taken as libpq and Prisma write it: `sslmode`, `schema`, `connection_limit` (at most 5),
    `connect_timeout` and `pgbouncer=true` are honoured, other settings of Prisma's engine have no meaning here. Raises
    `ValueError` for any other scheme. Nothing is opened before the store is entered, and no connection made before it
    is used.
    """
    match urlsplit(url).scheme:
        case "sqlite":
            return Database(lambda: _open_sqlite(url))
        case "postgresql" | "postgres" | "postgresql+asyncpg":
            return Database(lambda: _open_postgres(url))
        case scheme:
            raise ValueError(f"unknown database scheme {scheme!r}: expected sqlite, postgresql or postgres")


@dataclass(frozen=True, slots=True)
class Engines:
    """Connections by what they are for. SQLite has one writer at a time: its writers queue here and not at the file."""

    reader: AsyncEngine
    writer: AsyncEngine
    migrator: AsyncEngine

    async def dispose(self) -> None:
        for engine in {self.reader, self.writer, self.migrator}:
            await engine.dispose()


class Database:
    """A `broker.interfaces.Store`."""

    def __init__(self, open_engines: Callable[[], Engines]) -> None:
        self._open_engines = open_engines
        self._engines: Engines | None = None

    async def __aenter__(self) -> Self:
        self._engines = self._open_engines()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engines is not None:
            await self._engines.dispose()
            self._engines = None

    async def migrate(self) -> None:
        from broker.store import migrations  # Alembic is slow to import and needed once a process

        await _transaction(self._open.migrator, migrations.upgrade)

    async def current(self) -> bool:
        """Whether the schema is that of this version: `migrate` would change nothing."""
        return await _transaction(self._open.reader, revisions.is_newest)

    async def record(self, outcomes: Sequence[Outcome]) -> int:
        if not outcomes:
            return 0
        rows = ledger.encode(outcomes)
        return await _transaction(self._open.writer, lambda connection: ledger.insert(connection, rows, time.time()))

    async def spend(self, query: SpendQuery) -> list[Outcome]:
        return await _transaction(self._open.reader, lambda connection: ledger.select(connection, query))

    async def daily(self, query: SpendQuery) -> list[DailySpend]:
        return await _transaction(self._open.reader, lambda connection: ledger.daily(connection, query))

    async def summary(self) -> SpendSummary:
        return await _transaction(self._open.reader, ledger.summary)

    async def ping(self) -> None:
        await _transaction(self._open.reader, lambda connection: connection.execute(sa.text("SELECT 1")))

    @property
    def _open(self) -> Engines:
        if self._engines is None:
            raise Unavailable("the database is not open")
        return self._engines


# --- Transactions ---------------------------------------------------------------------------------------------------


async def _transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in a transaction, again when its connection proved dead or another transaction got in the way.

    A connection may die while it commits, and then the work is done twice: it must be idempotent.
    """
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


async def _attempts(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
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


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _open_sqlite(url: str) -> Engines:
    address = sa.make_url(url).set(drivername="sqlite+aiosqlite")
    if address.database in (None, "", ":memory:"):
        only = _sqlite_engine(address, 1, "BEGIN IMMEDIATE")  # another connection would see another database
        return Engines(reader=only, writer=only, migrator=only)
    writer = _sqlite_engine(address, 1, "BEGIN IMMEDIATE")
    return Engines(reader=_sqlite_engine(address, _POOL_SIZE - 1, "BEGIN"), writer=writer, migrator=writer)


def _sqlite_engine(address: sa.URL, size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(
        address,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=_STATEMENT_TIMEOUT,
        hide_parameters=True,
        json_deserializer=orjson.loads,
    )

    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def check(*_: object) -> None:
        # SQLite's own message does not name the file.
        if address.database and not (folder := Path(address.database).parent).is_dir():
            raise FileNotFoundError(f"{address.database}: there is no folder {folder}")

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's own BEGIN is lazy and leaves DDL out of transactions
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT * 1000)}")
            cursor.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            # A commit survives a crash of the process; after a crash of the machine the last ones may be missing.
            cursor.execute("PRAGMA synchronous = NORMAL")
            cursor.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

# What asyncpg understands of libpq's parameters in an address; it sends any other to the server, which refuses them.
_LIBPQ_PARAMETERS = frozenset(
    {"host", "port", "user", "password", "dbname", "passfile", "options", "target_session_attrs"}
    | {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"}
)


def _open_postgres(url: str) -> Engines:
    parameters = dict(parse_qsl(urlsplit(url).query))
    size = min(_number(parameters, "connection_limit") or _POOL_SIZE, _POOL_SIZE)
    pool = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=_connect_arguments(url, parameters, _STATEMENT_TIMEOUT),
        pool_size=size,
        max_overflow=0,
        pool_timeout=_CONNECT_TIMEOUT,
        hide_parameters=True,
        json_deserializer=orjson.loads,
    )
    migrator = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=_connect_arguments(url, parameters, _MIGRATION_TIMEOUT),
        poolclass=NullPool,
        hide_parameters=True,
    )
    return Engines(reader=pool, writer=pool, migrator=migrator)


def _connect_arguments(url: str, parameters: dict[str, str], timeout: float) -> dict[str, Any]:
    settings = {"application_name": parameters.get("application_name", "headrace")}
    arguments: dict[str, Any] = {
        "dsn": _dsn(url, parameters),
        "timeout": _number(parameters, "connect_timeout") or _CONNECT_TIMEOUT,
        "command_timeout": timeout,
        "server_settings": settings,
    }
    if (schema := parameters.get("schema", "public")) != "public":
        settings["search_path"] = f'"{schema}"'
    if parameters.get("pgbouncer") == "true":
        # Its connections change between transactions, and prepared statements stay behind on the old one.
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        arguments["prepared_statement_name_func"] = lambda: f"headrace_{uuid4().hex}"
    else:
        settings["statement_timeout"] = str(int(timeout * 1000))  # PgBouncer refuses settings that it does not know
    return arguments


def _dsn(url: str, parameters: dict[str, str]) -> str:
    known = {name: value for name, value in parameters.items() if name in _LIBPQ_PARAMETERS}
    parts = urlsplit(url)
    return parts._replace(scheme="postgresql", query=urlencode(known)).geturl()


def _number(parameters: dict[str, str], name: str) -> int:
    """A whole number over 0, or 0 for everything else."""
    value = parameters.get(name, "")
    return int(value) if value.isdecimal() else 0
