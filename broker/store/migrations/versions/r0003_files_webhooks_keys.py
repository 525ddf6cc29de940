"""Files, webhook deliveries, dead letters and keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _create_files()
    _create_webhook_deliveries()
    _create_dead_letters()
    _create_keys()


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=True),
        sa.Column("ready", sa.Boolean, nullable=False),
    )
    op.create_index("files_owner", "files", ["owner", "created_at", "id"])
    op.create_index("files_created_at", "files", ["created_at", "id"])
    op.create_index("files_expires_at", "files", ["expires_at"])
    op.create_table(
        "file_chunks",
        sa.Column("file_id", sa.Text, sa.ForeignKey("files.id", name="file_chunks_file_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def _create_webhook_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("next_at", sa.Double, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempted_at", sa.Double, nullable=True),
        sa.Column("delivered_at", sa.Double, nullable=True),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_index("webhook_deliveries_owner", "webhook_deliveries", ["owner", "created_at", "id"])
    op.create_index("webhook_deliveries_subject", "webhook_deliveries", ["subject"])
    op.create_index("webhook_deliveries_created_at", "webhook_deliveries", ["created_at", "id"])
    op.create_index("webhook_deliveries_next_at", "webhook_deliveries", ["next_at"])


def _create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("died_at", sa.Double, nullable=False),
    )
    op.create_index("dead_letters_died_at", "dead_letters", ["died_at", "job_id"])


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=True),
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("max_queue_wait", sa.Double, nullable=True),
        sa.Column("metadata", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
    )
    op.create_index("keys_created_at", "keys", ["created_at", "hash"])
