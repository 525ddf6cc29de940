"""Customers in the ledger, the prompts kept with it, and its sums by day."""

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ROLLUPS = {
    "daily_spend": ("key_hash", "team_id", "user_id", "model_group", "upstream_model", "provider", "endpoint"),
    "daily_customers": ("customer_id", "model_group", "upstream_model", "provider"),
    "daily_tags": ("tag", "key_hash", "model_group", "upstream_model", "provider"),
    "daily_keys": ("key_hash", "team_id", "user_id"),
    "daily_totals": ("model_group", "upstream_model", "provider", "endpoint"),
}
_INDEXED = {
    "daily_spend": ("key_hash", "team_id", "user_id"),
    "daily_customers": ("customer_id",),
    "daily_tags": ("tag",),
    "daily_keys": ("key_hash", "team_id", "user_id"),
}
_SUMS = {
    "cost_nanodollars": "sum(cost_nanodollars)",
    "prompt_tokens": "sum(input_tokens + cache_read_tokens + cache_write_tokens + cache_write_1h_tokens)",
    "completion_tokens": "sum(output_tokens)",
    "cache_read_tokens": "sum(cache_read_tokens)",
    "cache_write_tokens": "sum(cache_write_tokens + cache_write_1h_tokens)",
    "requests": "count(*)",
    "succeeded": "sum(CASE WHEN status = 'success' THEN 1 ELSE 0 END)",
}
_WORK_MEMORY = "256MB"  # sums of ten million rows fit, where PostgreSQL's 4 MB would spill to disk


def upgrade() -> None:
    # On PostgreSQL this locks the ledger until the end: no row is added while the sums are made.
    op.add_column("ledger", sa.Column("customer_id", sa.Text, nullable=False, server_default=""))
    op.execute(_TELL_CUSTOMERS)
    for name, where in (("team_id", "team_id <> ''"), ("customer_id", "customer_id <> ''")):
        _index(f"ledger_{name}", [name, "started_at"], where)
    _index("ledger_failed", ["started_at"], "status <> 'success'")
    _create_payloads()
    for name, dimensions in ROLLUPS.items():
        _create_rollup(name, dimensions)
    fill(op.get_bind())
    for name, dimensions in _INDEXED.items():  # faster made than kept
        for dimension in dimensions:
            op.create_index(f"{name}_{dimension}", name, [dimension, "day"])


# A row's user was the request's `user`, or else whom the key belongs to.
_TELL_CUSTOMERS = """
    UPDATE ledger SET
        customer_id = user_id,
        user_id = coalesce((SELECT keys.user_id FROM keys WHERE keys.hash = ledger.key_hash), '')
    WHERE user_id <> '' AND user_id <> coalesce((SELECT keys.user_id FROM keys WHERE keys.hash = ledger.key_hash), '')
"""


def _index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "ledger", columns, sqlite_where=condition, postgresql_where=condition)


def _create_payloads() -> None:
    op.create_table(
        "payloads",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "attempt"], ["ledger.job_id", "ledger.attempt"], name="payloads_ledger", ondelete="CASCADE"
        ),
    )


def _create_rollup(name: str, dimensions: Sequence[str]) -> None:
    op.create_table(
        name,
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Uuid(as_uuid=False), primary_key=True),
        *(sa.Column(dimension, sa.Text, nullable=False) for dimension in dimensions),
        *(sa.Column(each, sa.BigInteger, nullable=False) for each in _SUMS),
    )


def fill(connection: sa.Connection) -> None:
    """Add up the ledger into rollups that are empty."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection.execute(sa.text(f"SET LOCAL work_mem = '{_WORK_MEMORY}'"))
    else:
        connection.connection.create_function("rollup_id", -1, _rollup_id, deterministic=True)
    for name, dimensions in ROLLUPS.items():
        connection.exec_driver_sql(_fill(dialect, name, dimensions))


def _fill(dialect: str, name: str, dimensions: Sequence[str]) -> str:
    listed = ", ".join(dimensions)
    source = _SOURCES.get(name) or _TAGGED[dialect]
    again = source == "daily_spend"
    day = "day" if again else f"{_DAY[dialect]} AS day"
    sums = ", ".join(f"sum({each}) AS {each}" if again else f"{first} AS {each}" for each, first in _SUMS.items())
    rows = f"SELECT {day}, {listed}, {sums} FROM {source} GROUP BY 1, {listed}"  # noqa: S608 - constants
    return (
        f"INSERT INTO {name} (day, id, {listed}, {', '.join(_SUMS)}) "  # noqa: S608 - constants
        f"SELECT day, {_ID[dialect](dimensions)}, {listed}, {', '.join(_SUMS)} FROM ({rows}) AS sums"
    )


def _rollup_id(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _rollup_id_on_postgres(dimensions: Sequence[str]) -> str:
    text = " || '\\x00'::bytea || ".join(f"convert_to({each}, 'UTF8')" for each in dimensions)
    return f"CAST(left(encode(sha256({text}), 'hex'), 32) AS uuid)"


_DAY = {
    "sqlite": "CAST(started_at / 86400.0 AS integer)",
    "postgresql": "CAST(floor(started_at / 86400.0) AS integer)",
}
_ID = {
    "sqlite": lambda dimensions: f"rollup_id({', '.join(dimensions)})",
    "postgresql": _rollup_id_on_postgres,
}
_SOURCES = {
    "daily_spend": "ledger",
    "daily_customers": "ledger WHERE customer_id <> ''",
    "daily_keys": "daily_spend",
    "daily_totals": "daily_spend",
}
# A tag that a row has twice counts once.
_TAGGED = {
    "sqlite": "(SELECT DISTINCT ledger.*, substr(value, 1, 512) AS tag FROM ledger, json_each(ledger.tags)"
    " WHERE value <> '')",
    "postgresql": "ledger CROSS JOIN LATERAL"
    " (SELECT DISTINCT left(value, 512) AS tag FROM jsonb_array_elements_text(tags) WHERE value <> '') AS tagged",
}
