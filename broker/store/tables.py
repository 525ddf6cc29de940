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
    sa.Index("ledger_started_at", "started_at"),
    sa.Index("ledger_key_hash", "key_hash", "started_at"),
    sa.Index("ledger_user_id", "user_id", "started_at"),
    sa.Index("ledger_response_id", "response_id"),
)
