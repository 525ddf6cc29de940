"""What runs beside the api or instead of it: workers and the keeper, in one process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

import structlog

from api import startup
from broker.backends import Backends
from shared.catalog import Catalog
from shared.clock import SystemClock
from shared.settings import Settings
from workers import keeper
from workers.keeper import Keeper, Surroundings
from workers.pipeline import Seams, nothing_newer
from workers.worker import Worker

PARTS = keeper.PARTS
OTHER_PARTS = tuple(part for part in PARTS if part != "recorder")  # which may stop before the workers do

_LAST_OUTCOMES = 10.0  # seconds
_POLL = 0.02  # seconds

Renew = Callable[[], Awaitable[None]]
"""As `workers.pipeline.Seams.renew`."""

log = structlog.get_logger()


@asynccontextmanager
async def workforce(
    backends: Backends, catalog: Catalog, settings: Settings, renew: Renew = nothing_newer
) -> AsyncIterator[None]:
    """A worker and a keeper, while inside. Leaving drains the worker, then the recorder."""
    stopping = asyncio.Event()
    async with keeping(backends, catalog, settings, ["recorder"]):
        async with asyncio.TaskGroup() as group:
            group.create_task(make_worker(backends, catalog, settings, renew=renew).run(stopping))
            try:
                async with keeping(backends, catalog, settings, OTHER_PARTS):
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


def make_worker(
    backends: Backends,
    catalog: Catalog,
    settings: Settings,
    providers: list[str] | None = None,
    renew: Renew = nothing_newer,
) -> Worker:
    """For these providers, or for all that the catalog has, now and later."""
    return Worker(
        Seams(
            queue=backends.queue,
            log=backends.log,
            limiter=backends.limiter,
            catalog=catalog,
            clock=SystemClock(),
            store=backends.store,
            accounts=backends.accounts,
            renew=renew,
        ),
        providers,
        concurrency=settings.concurrency,
        grace=settings.grace_seconds,
        keep_ledger=not settings.disable_spend_logs,
        keep_prompts=settings.management.store_prompts_in_spend_logs,
    )


@asynccontextmanager
async def keeping(
    backends: Backends, catalog: Catalog, settings: Settings, parts: Collection[str] = PARTS
) -> AsyncIterator[None]:
    """These parts of the keeper, while inside. They begin when the store's schema is there; until then outcomes wait in
    the queue, and lines in the store. Leaving, the recorder commits what it has."""
    prepared = partial(startup.prepared_ledger, backends.store, settings)
    kept = Keeper(Surroundings(backends, catalog, settings, SystemClock(), prepared), parts)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept.run(), name="keeper")
        try:
            yield
        finally:
            task.cancel()
