"""The purge: deletes what has outlived its time, in pages, so that no transaction is long."""

from collections.abc import Awaitable, Callable

import structlog

from broker.store_interfaces import Store
from shared import metrics
from shared.clock import Clock

PAUSE = 60.0  # seconds between rounds
_BUSY_PAUSE = 1.0  # after a round that left something
_PAGE = 500  # rows
_MOST_PAGES = 20  # of one kind in a round
_DAY = 86_400.0

ABANDONED_UPLOAD = _DAY  # seconds that a file may take to arrive
BATCH_HISTORY = 30 * _DAY  # seconds that a batch and its lines outlive their end; output files live by their own rule
WEBHOOK_HISTORY = 7 * _DAY
DEAD_LETTER_HISTORY = 30 * _DAY

log = structlog.get_logger(__name__)


class Purge:
    """Run by one process at a time."""

    def __init__(self, store: Store, clock: Clock, *, retention: float | None = None) -> None:
        """`retention`: seconds that rows of the ledger, and the prompts kept with them, outlive the attempt; None: for
        ever (`maximum_spend_logs_retention_period`)."""
        self._store = store
        self._clock = clock
        self._retention = retention

    async def round(self) -> float:
        """Delete once. Returns the seconds until there may be more. Raises `Unavailable`."""
        store, now = self._store, self._clock.now()
        left = [
            await self._pages("jobs", lambda: store.jobs.purge(now, _PAGE)),
            await self._pages("files", lambda: store.files.purge(now, now - ABANDONED_UPLOAD, _PAGE)),
            await self._pages("batches", lambda: store.batches.purge(now, now - BATCH_HISTORY, _PAGE)),
            await self._pages("webhooks", lambda: store.webhooks.purge(now - WEBHOOK_HISTORY, _PAGE)),
        ]
        if self._retention is not None:
            oldest = now - self._retention
            left.append(await self._pages("ledger", lambda: store.bill.purge(oldest, _PAGE)))
        letters = await store.dead_letters.purge(older_than=now - DEAD_LETTER_HISTORY)
        metrics.ROWS_PURGED.labels("dead_letters").inc(letters)
        return _BUSY_PAUSE if any(left) else PAUSE

    async def _pages(self, kind: str, page: Callable[[], Awaitable[int]]) -> bool:
        """Whether there may be more."""
        for _ in range(_MOST_PAGES):
            deleted = await page()
            if deleted:
                metrics.ROWS_PURGED.labels(kind).inc(deleted)
                log.info("rows_purged", kind=kind, rows=deleted)
            if deleted < _PAGE:
                return False
        return True
