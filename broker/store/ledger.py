"""The ledger: one row for every attempt, only ever added, and its rows read again.

Rows travel to the database as one JSON document in one statement. That leaves the event loop almost nothing to do for a
row, and lets SQLite insert the whole batch in one step, outside of Python's lock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import SpendOrder, SpendQuery
from broker.store import bulk
from broker.store.tables import ERROR_MESSAGE_LENGTH, TEXT_LENGTH, UNSTORABLE, ledger, payloads
from shared.errors import InvalidRequest
from shared.jobs import Outcome, Status, Usage

MAX_ROWS = 10_000
"""A page of the ledger is never longer."""

PAYLOAD_BYTES = 1024 * 1024
"""Of a request, and of an answer, that is kept; the rest is cut off."""

_PAYLOADS = 16  # in one statement, which then carries 32 MiB at most
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
    "customer_id": "customer",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Outcomes on their way into the ledger."""

    outcomes: Mapping[tuple[str, int], Outcome]
    """By job and attempt."""
    document: str
    """All of them as JSON, without their payloads."""


def rows_of(outcomes: Sequence[Outcome]) -> Rows:
    """The first outcome of each attempt. Raises `InvalidRequest` when a number has no place in JSON.

    Text that no database stores (NUL, lone surrogates) is replaced by U+FFFD. That is rare, so the fast path only looks
    at the whole document.
    """
    first = {(each.job_id, each.attempt): each for each in reversed(outcomes)}
    try:
        document = orjson.dumps([_without_payload(each) for each in first.values()])
    except TypeError:
        document = b""
    unusual = not document or b"\\u0000" in document or len(document) > _USUAL_ROW * len(first)
    if unusual or any(len(each.tags) > _MAX_TAGS for each in outcomes):
        first = {(each.job_id, each.attempt): each for each in map(_storable, reversed(outcomes))}
        document = _encode([_without_payload(each) for each in first.values()])
    return Rows(first, document.decode())


def _encode(outcomes: Sequence[Outcome]) -> bytes:
    try:
        return orjson.dumps(outcomes)
    except TypeError as exc:  # orjson knows no integers over 64 bits
        raise InvalidRequest(f"an outcome cannot be stored: {exc}") from exc


def _without_payload(outcome: Outcome) -> Outcome:
    return replace(outcome, request="", response="") if outcome.request or outcome.response else outcome


def _storable(outcome: Outcome) -> Outcome:
    texts: dict[str, Any] = {name: storable_text(getattr(outcome, name)) for name in _TEXTS}
    return replace(outcome, **texts, tags=tuple(storable_text(tag) for tag in outcome.tags[:_MAX_TAGS]))


_PAYLOAD = ("request", "response")
_TEXTS = tuple(field.name for field in fields(Outcome) if field.type is str and field.name not in _PAYLOAD)


def storable_text(text: str) -> str:
    """As a row holds it."""
    return UNSTORABLE.sub("\ufffd", text[:TEXT_LENGTH])


async def insert(connection: AsyncConnection, rows: Rows, now: float) -> list[Outcome]:
    """Add the rows that are not there yet, and what is kept with them; returns these."""
    inserted = await connection.execute(_INSERT[connection.dialect.name], {"rows": rows.document, "now": now})
    new = [rows.outcomes[job_id, attempt] for job_id, attempt in inserted]
    await _insert_payloads(connection, [each for each in new if each.request or each.response], now)
    return new


async def _insert_payloads(connection: AsyncConnection, outcomes: Sequence[Outcome], now: float) -> None:
    for start in range(0, len(outcomes), _PAYLOADS):
        large = bulk.Bytes()
        rows = [_payload_row(each, now, large) for each in outcomes[start : start + _PAYLOADS]]
        await bulk.execute(connection, _INSERT_PAYLOADS, rows, large)


def _payload_row(outcome: Outcome, now: float, large: bulk.Bytes) -> dict[str, Any]:
    row = {"job_id": outcome.job_id, "attempt": outcome.attempt, "created_at": now}
    for name in _PAYLOAD:
        row |= large.place(name, getattr(outcome, name).encode(errors="replace")[:PAYLOAD_BYTES])
    return row


