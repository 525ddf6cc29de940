"""The tables of durable jobs, batches, providers' batches and leases.

A job has two rows: one in `jobs`, small and changed several times, and one in `job_requests`, large and never changed.
Both databases copy a whole row when any of it changes, and bodies should not be copied. JSON that is only ever read
whole is kept as bytes, in which every character is storable.

Conditions of partial indexes are written here once, as text: SQLite uses such an index only for a query that repeats
its condition literally.
"""

import sqlalchemy as sa

from broker.store.tables import TEXT_LENGTH, URL_LENGTH, CleanText, metadata

MAX_TAGS = 64

IDEMPOTENCY_WINDOW = 86_400.0
"""Seconds from its acceptance that the idempotency key of a job, batch or file stands for it."""

_Seconds = sa.Double


READY = "state = 'queued' AND NOT held"
UNFINISHED = "state IN ('queued', 'dispatching', 'dispatched', 'consigned')"
UNDERWAY = "state IN ('dispatching', 'dispatched', 'consigned')"
CONSIGNED = "state = 'consigned'"
SINGLE = "batch_id = ''"
LINE = "batch_id <> ''"
LINE_REQUEST = "line_of <> ''"
KEYED = "idempotency_key <> ''"
EXPIRING = "expires_at IS NOT NULL"
OPEN = "ended_at IS NULL"


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> sa.Index:
    condition = sa.text(where)
    return sa.Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("owner", CleanText, nullable=False),
    sa.Column("state", CleanText, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),  # a line whose batch is still being validated
    sa.Column("provider", CleanText, nullable=False),  # of the first leg
    sa.Column("tenant", CleanText, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),  # the priority negated: lower goes first, as in all other columns
    sa.Column("deadline", _Seconds, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),  # when it was accepted
    sa.Column("moved_at", _Seconds, nullable=False),
    sa.Column("dispatches", sa.Integer, nullable=False),
    sa.Column("batch_id", CleanText, nullable=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("result_ttl", _Seconds, nullable=False),
    sa.Column("idempotency_key", CleanText, nullable=False),
    sa.Column("webhook", CleanText(URL_LENGTH), nullable=False),
    sa.Column("provider_batch", CleanText, nullable=False),
    sa.Column("finished_at", _Seconds, nullable=True),
    sa.Column("expires_at", _Seconds, nullable=True),  # lines have none: they go with their batch
    sa.Column("attempts", sa.Integer, nullable=True),
    sa.Column("cost_nanodollars", sa.BigInteger, nullable=True),
    sa.Column("error", sa.LargeBinary, nullable=True),
    sa.Column("served", sa.LargeBinary, nullable=True),
    sa.Column("answer", sa.LargeBinary, nullable=True),
    _partial("jobs_ready", "provider", "tenant", "rank", "deadline", "created_at", "line", "id", where=READY),
    _partial("jobs_underway", "state", "moved_at", where=UNDERWAY),
    _partial("jobs_deadline", "deadline", where=UNFINISHED),
    _partial("jobs_batch", "batch_id", "state", "line", where=LINE),
    _partial("jobs_provider_batch", "provider_batch", "line", where=CONSIGNED),
    _partial("jobs_created_at", "created_at", "id", where=SINGLE),
    _partial("jobs_owner", "owner", "created_at", "id", where=SINGLE),
    _partial("jobs_idempotency_key", "owner", "idempotency_key", where=KEYED, unique=True),
    _partial("jobs_expires_at", "expires_at", where=EXPIRING),
)

# SQLite reads a row from its front, so the body stands last.
job_requests = sa.Table(
    "job_requests",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("line_of", CleanText, nullable=False),  # the batch
    sa.Column("custom_id", CleanText, nullable=False),
    sa.Column("model", CleanText, nullable=False),
    sa.Column("user_id", CleanText, nullable=False),
    sa.Column("tags", CleanText(MAX_TAGS * (TEXT_LENGTH + 1)), nullable=False),  # a line each, to be searched
    sa.Column("weight", sa.BigInteger, nullable=False),
    sa.Column("request_hash", CleanText, nullable=False),
    sa.Column("retry_of", CleanText, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),  # `Job.headers()`
    sa.Column("body", sa.LargeBinary, nullable=False),
    _partial("job_requests_custom_id", "line_of", "custom_id", where=LINE_REQUEST),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("owner", CleanText, nullable=False),
    sa.Column("tenant", CleanText, nullable=False),
    sa.Column("endpoint", CleanText, nullable=False),
    sa.Column("input_file_id", CleanText, nullable=False),
    sa.Column("completion_window", CleanText, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("expires_at", _Seconds, nullable=False),
    sa.Column("status", CleanText, nullable=False),
    sa.Column("ended_at", _Seconds, nullable=True),  # when it got its final status
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("output_expires_after", _Seconds, nullable=True),
    sa.Column("webhook", CleanText(URL_LENGTH), nullable=False),
    sa.Column("user_id", CleanText, nullable=False),
    sa.Column("stamps", sa.LargeBinary, nullable=False),
    sa.Column("errors", sa.LargeBinary, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("cost_nanodollars", sa.BigInteger, nullable=False),
    sa.Column("lines_read", sa.BigInteger, nullable=False),
    sa.Column("bytes_read", sa.BigInteger, nullable=False),
    sa.Column("output_file_id", CleanText, nullable=False),
    sa.Column("error_file_id", CleanText, nullable=False),
    sa.Column("idempotency_key", CleanText, nullable=False, server_default=""),
    sa.Column("request_hash", CleanText, nullable=False, server_default=""),
    sa.Index("batches_created_at", "created_at", "id"),
    sa.Index("batches_owner", "owner", "created_at", "id"),
    sa.Index("batches_ended_at", "ended_at"),
    _partial("batches_open", "created_at", where=OPEN),
    _partial("batches_idempotency_key", "owner", "idempotency_key", where=KEYED, unique=True),
)

provider_batches = sa.Table(
    "provider_batches",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("batch_id", CleanText, nullable=False),
    sa.Column("deployment", CleanText, nullable=False),
    sa.Column("provider", CleanText, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("pull_back_at", _Seconds, nullable=False),
    sa.Column("remote_id", CleanText, nullable=False),
    sa.Column("remote_files", sa.LargeBinary, nullable=False),
    sa.Column("state", CleanText, nullable=False),
    sa.Column("lines", sa.Integer, nullable=False),
    sa.Column("checked_at", _Seconds, nullable=False),
    sa.Index("provider_batches_batch_id", "batch_id"),
    sa.Index("provider_batches_checked_at", "checked_at"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", CleanText, primary_key=True),
    sa.Column("holder", CleanText, nullable=False),
    sa.Column("until", _Seconds, nullable=False),
)
