"""Brings a database's schema up to date: Alembic's revisions in `versions/`, forward only, run by the program itself.

For a new revision copy the last file of `versions/`, give it the next number, name the one before it as
`down_revision`, and change `broker.store.tables` alike: a test compares the two.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection

_LOCK = 0x4EAD_8ACE  # any number, as long as nobody else in the database takes it for an advisory lock


async def upgrade(connection: AsyncConnection) -> None:
    """Upgrade inside the connection's transaction: all or nothing, and one process at a time."""
    if connection.dialect.name == "postgresql":  # SQLite's writers exclude each other anyway
        await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await _create_schema(connection)
    await connection.run_sync(_upgrade)


async def _create_schema(connection: AsyncConnection) -> None:
    """Prisma creates the schema that its address names, so its users never had to."""
    schema = await connection.scalar(sa.text("SELECT current_setting('search_path')"))
    if schema and "," not in schema and await connection.scalar(sa.text("SELECT current_schema()")) is None:
        quoted = connection.dialect.identifier_preparer.quote(schema.strip('"'))
        await connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {quoted}"))


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