def _insert(rows: str, extracted: Callable[[sa.Column[Any]], str]) -> sa.TextClause:
    columns = [column for column in ledger.columns if column.name != "created_at"]
    values = [_bounded(column, extracted(column)) for column in columns]
    # In the order of the key, so that two recorders with the same outcomes never wait for each other in a circle.
    # `WHERE true` keeps SQLite from reading ON CONFLICT as the condition of a join.
    return sa.text(
        f"INSERT INTO ledger ({', '.join(column.name for column in columns)}, created_at) WITH {rows} "  # noqa: S608
        f"SELECT {', '.join(values)}, CAST(:now AS DOUBLE PRECISION) FROM rows WHERE true ORDER BY 1, 2 "
        "ON CONFLICT (job_id, attempt) DO NOTHING RETURNING job_id, attempt"
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
_INSERT_PAYLOADS = bulk.insert(payloads)

# --- Reading --------------------------------------------------------------------------------------------------------


async def select(connection: AsyncConnection, query: SpendQuery) -> list[Outcome]:
    """A page of the ledger."""
    by = (_ORDERS[query.order], ledger.c.job_id, ledger.c.attempt)
    columns: list[sa.ColumnElement[Any]] = list(ledger.columns)
    source: sa.FromClause = ledger
    if query.payloads:
        columns += [payloads.c.request, payloads.c.response]
        source = ledger.outerjoin(payloads)
    statement = (
        sa.select(*columns)
        .select_from(source)
        .where(*filters(query))
        .order_by(*(each.asc() if query.ascending else each.desc() for each in by))
        .limit(min(max(query.limit, 1), MAX_ROWS))
        .offset(max(query.offset, 0))
    )
    outcome = _outcome_with_payload if query.payloads else _outcome
    return [outcome(row) for row in await connection.execute(statement)]


_ORDERS: Mapping[SpendOrder, sa.ColumnElement[Any]] = {
    SpendOrder.STARTED_AT: ledger.c.started_at,
    SpendOrder.COST: ledger.c.cost_nanodollars,
    SpendOrder.TOKENS: (
        ledger.c.input_tokens
        + ledger.c.cache_read_tokens
        + ledger.c.cache_write_tokens
        + ledger.c.cache_write_1h_tokens
        + ledger.c.output_tokens
    ),
    SpendOrder.ENDED_AT: ledger.c.started_at + ledger.c.duration,
    SpendOrder.DURATION: ledger.c.duration,
    SpendOrder.TTFT: sa.func.coalesce(ledger.c.ttft, -1.0),  # databases disagree on where NULL goes
    SpendOrder.MODEL: ledger.c.upstream_model,
}


async def count(connection: AsyncConnection, query: SpendQuery, most: int) -> int:
    """How many rows the filters let through, up to `most`."""
    page = sa.select(sa.literal(1)).select_from(ledger).where(*filters(query)).limit(most).subquery()
    return int(await connection.scalar(sa.select(sa.func.count()).select_from(page)) or 0)


async def purge(connection: AsyncConnection, older_than: float, limit: int) -> int:
    """Delete the oldest rows that began before, at most `limit`; how many. Payloads go with their rows."""
    key = sa.tuple_(ledger.c.job_id, ledger.c.attempt)
    page = sa.select(ledger.c.job_id, ledger.c.attempt).where(ledger.c.started_at < older_than)
    page = page.order_by(ledger.c.started_at).limit(limit)
    return (await connection.execute(sa.delete(ledger).where(key.in_(page)))).rowcount


async def last_attempts(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, int]:
    """By job, the highest number of its rows."""
    statement = (
        sa.select(ledger.c.job_id, sa.func.max(ledger.c.attempt))
        .where(bulk.among(connection, ledger.c.job_id, job_ids))
        .group_by(ledger.c.job_id)
    )
    return {row[0]: row[1] for row in await connection.execute(statement)}


def filters(query: SpendQuery) -> list[sa.ColumnElement[bool]]:
    """From `start` up to, and not including, `end`."""
    c = ledger.c
    conditions = [equal(c[name], value) for name, value in equalities(query).items()]
    if query.start is not None:
        conditions.append(c.started_at >= seconds(query.start))
    if query.end is not None:
        conditions.append(c.started_at < seconds(query.end))
    if query.model is not None:
        conditions.append(served_by(ledger, query.model))
    if query.statuses:
        conditions.append(c.status.in_(query.statuses))
        if Status.SUCCESS not in query.statuses:
            conditions.append(c.status != sa.literal_column("'success'"))  # the index of failures is for this
    if query.min_cost is not None:
        conditions.append(c.cost_nanodollars >= query.min_cost)
    if query.max_cost is not None:
        conditions.append(c.cost_nanodollars <= query.max_cost)
    if query.request_id is not None:
        wanted = storable_text(query.request_id)
        conditions.append(sa.or_(c.job_id == wanted, c.response_id == wanted))
    return conditions


def equalities(query: SpendQuery) -> dict[str, str]:
    """Columns of the ledger and its rollups that must be equal to something."""
    given = {"key_hash": query.key, "user_id": query.user, "team_id": query.team, "customer_id": query.customer}
    return {column: value for column, value in given.items() if value is not None}


def equal(column: sa.ColumnElement[str], value: str) -> sa.ColumnElement[bool]:
    """With the condition of partial indexes, which SQLite does not see in a parameter."""
    same = column == storable_text(value)
    return sa.and_(same, column != "") if value else same


def served_by(table: sa.Table, model: str) -> sa.ColumnElement[bool]:
    wanted = storable_text(model)
    return sa.or_(table.c.model_group == wanted, table.c.upstream_model == wanted)


def seconds(moment: datetime) -> float:
    """Naive moments are UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _outcome_with_payload(row: sa.Row[Any]) -> Outcome:
    request, response = ((row._mapping[name] or b"").decode(errors="replace") for name in _PAYLOAD)
    return replace(_outcome(row), request=request, response=response)


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
        customer=row.customer_id,
        tags=tuple(row.tags),
        response_id=row.response_id,
    )
