"""Idempotency keys of batches."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("idempotency_key", "request_hash"):
        op.add_column("batches", sa.Column(name, sa.Text, nullable=False, server_default=""))
    keyed = sa.text("idempotency_key <> ''")
    op.create_index(
        "batches_idempotency_key",
        "batches",
        ["owner", "idempotency_key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )
