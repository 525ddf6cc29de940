"""A store's schema without Alembic, which takes a fifth of a second: tests with hundreds of stores add up.

A conformance test holds that migrations arrive at exactly these tables.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.store import revisions
from broker.store.database import Database
from broker.store.tables import metadata

_script: list[str] = []
"""The statements that made SQLite's schema the first time: run at once, they take a tenth of the time."""


async def make_schema(store: Database) -> None:
    """What `store.migrate()` does to an empty database, or to one that it has seen."""
    if not await store.current():
        await store._transactions.write(_create)


async def _create(connection: AsyncConnection) -> None:
    if connection.dialect.name == "sqlite" and _script:
        raw = await connection.get_raw_connection()
        await raw.driver_connection.executescript(_script[0])  # type: ignore[union-attr]
        return
    await connection.run_sync(metadata.create_all)
    await connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    await connection.execute(sa.text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": revisions.newest()})
    if connection.dialect.name == "sqlite":
        statements = await connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
        version = f"INSERT INTO alembic_version VALUES ('{revisions.newest()}')"
        _script.append(";\n".join([*statements, version]))
