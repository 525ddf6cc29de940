"""The ledger: one row for every attempt, only ever added, and the questions asked of it.

Rows travel to the database as one JSON document in one statement. That leaves the event loop almost nothing to do for a
row, and lets SQLite insert the whole batch in one step, outside of Python's lock.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import DailySpend, SpendQuery, SpendSummary
from broker.store import bulk
from broker.store.tables import ERROR_MESSAGE_LENGTH, TEXT_LENGTH, UNSTORABLE, ledger
from shared.errors import InvalidRequest
from shared.jobs import Outcome, Status, Usage

MAX_ROWS = 10_000
"""A page of the ledger is never longer."""

_MAX_TAGS = 64
_USUAL_ROW = 4096  # bytes of JSON; a batch with a larger average is worth a closer look

# --- Writing --------------------------------------------------------------------------------------------------------

# column -> field of the outcome, where their names differ
_FIELDS = {
    "model_group": "group",
    "input_tokens": "usage.input",
    "cache_read_tokens": "usage.cache_read",
    "cache_write_tokens": "usage.cache_write",
    "cache_write_1h_tokens": "usage.cache_write_1h",
    "output_tokens": "usage.output",
    "reasoning_tokens": "usage.reasoning",
    "estimated": "usage.estimated",
    "cost_nanodollars": "cost",
    "key_hash": "key",
    "team_id": "team",
    "user_id": "user",
}


def encode(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as the JSON document that `insert` takes. Raises `InvalidRequest` when a number has no place in it.

    Text that no database stores (NUL, lone surrogates) is replaced by U+FFFD. That is rare, so the fast path only looks
    at the whole document.
    """
    try:
        rows = orjson.dumps(outcomes)
        if b"\\u0000" in rows or len(rows) > _USUAL_ROW * len(outcomes):
            rows = orjson.dumps([_storable(each) for each in outcomes])
    except TypeError:
        rows = _encode_storable(outcomes)
    return rows.decode()


def _encode_storable(outcomes: Sequence[Outcome]) -> bytes:
    try:
        return orjson.dumps([_storable(each) for each in outcomes])
    except TypeError as exc:  # orjson knows no integers over 64 bits
        raise InvalidRequest(f"an outcome cannot be stored: {exc}") from exc


def _storable(outcome: Outcome) -> Outcome:
    texts: dict[str, Any] = {name: _clean(getattr(outcome, name)) for name in _TEXTS}
    return replace(outcome, **texts, tags=tuple(_clean(tag) for tag in outcome.tags[:_MAX_TAGS]))


_TEXTS = tuple(field.name for field in fields(Outcome) if field.type is str)


def _clean(text: str) -> str:
    return UNSTORABLE.sub("\ufffd", text[:TEXT_LENGTH])


async def insert(connection: AsyncConnection, rows: str, now: float) -> int:
    """Add the rows of `encode` that are not there yet; how many they were."""
    result = await connection.execute(_INSERT[connection.dialect.name], {"rows": rows, "now": now})
    return result.rowcount


def _insert(rows: str, extracted: Callable[[sa.Column[Any]], str]) -> sa.TextClause:
    columns = [column for column in ledger.columns if column.name != "created_at"]
    values = [_bounded(column, extracted(column)) for column in columns]
    # In the order of the key, so that two recorders with the same outcomes never wait for each other in a circle.
    # `WHERE true` keeps SQLite from reading ON CONFLICT as the condition of a join.
    return sa.text(
        f"INSERT INTO ledger ({', '.join(column.name for column in columns)}, created_at) WITH {rows} "  # noqa: S608
        f"SELECT {', '.join(values)}, CAST(:now AS DOUBLE PRECISION) FROM rows WHERE true ORDER BY 1, 2 "
        "ON CONFLICT (job_id, attempt) DO NOTHING"
    )


def _bounded(column: sa.Column[Any], value: str) -> str:
    if column.name == "job_id" or not isinstance(column.type, sa.Text):  # a job id cut short could be another job's
        return value
    return f"substr({value}, 1, {ERROR_MESSAGE_LENGTH if column.name == 'error_message' else TEXT_LENGTH})"


_POSTGRES = sa.make_url("postgresql+asyncpg://").get_dialect()()


def _path(column: sa.Column[Any]) -> str:
    return _FIELDS.get(column.name, column.name)


def _from_sqlite_json(column: sa.Column[Any]) -> str:
    return f"json_extract(value, '$.{_path(column)}')"


def _from_postgres_json(column: sa.Column[Any]) -> str:
    outer, _, inner = _path(column).partition(".")
    return f"CAST({outer} ->> '{inner}' AS {_postgres_type(column)})" if inner else f'"{outer}"'


def _postgres_type(column: sa.Column[Any]) -> str:
    return column.type.compile(_POSTGRES)


# Materialised, or else SQLite renders a row's JSON anew for every column.
_SQLITE_ROWS = "rows(value) AS MATERIALIZED (SELECT value FROM json_each(:rows))"

