"""The schema as SQLAlchemy Core tables: what the queries are written against and what the migrations must arrive at.

Times are seconds since the Unix epoch in double precision, the same arithmetic on SQLite and PostgreSQL.
"""

import re

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData()

ERROR_MESSAGE_LENGTH = 500
"""Characters of an error message that a row keeps."""

TEXT_LENGTH = 512
"""Characters that any other text of a row keeps: names and ids that clients choose, and may choose absurdly long."""

URL_LENGTH = 2048
"""Characters of a webhook's address."""

# What neither PostgreSQL's text nor UTF-8 can hold.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class CleanText(sa.types.TypeDecorator[str]):
    """Text from outside: cut at a length, and what no database stores is U+FFFD. It is so on its way into a row and
    into a condition, so an id with a NUL in it finds nothing, where PostgreSQL would fail."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, length: int = TEXT_LENGTH) -> None:
        super().__init__()
        self.length = length

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else UNSTORABLE.sub("\ufffd", value[: self.length])


_Seconds = sa.Double
_Tokens = sa.BigInteger
_NanoDollars = sa.BigInteger
_Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _partial(name: str, *columns: str, where: str) -> sa.Index:
    condition = sa.text(where)
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


# The primary key is what makes accounting exact: an outcome that the queue delivers twice finds its row there. Job ids
# are UUIDv7 and so ordered by time, which lets a later migration partition the table by ranges of this very key.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("started_at", _Seconds, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),  # when the recorder wrote the row
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_group", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("upstream_model", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("input_tokens", _Tokens, nullable=False),
    sa.Column("cache_read_tokens", _Tokens, nullable=False),
    sa.Column("cache_write_tokens", _Tokens, nullable=False),
    sa.Column("cache_write_1h_tokens", _Tokens, nullable=False),
    sa.Column("output_tokens", _Tokens, nullable=False),
    sa.Column("reasoning_tokens", _Tokens, nullable=False),
    sa.Column("estimated", sa.Boolean, nullable=False),
    sa.Column("cost_nanodollars", _NanoDollars, nullable=False),
    sa.Column("queue_wait", _Seconds, nullable=False),
    sa.Column("ttft", _Seconds, nullable=True),
    sa.Column("duration", _Seconds, nullable=False),
    sa.Column("error_code", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("key_hash", sa.Text, nullable=False),
    sa.Column("team_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("tags", _Json, nullable=False),
    sa.Column("response_id", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False, server_default=""),
    sa.Index("ledger_started_at", "started_at"),
    sa.Index("ledger_key_hash", "key_hash", "started_at"),
    sa.Index("ledger_user_id", "user_id", "started_at"),
    sa.Index("ledger_response_id", "response_id"),
    # Of those rows only that have one: whatever is in an index makes recording slower.
    _partial("ledger_team_id", "team_id", "started_at", where="team_id <> ''"),
    _partial("ledger_customer_id", "customer_id", "started_at", where="customer_id <> ''"),
    _partial("ledger_failed", "started_at", where="status <> 'success'"),
)

# Requests and answers, where an installation keeps prompts.
payloads = sa.Table(
    "payloads",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(
        ["job_id", "attempt"], ["ledger.job_id", "ledger.attempt"], name="payloads_ledger", ondelete="CASCADE"
    ),
)

# --- Rollups --------------------------------------------------------------------------------------------------------

SUMS = (
    "cost_nanodollars",
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "requests",
    "succeeded",
)
"""What every rollup adds up; prompt tokens are all input, cached or not."""


def _rollup(name: str, *dimensions: str, indexes: tuple[str, ...] = ()) -> sa.Table:
    """Sums over the ledger by UTC day, counted from 1970-01-01, and these dimensions.

    `id` stands for the dimensions in the primary key: an entry of PostgreSQL's indexes holds at most 2,704 bytes, and
    some of the texts are the clients' own.
    """
    return sa.Table(
        name,
        metadata,
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Uuid(as_uuid=False), primary_key=True),
        *(sa.Column(dimension, sa.Text, nullable=False) for dimension in dimensions),
        *(sa.Column(each, sa.BigInteger, nullable=False) for each in SUMS),
        *(sa.Index(f"{name}_{dimension}", dimension, "day") for dimension in indexes),
        info={"dimensions": dimensions},
    )


daily_totals = _rollup("daily_totals", "model_group", "upstream_model", "provider", "endpoint")

# A twentieth of the next one where keys use twenty models: budgets and reports without models are answered from it.
daily_keys = _rollup("daily_keys", "key_hash", "team_id", "user_id", indexes=("key_hash", "team_id", "user_id"))

daily_spend = _rollup(
    "daily_spend",
    *("key_hash", "team_id", "user_id", "model_group", "upstream_model", "provider", "endpoint"),
    indexes=("key_hash", "team_id", "user_id"),
)

daily_customers = _rollup(
    "daily_customers", "customer_id", "model_group", "upstream_model", "provider", indexes=("customer_id",)
)

daily_tags = _rollup("daily_tags", "tag", "key_hash", "model_group", "upstream_model", "provider", indexes=("tag",))
