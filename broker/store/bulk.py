"""Many rows in one statement: their small values travel as one JSON document, their large ones as one byte string.

That costs the event loop a fraction of binding every value on its own, and SQLite works through all rows in one step,
outside of Python's lock. In the document a large value is `<column>_at` and `<column>_length`: its place in the bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.store.tables import UNSTORABLE, CleanText
from shared.errors import InvalidRequest


class Bytes:
    """The large values of a statement, one behind the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def place(self, column: str, value: bytes | None) -> dict[str, int]:
        """Take a value in; what its row's part of the document says of it. None is no value: NULL."""
        if value is None:
            return {}
        at = self.size + 1  # SQL counts from 1
        self._parts.append(value)
        self.size += len(value)
        return {f"{column}_at": at, f"{column}_length": len(value)}

    def joined(self) -> bytes:
        return b"".join(self._parts)


def document(rows: Sequence[Mapping[str, Any]] | Sequence[str]) -> str:
    """The rows as JSON. Text that no database stores (NUL, lone surrogates) is replaced by U+FFFD. Raises
    `InvalidRequest` when a value has no place in JSON."""
    encoded = json_bytes(rows)
    if b"\\u0000" in encoded:  # rare, so that the usual document is only looked at as a whole
        encoded = json_bytes(clean(rows))
    return encoded.decode()


def json_bytes(value: Any) -> bytes:
    """JSON, with lone surrogates replaced. Raises `InvalidRequest` when a value has no place in it."""
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return orjson.dumps(clean(value))
        except TypeError as exc:  # orjson knows no integers over 64 bits
            raise InvalidRequest(f"a row cannot be stored: {exc}") from exc


def clean(value: Any) -> Any:
    """The value, with U+FFFD for whatever no database stores in any of its texts."""
    match value:
        case str():
            return UNSTORABLE.sub("\ufffd", value)
        case Mapping():
            return {clean(name): clean(each) for name, each in value.items()}
        case list() | tuple():
            return [clean(each) for each in value]
        case _:
            return value


def among(connection: AsyncConnection, column: sa.ColumnElement[str], values: Iterable[str]) -> sa.ColumnElement[bool]:
    """Whether the column's value is one of these: one parameter, however many they are."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(CleanText)))
    members = sa.func.json_each(document(list(values))).table_valued("value")
    return column.in_(sa.select(members.c.value))


def insert(table: sa.Table) -> dict[str, sa.TextClause]:
    """By dialect, the statement that adds rows from the parameters `rows` and `bytes`, but none that would be there
    twice."""
    names = ", ".join(column.name for column in table.columns)
    return {
        dialect: sa.text(f"INSERT INTO {table.name} ({names}) {select(table.columns)} ON CONFLICT DO NOTHING")
        for dialect, select in _SELECTS.items()
    }


def insert_both(first: sa.Table, second: sa.Table) -> sa.TextClause:
    """For PostgreSQL, one statement that adds rows to `first` from the parameters `rows` and `bytes`, and, if it added
    any, to `second` from `rows2` and `bytes2`: one round trip, and a transaction of its own. It answers how many."""
    select = _select_on_postgres(second.columns).replace(":rows", ":rows2").replace(":bytes", ":bytes2")
    names = ", ".join(column.name for column in second.columns)
    return sa.text(
        f"WITH added AS ({insert(first)['postgresql'].text} RETURNING 1), "  # noqa: S608 - constants
        f"others AS (INSERT INTO {second.name} ({names}) SELECT {names} FROM ({select}) AS chosen "
        "WHERE EXISTS (SELECT 1 FROM added) ON CONFLICT DO NOTHING) SELECT count(*) FROM added"
    )


async def execute(
    connection: AsyncConnection,
    statements: Mapping[str, sa.TextClause],
    rows: Sequence[Mapping[str, Any]],
    large: Bytes,
) -> int:
    """Run a statement of `insert` or `update`; how many rows it added or changed."""
    parameters = {"rows": document(rows), "bytes": large.joined()}
    result = await connection.execute(statements[connection.dialect.name], parameters)
    return result.rowcount


def accumulate(table: sa.Table, sums: Sequence[str]) -> dict[str, sa.TextClause]:
    """By dialect, the statement that adds rows from the parameter `rows`. Where the primary key is there already, that
    row's `sums` grow by the new one's."""
    names = ", ".join(column.name for column in table.columns)
    key = ", ".join(column.name for column in table.primary_key)
    grown = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in sums)
    return {
        dialect: sa.text(
            f"INSERT INTO {table.name} ({names}) {select(table.columns)} ON CONFLICT ({key}) DO UPDATE SET {grown}"
        )
        for dialect, select in _SELECTS.items()
    }


def update(table: sa.Table, columns: Sequence[str], computed: Mapping[str, str]) -> dict[str, sa.TextClause]:
    """By dialect, the statement that sets columns of the rows that `rows` names by their `id`. `computed` are columns
    set to an expression, in which the parameters' rows are called `given`."""
    given = [table.c.id, *(table.c[name] for name in columns)]
    values = {name: f"given.{name}" for name in columns} | dict(computed)
    assignments = ", ".join(f"{name} = {value}" for name, value in values.items())
    return {
        dialect: sa.text(
            f"WITH given AS MATERIALIZED ({select(given)}) "  # noqa: S608 - constants
            f"UPDATE {table.name} SET {assignments} FROM given WHERE {table.name}.id = given.id"
        )
        for dialect, select in _SELECTS.items()
    }


def _select_on_sqlite(columns: Iterable[sa.Column[Any]]) -> str:
    def value(column: sa.Column[Any]) -> str:
        if isinstance(column.type, sa.LargeBinary):
            at, length = (f"json_extract(value, '$.{column.name}_{end}')" for end in ("at", "length"))
            return f"substr(:bytes, {at}, {length}) AS {column.name}"
        return f"json_extract(value, '$.{column.name}') AS {column.name}"

    # Materialised, or else SQLite renders a row's JSON anew for every column.
    rows = "rows(value) AS MATERIALIZED (SELECT value FROM json_each(:rows))"
    # `WHERE true` keeps SQLite from reading ON CONFLICT as the condition of a join.
    return f"WITH {rows} SELECT {', '.join(map(value, columns))} FROM rows WHERE true"  # noqa: S608 - constants


def _select_on_postgres(columns: Iterable[sa.Column[Any]]) -> str:
    fields, values = [], []
    for column in columns:
        name = column.name
        if isinstance(column.type, sa.LargeBinary):
            fields.append(f'"{name}_at" integer, "{name}_length" integer')
            values.append(f'substring(CAST(:bytes AS bytea) FROM "{name}_at" FOR "{name}_length") AS "{name}"')
        else:
            fields.append(f'"{name}" {column.type.compile(_POSTGRES)}')
            values.append(f'"{name}"')
    row = f"given_row({', '.join(fields)})"
    return f"SELECT {', '.join(values)} FROM json_to_recordset(CAST(:rows AS json)) AS {row}"  # noqa: S608 - constants


_POSTGRES = sa.make_url("postgresql+asyncpg://").get_dialect()()
_SELECTS = {"sqlite": _select_on_sqlite, "postgresql": _select_on_postgres}
