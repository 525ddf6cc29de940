"""What runs beside the api or instead of it: workers and the recorder, in one process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from api import startup
from broker.backends import Backends
from shared import metrics
from shared.catalog import Catalog
from shared.clock import SystemClock
from shared.settings import Settings
from workers.pipeline import Seams
from workers.recorder import Recorder
from workers.worker import Worker

_FIRST_WAIT = 0.2  # seconds, doubled up to the longest
_LONGEST_WAIT = 5.0
_LAST_OUTCOMES = 10.0  # seconds
_POLL = 0.02  # seconds

log = structlog.get_logger()


@asynccontextmanager
async def workforce(
    backends: Backends, catalog: Catalog, settings: Settings, providers: list[str] | None = None
) -> AsyncIterator[None]:
    """A worker and a recorder, while inside. Leaving drains the worker, then the recorder."""
    stopping = asyncio.Event()
    async with recording(backends, settings):
        async with asyncio.TaskGroup() as group:
            group.create_task(make_worker(backends, catalog, settings, providers).run(stopping))
            try:
                yield
            finally:
                stopping.set()
        await _recorded(backends)


async def _recorded(backends: Backends) -> None:
    """Return when the ledger has every outcome, which a queue in memory would not keep; or after a while."""
    deadline = asyncio.get_running_loop().time() + _LAST_OUTCOMES
    while await backends.queue.outcomes_waiting():
        if asyncio.get_running_loop().time() > deadline:
            log.error("the ledger's database is away; the last outcomes are lost")
            return
        await asyncio.sleep(_POLL)


def make_worker(backends: Backends, catalog: Catalog, settings: Settings, providers: list[str] | None = None) -> Worker:
    return Worker(
        Seams(backends.queue, backends.log, backends.limiter, catalog, SystemClock()),
        providers or catalog.providers(),
        concurrency=settings.concurrency,
        grace=settings.grace_seconds,
        keep_ledger=not settings.disable_spend_logs,
    )


@asynccontextmanager
async def recording(backends: Backends, settings: Settings) -> AsyncIterator[None]:
    """The recorder, while inside. It begins when the store's schema is there; outcomes wait in the queue until then."""
    async with asyncio.TaskGroup() as group:  # a recorder that fails takes the process along: outcomes would pile up
        task = group.create_task(_record(backends, settings), name="recorder")
        try:
            yield
        finally:
            task.cancel()


async def _record(backends: Backends, settings: Settings) -> None:
    wait = _FIRST_WAIT
    while not await startup.prepared_ledger(backends.store, settings):
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    await Recorder(backends.queue, backends.store, on_recorded=lambda new, _: metrics.RECORDED.inc(new)).run()
