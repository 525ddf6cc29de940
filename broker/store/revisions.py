"""Which revision a database is at, without Alembic, which costs a second and ten megabytes to load."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_TABLE = "alembic_version"


def newest() -> str:
    """The last of `migrations/versions`, whose files are named `r<revision>_<subject>.py`."""
    files = (Path(__file__).parent / "migrations" / "versions").glob("r*_*.py")
    return max(file.name[1:].partition("_")[0] for file in files)


async def is_newest(connection: AsyncConnection) -> bool:
    if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(_TABLE)):
        return False
    found = await connection.scalar(sa.text(f"SELECT version_num FROM {_TABLE}"))  # noqa: S608 - a constant
    return bool(found == newest())
