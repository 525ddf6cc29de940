"""Durable jobs, batches, providers' batches and leases."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _create_jobs()
    _create_job_requests()
    _create_batches()
    _create_provider_batches()
    _create_leases()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("deadline", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("moved_at", sa.Double, nullable=False),
        sa.Column("dispatches", sa.Integer, nullable=False),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("result_ttl", sa.Double, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("webhook", sa.Text, nullable=False),
        sa.Column("provider_batch", sa.Text, nullable=False),
        sa.Column("finished_at", sa.Double, nullable=True),
        sa.Column("expires_at", sa.Double, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=True),
        sa.Column("cost_nanodollars", sa.BigInteger, nullable=True),
        sa.Column("error", sa.LargeBinary, nullable=True),
        sa.Column("served", sa.LargeBinary, nullable=True),
        sa.Column("answer", sa.LargeBinary, nullable=True),
    )
    _index(
        "jobs_ready",
        "jobs",
        ["provider", "tenant", "rank", "deadline", "created_at", "line", "id"],
        "state = 'queued' AND NOT held",
    )
    _index("jobs_underway", "jobs", ["state", "moved_at"], "state IN ('dispatching', 'dispatched', 'consigned')")
    _index("jobs_deadline", "jobs", ["deadline"], "state IN ('queued', 'dispatching', 'dispatched', 'consigned')")
    _index("jobs_batch", "jobs", ["batch_id", "state", "line"], "batch_id <> ''")
    _index("jobs_provider_batch", "jobs", ["provider_batch", "line"], "state = 'consigned'")
    _index("jobs_created_at", "jobs", ["created_at", "id"], "batch_id = ''")
    _index("jobs_owner", "jobs", ["owner", "created_at", "id"], "batch_id = ''")
    _index("jobs_idempotency_key", "jobs", ["owner", "idempotency_key"], "idempotency_key <> ''", unique=True)
    _index("jobs_expires_at", "jobs", ["expires_at"], "expires_at IS NOT NULL")


def _create_job_requests() -> None:
    op.create_table(
        "job_requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("line_of", sa.Text, nullable=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sa.Column("request_hash", sa.Text, nullable=False),
        sa.Column("retry_of", sa.Text, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    _index("job_requests_custom_id", "job_requests", ["line_of", "custom_id"], "line_of <> ''")


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("input_file_id", sa.Text, nullable=False),
        sa.Column("completion_window", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("output_expires_after", sa.Double, nullable=True),
        sa.Column("webhook", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("stamps", sa.LargeBinary, nullable=False),
        sa.Column("errors", sa.LargeBinary, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("cost_nanodollars", sa.BigInteger, nullable=False),
        sa.Column("lines_read", sa.BigInteger, nullable=False),
        sa.Column("bytes_read", sa.BigInteger, nullable=False),
        sa.Column("output_file_id", sa.Text, nullable=False),
        sa.Column("error_file_id", sa.Text, nullable=False),
    )
    op.create_index("batches_created_at", "batches", ["created_at", "id"])
    op.create_index("batches_owner", "batches", ["owner", "created_at", "id"])
    op.create_index("batches_ended_at", "batches", ["ended_at"])
    _index("batches_open", "batches", ["created_at"], "ended_at IS NULL")


def _create_provider_batches() -> None:
    op.create_table(
        "provider_batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("batch_id", sa.Text, nullable=False),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("pull_back_at", sa.Double, nullable=False),
        sa.Column("remote_id", sa.Text, nullable=False),
        sa.Column("remote_files", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("checked_at", sa.Double, nullable=False),
    )
    op.create_index("provider_batches_batch_id", "provider_batches", ["batch_id"])
    op.create_index("provider_batches_checked_at", "provider_batches", ["checked_at"])


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
