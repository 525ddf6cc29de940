"""The tables of callers: keys, the directory of users, teams and the like, and the audit."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from broker.store.tables import CleanText, metadata

_Seconds = sa.Double
_Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_JsonOrNull = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_ALIASED = sa.text("alias <> ''")

# `folded` is what a text search looks at: the databases disagree on which letters have an upper and a lower case, and
# PostgreSQL's answer depends on the locale it was set up with.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("hash", CleanText, primary_key=True),
    sa.Column("name", CleanText, nullable=False),
    sa.Column("alias", CleanText, nullable=False),
    sa.Column("user_id", CleanText, nullable=False),
    sa.Column("team_id", CleanText, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("expires_at", _Seconds, nullable=True),
    sa.Column("blocked", sa.Boolean, nullable=False),
    sa.Column("max_queue_wait", _Seconds, nullable=True),
    sa.Column("metadata", _Json, nullable=False),
    sa.Column("fields", _Json, nullable=False),
    sa.Column("created_by", CleanText, nullable=False),
    sa.Column("updated_at", _Seconds, nullable=False),
    sa.Column("updated_by", CleanText, nullable=False),
    sa.Column("folded", sa.Text, nullable=False),
    sa.Index("keys_created_at", "created_at", "hash"),
    sa.Index("keys_alias", "alias", unique=True, sqlite_where=_ALIASED, postgresql_where=_ALIASED),
    sa.Index("keys_user_id", "user_id", "created_at", "hash"),
    sa.Index("keys_team_id", "team_id", "created_at", "hash"),
)

# The hashes that a regenerated key had before. `key_hash` is always the one that it has now, so that nobody needs to
# follow a chain.
earlier_hashes = sa.Table(
    "earlier_hashes",
    metadata,
    sa.Column("hash", CleanText, primary_key=True),
    sa.Column("key_hash", CleanText, nullable=False),
    sa.Column("replaced_at", _Seconds, nullable=False),
    sa.Index("earlier_hashes_key_hash", "key_hash"),
)

directory = sa.Table(
    "directory",
    metadata,
    sa.Column("kind", CleanText, primary_key=True),
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("alias", CleanText, nullable=False),
    sa.Column("team_id", CleanText, nullable=False),
    sa.Column("user_id", CleanText, nullable=False),
    sa.Column("fields", _Json, nullable=False),
    sa.Column("created_at", _Seconds, nullable=False),
    sa.Column("created_by", CleanText, nullable=False),
    sa.Column("updated_at", _Seconds, nullable=False),
    sa.Column("updated_by", CleanText, nullable=False),
    sa.Column("folded", sa.Text, nullable=False),
    sa.Index("directory_created_at", "kind", "created_at", "id"),
    sa.Index("directory_team_id", "team_id", "kind", "created_at", "id"),
    sa.Index("directory_user_id", "user_id", "kind", "created_at", "id"),
)

# One more with every transaction that touched the kind. Times would not do: they neither tell of what was removed nor
# come in the order of commits.
directory_versions = sa.Table(
    "directory_versions",
    metadata,
    sa.Column("kind", CleanText, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", CleanText, primary_key=True),
    sa.Column("at", _Seconds, nullable=False),
    sa.Column("actor_id", CleanText, nullable=False),
    sa.Column("actor_key", CleanText, nullable=False),
    sa.Column("address", CleanText, nullable=False),
    sa.Column("action", CleanText, nullable=False),
    sa.Column("subject_table", CleanText, nullable=False),
    sa.Column("subject", CleanText, nullable=False),
    sa.Column("before", _JsonOrNull, nullable=True),
    sa.Column("after", _JsonOrNull, nullable=True),
    sa.Index("audit_at", "at", "id"),
    sa.Index("audit_actor_id", "actor_id", "at", "id"),
    sa.Index("audit_subject", "subject", "at", "id"),
)
