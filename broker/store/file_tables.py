"""The tables of files and their idempotency keys, webhook deliveries and dead letters."""

import sqlalchemy as sa

from broker.store.tables import ERROR_MESSAGE_LENGTH, URL_LENGTH, CleanText, metadata

_Seconds = sa.Double

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("owner", CleanText, nullable=False),
    sa.Column("filename", CleanText, nullable=False),
    sa.Column("purpose", CleanText, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("expires_at", _Seconds, nullable=True),
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Index("files_owner", "owner", "created_at", "id"),
    sa.Index("files_created_at", "created_at", "id"),
    sa.Index("files_expires_at", "expires_at"),
)

# No ON DELETE CASCADE: chunks go page by page, and a row that has any cannot go before them. `size` stands before
# `data` because SQLite reads a row from its front: sizes are then known without the contents.
file_chunks = sa.Table(
    "file_chunks",
    metadata,
    sa.Column("file_id", CleanText, sa.ForeignKey("files.id", name="file_chunks_file_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

# A table of its own: an insert finds the key taken without failing, which an update of `files` could not.
file_keys = sa.Table(
    "file_keys",
    metadata,
    sa.Column(
        "file_id",
        CleanText,
        sa.ForeignKey("files.id", name="file_keys_file_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("owner", CleanText, nullable=False),
    sa.Column("idempotency_key", CleanText, nullable=False),
    sa.Column("request_hash", CleanText, nullable=False),
    sa.Index("file_keys_owner", "owner", "idempotency_key", unique=True),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("owner", CleanText, nullable=False),
    sa.Column("url", CleanText(URL_LENGTH), nullable=False),
    sa.Column("type", CleanText, nullable=False),
    sa.Column("subject", CleanText, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("next_at", _Seconds, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("attempted_at", _Seconds, nullable=True),  # of the last attempt: the same one is not counted twice
    sa.Column("delivered_at", _Seconds, nullable=True),
    sa.Column("status", sa.Integer, nullable=True),
    sa.Column("error", CleanText(ERROR_MESSAGE_LENGTH), nullable=False),
    sa.Index("webhook_deliveries_owner", "owner", "created_at", "id"),
    sa.Index("webhook_deliveries_subject", "subject"),
    sa.Index("webhook_deliveries_created_at", "created_at", "id"),
    sa.Index("webhook_deliveries_next_at", "next_at"),
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("job_id", CleanText, primary_key=True),
    sa.Column("provider", CleanText, nullable=False),
    sa.Column("reason", CleanText, nullable=False),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("died_at", _Seconds, nullable=False),
    sa.Index("dead_letters_died_at", "died_at", "job_id"),
)