# A record set parses every row once, where operators on JSON would parse it for every column.
_POSTGRES_FIELDS = [f'"{_path(each)}" {_postgres_type(each)}' for each in ledger.columns if "." not in _path(each)]
_POSTGRES_ROW = f"row({', '.join(_POSTGRES_FIELDS)}, usage jsonb)"
_POSTGRES_ROWS = f"rows AS (SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS {_POSTGRES_ROW})"  # noqa: S608

_INSERT = {
    "sqlite": _insert(_SQLITE_ROWS, _from_sqlite_json),
    "postgresql": _insert(_POSTGRES_ROWS, _from_postgres_json),
}

# --- Reading --------------------------------------------------------------------------------------------------------


async def select(connection: AsyncConnection, query: SpendQuery) -> list[Outcome]:
    """A page of the ledger, newest first."""
    newest_first = (ledger.c.started_at.desc(), ledger.c.job_id.desc(), ledger.c.attempt.desc())
    statement = (
        sa.select(ledger)
        .where(*_filters(query))
        .order_by(*newest_first)
        .limit(min(max(query.limit, 1), MAX_ROWS))
        .offset(max(query.offset, 0))
    )
    return [_outcome(row) for row in await connection.execute(statement)]


async def last_attempts(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, int]:
    """By job, the highest number of its rows."""
    statement = (
        sa.select(ledger.c.job_id, sa.func.max(ledger.c.attempt))
        .where(bulk.among(connection, ledger.c.job_id, job_ids))
        .group_by(ledger.c.job_id)
    )
    return {row[0]: row[1] for row in await connection.execute(statement)}


async def daily(connection: AsyncConnection, query: SpendQuery) -> list[DailySpend]:
    """Sums by day, user and model, folded into one entry a day."""
    day = _day(connection.dialect.name).label("day")
    keys = (day, ledger.c.user_id, ledger.c.upstream_model)
    cost = sa.func.sum(ledger.c.cost_nanodollars)
    statement = sa.select(*keys, cost).where(*_filters(query)).group_by(*keys).order_by(day)
    days: dict[int, DailySpend] = {}
    for number, user, model, amount in await connection.execute(statement):
        spend = days.get(number) or DailySpend(str(_EPOCH + timedelta(days=number)), 0, {}, {})
        spend.users[user] = spend.users.get(user, 0) + int(amount)
        spend.models[model] = spend.models.get(model, 0) + int(amount)
        days[number] = replace(spend, cost=spend.cost + int(amount))
    return list(days.values())


async def summary(connection: AsyncConnection) -> SpendSummary:
    """Sums over the whole ledger."""
    model = ledger.c.upstream_model
    statement = sa.select(model, sa.func.sum(ledger.c.cost_nanodollars), sa.func.count()).group_by(model)
    rows = [(name, int(cost), attempts) for name, cost, attempts in await connection.execute(statement)]
    return SpendSummary(
        cost=sum(cost for _, cost, _ in rows),
        attempts=sum(attempts for _, _, attempts in rows),
        by_model={name: cost for name, cost, _ in rows},
    )


def _filters(query: SpendQuery) -> list[sa.ColumnElement[bool]]:
    """From `start` up to, and not including, `end`."""
    columns = ledger.c
    conditions: list[sa.ColumnElement[bool]] = []
    if query.start is not None:
        conditions.append(columns.started_at >= _seconds(query.start))
    if query.end is not None:
        conditions.append(columns.started_at < _seconds(query.end))
    if query.key is not None:
        conditions.append(columns.key_hash == query.key)
    if query.user is not None:
        conditions.append(columns.user_id == query.user)
    if query.request_id is not None:
        conditions.append(sa.or_(columns.job_id == query.request_id, columns.response_id == query.request_id))
    return conditions


_EPOCH = date(1970, 1, 1)


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _day(dialect: str) -> sa.ColumnElement[int]:
    """Whole days since the epoch, UTC. SQLite's cast rounds down and it need not have `floor`; PostgreSQL's rounds to
    the nearest."""
    days = ledger.c.started_at / 86_400.0
    return sa.cast(sa.func.floor(days) if dialect == "postgresql" else days, sa.BigInteger)


def _outcome(row: sa.Row[Any]) -> Outcome:
    return Outcome(
        job_id=row.job_id,
        attempt=row.attempt,
        started_at=row.started_at,
        endpoint=row.endpoint,
        model=row.model,
        group=row.model_group,
        deployment=row.deployment,
        provider=row.provider,
        upstream_model=row.upstream_model,
        status=Status(row.status),
        usage=Usage(
            input=row.input_tokens,
            cache_read=row.cache_read_tokens,
            cache_write=row.cache_write_tokens,
            cache_write_1h=row.cache_write_1h_tokens,
            output=row.output_tokens,
            reasoning=row.reasoning_tokens,
            estimated=row.estimated,
        ),
        cost=row.cost_nanodollars,
        queue_wait=row.queue_wait,
        ttft=row.ttft,
        duration=row.duration,
        error_code=row.error_code,
        error_message=row.error_message,
        stream=row.stream,
        key=row.key_hash,
        team=row.team_id,
        user=row.user_id,
        tags=tuple(row.tags),
        response_id=row.response_id,
    )
