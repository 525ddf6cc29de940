"""Migrations in a process of their own: Alembic would stay in the memory of one that needs it once, at its start."""

import asyncio
import os
import sys

from shared.errors import Unavailable

ADDRESS = "HEADRACE_MIGRATION_URL"  # it may hold a password, so it does not go on the command line
AWAY = 75  # exit code: try again later (EX_TEMPFAIL of sysexits.h)


async def migrate(url: str) -> None:
    """As `Store.migrate` of the database at `url`, which must not be in memory. Raises `Unavailable`, and
    `RuntimeError` with the child's last words when the migration itself fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "broker.store.migrations",
        env=os.environ | {ADDRESS: url}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == AWAY:
        raise Unavailable(said.decode(errors="replace"))
    if child.returncode != 0:
        raise RuntimeError(f"the ledger's migration failed:\n{said.decode(errors='replace')}")
