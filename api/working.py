"""A worker or keeper process, and the page that says how it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import embedded, startup
from api.startup import Loaded
from broker.backends import Backends
from shared import metrics
from shared.errors import ConfigError, Unavailable
from shared.settings import Settings
from workers.pipeline import nothing_newer

log = structlog.get_logger()


async def work(
    settings: Settings, loaded: Loaded, providers: list[str] | None, *, keeper: bool, health_port: int | None
) -> None:
    """Run a worker until SIGTERM or SIGINT; jobs in flight get the grace period, the rest is handed back. It takes jobs
    of these providers, or of all that the catalog has, now and later. With `keeper` it keeps as well; the recorder
    stops last, when the worker's outcomes are on the queue."""
    catalog = loaded.catalog
    stopping = asyncio.Event()
    with startup.signals(lambda _: stopping.set()):
        async with startup.reachable(settings) as backends:
            # The feeder fills the lanes of all providers, also of those that this process does not work for.
            await backends.queue.declare(catalog.providers() if keeper or providers is None else providers)
            await startup.prepared_ledger(backends.store, settings)
            async with (
                startup.living(backends, loaded, settings) as live,
                _health_page(backends, health_port),
                embedded.keeping(backends, catalog, settings, ["recorder"] if keeper else []),
                embedded.keeping(backends, catalog, settings, embedded.OTHER_PARTS if keeper else []),
            ):
                renew = nothing_newer if live is None else live.renew
                worker = embedded.make_worker(backends, catalog, settings, providers, renew)
                startup.settle_memory()
                served = providers or catalog.providers()
                log.info("worker ready", providers=served, concurrency=settings.concurrency, id=worker.id)
                await worker.run(stopping)
    log.info("worker stopped")


async def keep(settings: Settings, loaded: Loaded, parts: Sequence[str], *, health_port: int | None) -> None:
    """Run these parts of the keeper until SIGTERM or SIGINT."""
    catalog = loaded.catalog
    stopping = asyncio.Event()
    with startup.signals(lambda _: stopping.set()):
        async with startup.reachable(settings) as backends:
            await backends.queue.declare(catalog.providers())
            await startup.prepared_ledger(backends.store, settings)
            async with (
                startup.living(backends, loaded, settings),
                _health_page(backends, health_port),
                embedded.keeping(backends, catalog, settings, parts),
            ):
                startup.settle_memory()
                log.info("keeper ready", parts=list(parts))
                await stopping.wait()
    log.info("keeper stopped")


def known_parts(asked: Sequence[str]) -> list[str]:
    """The parts that a keeper should run, all if none is named. Raises `ConfigError` for one that does not exist."""
    for name in asked:
        if name not in embedded.PARTS:
            raise ConfigError(f"--only {name}: no such part: expected one of {', '.join(embedded.PARTS)}")
    return list(dict.fromkeys(asked)) or list(embedded.PARTS)


@asynccontextmanager
async def _health_page(backends: Backends, port: int | None) -> AsyncIterator[None]:
    """The page on `port` of 127.0.0.1, while inside."""
    if port is None:
        yield
        return
    server = _Server(
        uvicorn.Config(
            page(backends),
            host="127.0.0.1",
            port=port,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
        )
    )
    task = asyncio.create_task(server.serve(), name="health page")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


def page(backends: Backends) -> ASGIApp:
    """/health/liveliness, /health/readiness and /metrics. Three paths do not need a framework in a worker's memory."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        match scope["path"]:
            case "/health/liveliness" | "/health/liveness":
                response = JSONResponse("I'm alive!")
            case "/health/readiness":
                response = await _readiness(backends)
            case "/metrics":
                response = Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
            case _:
                response = JSONResponse({"detail": "Not Found"}, 404)
        await response(scope, receive, send)

    return app


async def _readiness(backends: Backends) -> Response:
    try:
        await asyncio.gather(backends.queue.ping(), backends.log.ping(), backends.limiter.ping())
    except Unavailable as error:
        return JSONResponse({"status": "unhealthy", "reason": error.message}, 503)
    return JSONResponse({"status": "healthy"})


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the worker drains first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
