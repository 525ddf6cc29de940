"""Keys with fields and unique aliases, the directory, and the audit."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

_PAGE = 1000  # keys in memory at once


def upgrade() -> None:
    _extend_keys()
    _create_earlier_hashes()
    _create_directory()
    _create_audit()


def _extend_keys() -> None:
    op.add_column("keys", sa.Column("fields", _json(), nullable=False, server_default="{}"))
    op.add_column("keys", sa.Column("created_by", sa.Text, nullable=False, server_default=""))
    op.add_column("keys", sa.Column("updated_at", sa.Double, nullable=False, server_default="0"))
    op.add_column("keys", sa.Column("updated_by", sa.Text, nullable=False, server_default=""))
    op.add_column("keys", sa.Column("folded", sa.Text, nullable=False, server_default=""))
    _make_aliases_unique()
    _fill_in()
    aliased = sa.text("alias <> ''")
    op.create_index("keys_alias", "keys", ["alias"], unique=True, sqlite_where=aliased, postgresql_where=aliased)
    op.create_index("keys_user_id", "keys", ["user_id", "created_at", "hash"])
    op.create_index("keys_team_id", "keys", ["team_id", "created_at", "hash"])


def _make_aliases_unique() -> None:
    """The oldest key keeps the alias; the others' get the beginning of their hashes behind them."""
    op.execute(
        "UPDATE keys SET alias = alias || '-' || substr(hash, 1, 8) WHERE hash IN (SELECT hash FROM "
        "(SELECT hash, row_number() OVER (PARTITION BY alias ORDER BY created_at, hash) AS place "
        "FROM keys WHERE alias <> '') AS placed WHERE place > 1)"
    )


def _fill_in() -> None:
    connection = op.get_bind()
    chosen = sa.text("SELECT hash, alias FROM keys WHERE hash > :last ORDER BY hash LIMIT :page")
    changed = sa.text("UPDATE keys SET folded = :folded, updated_at = created_at WHERE hash = :hash")
    last = ""
    while rows := connection.execute(chosen, {"last": last, "page": _PAGE}).all():
        connection.execute(changed, [{"hash": hash, "folded": f"{alias}\n{hash}".casefold()} for hash, alias in rows])
        last = rows[-1].hash


def _create_earlier_hashes() -> None:
    op.create_table(
        "earlier_hashes",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("key_hash", sa.Text, nullable=False),
        sa.Column("replaced_at", sa.Double, nullable=False),
    )
    op.create_index("earlier_hashes_key_hash", "earlier_hashes", ["key_hash"])


def _create_directory() -> None:
    op.create_table(
        "directory",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("fields", _json(), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.Column("folded", sa.Text, nullable=False),
    )
    op.create_index("directory_created_at", "directory", ["kind", "created_at", "id"])
    op.create_index("directory_team_id", "directory", ["team_id", "kind", "created_at", "id"])
    op.create_index("directory_user_id", "directory", ["user_id", "kind", "created_at", "id"])
    op.create_table(
        "directory_versions",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor_id", sa.Text, nullable=False),
        sa.Column("actor_key", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject_table", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("before", _json(), nullable=True),
        sa.Column("after", _json(), nullable=True),
    )
    op.create_index("audit_at", "audit", ["at", "id"])
    op.create_index("audit_actor_id", "audit", ["actor_id", "at", "id"])
    op.create_index("audit_subject", "audit", ["subject", "at", "id"])


def _json() -> Any:
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
