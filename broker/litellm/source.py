"""LiteLLM's PostgreSQL database, read and never written. Which tables and columns it has depends on its version."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import orjson

from shared.errors import ConfigError, Unavailable

Row = Mapping[str, Any]
"""Columns that a version does not have are missing."""

PAGE = 1000  # rows
_CONNECT_TIMEOUT = 15.0  # seconds
_STATEMENT_TIMEOUT = 120.0  # seconds
_MOST_COUNTED = 1_000_000  # rows of a table of which only their number is told

# What Prisma, and not libpq, understands of an address.
_PRISMA = frozenset(
    {"schema", "connection_limit", "pool_timeout", "connect_timeout", "socket_timeout", "pgbouncer",
     "statement_cache_size", "sslaccept", "sslidentity"}
)  # fmt: skip


class Source:
    """Made by `connect`."""

    def __init__(self, connection: Any, schema: str, columns: Mapping[str, Sequence[str]]) -> None:
        self._connection = connection
        self._schema = schema
        self.columns = columns
        """Those of each of LiteLLM's tables."""

    async def pages(
        self, table: str, keys: Sequence[str], after: Sequence[Any] | None = None, without: Sequence[str] = ()
    ) -> AsyncIterator[list[Row]]:
        """All rows, or those behind the one with the keys `after`, in the order of `keys`, which name one row each.
        `without` names columns that are not wanted. Nothing if there is no such table. Raises `Unavailable`."""
        if table not in self.columns:
            return
        columns = ", ".join(map(_quoted, (each for each in self.columns[table] if each not in without)))
        order = ", ".join(map(_quoted, keys))
        places = ", ".join(f"${number}" for number in range(1, len(keys) + 1))
        begin = f"SELECT {columns} FROM {self._named(table)}"  # noqa: S608 - names from the database's own catalog
        end = f" ORDER BY {order} LIMIT {PAGE}"
        while True:
            if after is None:
                page = await self._fetch(begin + end)
            else:
                page = await self._fetch(f"{begin} WHERE ({order}) > ({places}){end}", *after)
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = [page[-1][key] for key in keys]

    async def count(self, table: str) -> int:
        """At most a million; 0 if there is no such table. Raises `Unavailable`."""
        if table not in self.columns:
            return 0
        rows = f"SELECT 1 FROM {self._named(table)} LIMIT {_MOST_COUNTED}"  # noqa: S608 - as in `pages`
        [row] = await self._fetch(f"SELECT count(*) AS count FROM ({rows}) AS counted")  # noqa: S608
        return int(row["count"])

    def _named(self, table: str) -> str:
        return f"{_quoted(self._schema)}.{_quoted(table)}"

    async def _fetch(self, statement: str, *values: Any) -> list[Row]:
        return await _fetch(self._connection, statement, *values)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Source]:
    """`url` as LiteLLM has it in DATABASE_URL, Prisma's parameters included. Raises `ConfigError` for what is no
    address of a PostgreSQL with LiteLLM's tables, and `Unavailable`."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(
            "--database-url: expected the address of LiteLLM's PostgreSQL: postgresql://user@host/litellm"
        )
    parameters = dict(parse_qsl(parts.query))
    schema = parameters.get("schema", "public")
    kept = {name: value for name, value in parameters.items() if name not in _PRISMA}
    connection = await _connected(parts._replace(query=urlencode(kept)).geturl())
    try:
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, schema="pg_catalog", encoder=str, decoder=_decoded)
        found = await _fetch(
            connection,
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = $1 "
            "AND table_name LIKE 'LiteLLM\\_%' ORDER BY table_name, ordinal_position",
            schema,
        )
        columns: dict[str, list[str]] = {}
        for row in found:
            columns.setdefault(row["table_name"], []).append(row["column_name"])
        if "LiteLLM_VerificationToken" not in columns:
            raise ConfigError(
                f"--database-url: no table LiteLLM_VerificationToken in the schema {schema!r} of this database: "
                "is it LiteLLM's?"
            )
        yield Source(connection, schema, columns)
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)


async def _connected(dsn: str) -> Any:
    try:
        return await asyncpg.connect(
            dsn,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=_STATEMENT_TIMEOUT,
            statement_cache_size=0,  # PgBouncer may be in between
            server_settings={"application_name": "headrace import", "default_transaction_read_only": "on"},
        )
    except (OSError, TimeoutError) as exc:
        raise Unavailable(f"--database-url: no answer from LiteLLM's database: {exc}") from exc
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as exc:
        # From None: the cause may show the address, and with it the password.
        raise ConfigError(f"--database-url: LiteLLM's database refuses the connection: {type(exc).__name__}") from None


async def _fetch(connection: Any, statement: str, *values: Any) -> list[Row]:
    try:
        return [dict(record) for record in await connection.fetch(statement, *values)]
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise Unavailable(f"reading LiteLLM's database failed: {exc}") from exc


def _decoded(text: str) -> Any:
    """Some versions of LiteLLM write a JSON text into JSON."""
    value = orjson.loads(text)
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
