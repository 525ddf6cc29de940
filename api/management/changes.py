"""What follows a change: every api process acts on it within a second."""

import asyncio
from collections.abc import Awaitable

import structlog

from api.context import Context
from shared.errors import Unavailable

log = structlog.get_logger(__name__)


async def announce(context: Context, *subjects: str, accounts: tuple[str, ...] = ()) -> None:
    """These were changed: `key:<hash>`, `user:<id>`, `team:<id>`, `member:<team>/<user>`, `budget:<id>`,
    `customer:<id>`, `models`. The budgets of these accounts are asked of the ledger again.

    The change is in the store already, so nothing that fails here may look as if it had not happened: this process has
    heard of it in any case, and others that cannot be told forget everything when they are connected again.
    """
    failures: list[str] = []

    async def tell(told: Awaitable[None]) -> None:
        try:
            await told
        except Unavailable as error:
            failures.append(error.message)

    async with asyncio.TaskGroup() as group:
        for subject in subjects:
            group.create_task(tell(context.backends.log.announce_change(subject)))
        for account in accounts:
            group.create_task(tell(context.backends.accounts.forget(account)))
    if failures:
        log.warning("changes were not announced", changes=len(failures), error=failures[0])
