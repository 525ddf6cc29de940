"""Processes: an api (with its workers, when embedded), a worker, or a parent of several apis."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from ipaddress import ip_address

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from api import embedded, supervisor
from api.app import asgi, create_app
from broker import backends as seams
from broker.backends import Backends, open_backends
from shared import metrics
from shared.catalog import Catalog
from shared.config import Config
from shared.errors import ConfigError, Unavailable
from shared.settings import Settings

_BACKLOG = 2048  # connections the kernel may hold before we accept them
_KEEPALIVE = 75  # seconds an idle client connection stays open
_FIRST_WAIT = 0.5  # seconds between attempts to reach the servers at start-up, doubled up to the longest
_LONGEST_WAIT = 5.0

log = structlog.get_logger()


def require_key_unless_loopback(settings: Settings) -> None:
    """Raises `ConfigError`: an open broker on a public address gives the provider keys away."""
    if settings.master_key is None and not _loopback(settings.host):
        raise ConfigError(
            f"refusing to listen on {settings.host} without a master key: anybody could spend your provider keys. "
            "Set HEADRACE_MASTER_KEY (or general_settings.master_key), or listen on 127.0.0.1"
        )


def require_shared_seams(settings: Settings, workers: int = 1) -> None:
    """Raises `ConfigError` when processes could not see each other's queue and limits."""
    unset = [
        name
        for name, value in (("RABBITMQ_URL", settings.rabbitmq_url), ("REDIS_URL", settings.redis_url))
        if value is None
    ]
    if unset:
        what = f"--workers {workers} needs" if workers > 1 else "a worker process needs"
        raise ConfigError(
            f"{what} {' and '.join(unset)}: memory is not shared between processes. Set it, or run one process"
        )


def known_providers(asked: Sequence[str], catalog: Catalog) -> list[str]:
    """The providers that a worker should serve. Raises `ConfigError` for one that the config does not use."""
    known = catalog.providers()
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"--provider {name}: the config has no deployment of it: expected one of {', '.join(known)}"
            )
    return list(asked) or known


def warn(config: Config, catalog: Catalog) -> None:
    """Say once what the config asks for in vain."""
    for path in config.unknown:
        log.warning("unknown config key; `headrace check` lists them all", key=path)
    for warning in catalog.warnings:
        log.warning(warning)


def pings(settings: Settings) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """For `headrace check`: a call for each server, which connects, asks and disconnects."""

    async def queue() -> None:
        async with seams.queue(settings) as it:
            await it.ping()

    async def events() -> None:
        async with seams.events(settings) as it:
            await it.ping()

    async def limits() -> None:
        async with seams.limits(settings) as it:
            await it.ping()

    async def store() -> None:
        async with seams.store(settings) as it:
            await it.ping()

    return {"queue": queue, "events": events, "limits": limits, "store": store}


async def serve(settings: Settings, catalog: Catalog) -> None:
    """Run an api until SIGTERM or SIGINT; requests in flight are finished first."""
    async with AsyncExitStack() as stack:
        backends = await stack.enter_async_context(reachable(settings))
        await backends.queue.declare(catalog.providers())
        if settings.rabbitmq_url is None:
            await stack.enter_async_context(embedded.workforce(backends, catalog, settings))
        app = create_app(backends, catalog, settings)
        await _listen(app, settings, _greeting(settings, catalog))


async def work(
    settings: Settings, catalog: Catalog, providers: list[str], *, recorder: bool, health_port: int | None
) -> None:
    """Run a worker until SIGTERM or SIGINT; jobs in flight get the grace period, the rest is handed back."""
    stopping = asyncio.Event()
    with _signals(lambda _: stopping.set()):
        async with reachable(settings) as backends:
            await backends.queue.declare(providers)
            worker = embedded.make_worker(backends, catalog, settings, providers)
            async with (
                embedded.recording(backends) if recorder else nullcontext(),
                _health_page(backends, health_port),
            ):
                _tune_garbage_collector()
                log.info("worker ready", providers=providers, concurrency=settings.concurrency, id=worker.id)
                await worker.run(stopping)
    log.info("worker stopped")


@asynccontextmanager
async def reachable(settings: Settings) -> AsyncIterator[Backends]:
    """The backends, as soon as all servers answer: containers start in any order."""
    wait = _FIRST_WAIT
    async with AsyncExitStack() as stack:
        while True:
            try:
                backends = await stack.enter_async_context(open_backends(settings))
                break
            except Unavailable as error:
                log.warning("waiting for a server", reason=error.message, seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
        yield backends


async def _listen(app: FastAPI, settings: Settings, greeting: str) -> None:
    config = uvicorn.Config(
        asgi(app),
        host=settings.host,
        port=settings.port,
        loop="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEPALIVE,
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )
    server = _Server(config)
    server.greeting = greeting

    def stop(number: int) -> None:
        app.state.stopping.set()
        server.handle_exit(number, None)

    with _signals(stop):
        listening = supervisor.inherited()
        await server.serve([listening] if listening else None)


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: it would end the process before the workers have drained."""

    greeting = ""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _tune_garbage_collector()
            port = self.servers[0].sockets[0].getsockname()[1]
            sys.stdout.write(self.greeting.replace("{port}", str(port)))
            sys.stdout.flush()


@asynccontextmanager
async def _health_page(backends: Backends, port: int | None) -> AsyncIterator[None]:
    """A worker's own /health/liveliness and /metrics, on loopback."""
    if port is None:
        yield
        return
    app = FastAPI(title="Headrace worker")

    @app.get("/health/liveliness")
    async def liveliness() -> Response:
        return JSONResponse("I'm alive!")

    @app.get("/health/readiness")
    async def readiness() -> Response:
        try:
            await asyncio.gather(backends.queue.ping(), backends.log.ping(), backends.limiter.ping())
        except Unavailable as error:
            return JSONResponse({"status": "unhealthy", "reason": error.message}, 503)
        return JSONResponse({"status": "healthy"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    server = _Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, loop="none", lifespan="off", access_log=False, log_level="warning"
        )
    )
    task = asyncio.create_task(server.serve(), name="health page")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def _signals(handler: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _tune_garbage_collector() -> None:
    """What exists after start-up lives for ever; a full collection need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _greeting(settings: Settings, catalog: Catalog) -> str:
    names = [name for name in catalog.models() if "*" not in name]
    model = names[0] if names else "MODEL"
    key = ' \\\n    -H "Authorization: Bearer $HEADRACE_MASTER_KEY"' if settings.master_key else ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (
        f"Headrace listens on http://{host}:{{port}} (docs at /docs). Try:\n\n"
        f"  curl http://{host}:{{port}}/v1/chat/completions{key} \\\n"
        '    -H "Content-Type: application/json" \\\n'
        f"""    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'\n\n"""
    )
