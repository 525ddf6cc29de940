"""Upgrade the database at the address in `ADDRESS`; exits with `AWAY` when it cannot be reached."""

import asyncio
import os
import sys

from broker.store import database
from broker.store.apart import ADDRESS, AWAY
from shared.errors import Unavailable


async def _migrate(url: str) -> None:
    async with database.connect(url) as store:
        await store.migrate()


if __name__ == "__main__":
    try:
        asyncio.run(_migrate(os.environ[ADDRESS]))
    except Unavailable as error:
        sys.stderr.write(error.message)
        sys.exit(AWAY)
