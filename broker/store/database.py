"""The store on SQLite or PostgreSQL: its connections, and its parts put together."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from broker.records import DailySpend, SpendQuery, SpendSummary
from broker.store import leases, ledger, reports, revisions, rollups
from broker.store.batches import BatchStore
from broker.store.bill import BillStore
from broker.store.dead_letters import DeadLetterStore
from broker.store.directory import DirectoryStore
from broker.store.endings import end as end_jobs
from broker.store.files import FileStore
from broker.store.jobs import JobStore
from broker.store.keys import KeyStore
from broker.store.transactions import Engines, Transactions
from broker.store.webhooks import WebhookStore
from shared.errors import Unavailable
from shared.jobs import Ending, Outcome

_POOL_SIZE = 5
_CONNECT_TIMEOUT = 5.0  # seconds; also for a free connection of the pool
_STATEMENT_TIMEOUT = 15.0  # seconds
_MIGRATION_TIMEOUT = 600.0  # seconds; on a large table, and while another process migrates
_BUSY_TIMEOUT = 5.0  # seconds that SQLite waits for another process's transaction


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


class Database:
    """A `broker.store_interfaces.Store`."""

    def __init__(self, open_engines: Callable[[], Engines]) -> None:
        self._open_engines = open_engines
        self._engines: Engines | None = None
        self._transactions = Transactions(lambda: self._open)
        self.jobs = JobStore(self._transactions)
        self.files = FileStore(self._transactions)
        self.batches = BatchStore(self._transactions)
        self.webhooks = WebhookStore(self._transactions)
        self.dead_letters = DeadLetterStore(self._transactions)
        self.keys = KeyStore(self._transactions)
        self.directory = DirectoryStore(self._transactions)
        self.bill = BillStore(self._transactions)

    async def __aenter__(self) -> Self:
        self._engines = self._open_engines()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engines is not None:
            await self._engines.dispose()
            self._engines = None

    async def migrate(self) -> None:
        from broker.store import migrations  # Alembic is slow to import and needed once a process

        await self._transactions.migrate(migrations.upgrade)

    async def current(self) -> bool:
        """Whether the schema is that of this version: `migrate` would change nothing."""
        return await self._transactions.read(revisions.is_newest)

    async def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> int:
        rows = ledger.rows_of(outcomes)
        now = time.time()

        async def record(connection: AsyncConnection) -> int:
            new = await ledger.insert(connection, rows, now) if outcomes else []
            if endings:
                await end_jobs(connection, endings, now)
            await rollups.grow(connection, new)  # last: other recorders add to the same sums, and wait for the commit
            return len(new)

        return await self._transactions.write(record) if outcomes or endings else 0

    async def lease(self, name: str, holder: str, ttl: float, now: float) -> bool:
        return await self._transactions.write(lambda connection: leases.take(connection, name, holder, ttl, now))

    async def last_attempts(self, job_ids: Sequence[str]) -> dict[str, int]:
        return await self._transactions.read(lambda connection: ledger.last_attempts(connection, job_ids))

    async def spend(self, query: SpendQuery) -> list[Outcome]:
        return await self._transactions.read(lambda connection: ledger.select(connection, query))

    async def daily(self, query: SpendQuery) -> list[DailySpend]:
        return await self._transactions.read(lambda connection: reports.daily(connection, query))

    async def summary(self) -> SpendSummary:
        return await self._transactions.read(reports.summary)

    async def ping(self) -> None:
        await self._transactions.read(lambda connection: connection.execute(sa.text("SELECT 1")))

    @property
    def _open(self) -> Engines:
        if self._engines is None:
            raise Unavailable("the database is not open")
        return self._engines


# --- SQLite ---------------------------------------------------------------------------------------------------------


def _open_sqlite(url: str) -> Engines:
    address = sa.make_url(url).set(drivername="sqlite+aiosqlite")
    if address.database in (None, "", ":memory:"):
        only = _sqlite_engine(address, 1, "BEGIN IMMEDIATE")  # another connection would see another database
        return Engines(reader=only, writer=only, migrator=only, autocommit=only)
    writer = _sqlite_engine(address, 1, "BEGIN IMMEDIATE")
    reader = _sqlite_engine(address, _POOL_SIZE - 1, "BEGIN")
    return Engines(reader=reader, writer=writer, migrator=writer, autocommit=writer)


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
    autocommit = pool.execution_options(isolation_level="AUTOCOMMIT")
    return Engines(reader=pool, writer=pool, migrator=migrator, autocommit=autocommit)


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
        # PgBouncer refuses settings that it does not know.
        settings["statement_timeout"] = str(int(timeout * 1000))
        # Jobs may grow from none to a hundred thousand within a minute, and a plan made once for a small table would
        # read the large one from end to end.
        settings["plan_cache_mode"] = "force_custom_plan"
        settings["jit"] = "off"  # compiling would take longer than any statement here runs
    return arguments


def _dsn(url: str, parameters: dict[str, str]) -> str:
    known = {name: value for name, value in parameters.items() if name in _LIBPQ_PARAMETERS}
    parts = urlsplit(url)
    return parts._replace(scheme="postgresql", query=urlencode(known)).geturl()


def _number(parameters: dict[str, str], name: str) -> int:
    """A whole number over 0, or 0 for everything else."""
    value = parameters.get(name, "")
    return int(value) if value.isdecimal() else 0
