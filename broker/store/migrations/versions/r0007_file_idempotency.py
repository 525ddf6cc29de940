"""Idempotency keys of files."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "file_keys",
        sa.Column(
            "file_id",
            sa.Text,
            sa.ForeignKey("files.id", name="file_keys_file_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("request_hash", sa.Text, nullable=False),
    )
    op.create_index("file_keys_owner", "file_keys", ["owner", "idempotency_key"], unique=True)
