"""Before a process serves or works: what its settings must allow, its servers, its signals, its memory."""

import asyncio
import ctypes
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Protocol

import structlog
import typer

from broker import backends as seams
from broker.backends import Backends, open_backends
from broker.live_catalog import LiveCatalog
from broker.store import apart
from broker.store_interfaces import Store
from shared import config as configuration
from shared import providers
from shared.catalog import Catalog
from shared.catalog_builder import build_catalog
from shared.config import Config
from shared.errors import ConfigError, Unavailable
from shared.logs import configure
from shared.secrets import Sealer
from shared.settings import Settings, environment, load_settings, resolve

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="LiteLLM's config.yaml. Default: HEADRACE_CONFIG.", dir_okay=False)
]

_FIRST_WAIT = 0.5  # seconds between attempts to reach the servers at start-up, doubled up to the longest
_LONGEST_WAIT = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and the catalog that it makes."""

    config: Config
    catalog: Catalog


class _Pingable(Protocol):
    async def ping(self) -> None: ...


def load(path: Path | None) -> tuple[Settings, Loaded]:
    """From the environment and this file, or the one that it names; logging is set up. Raises `ConfigError`."""
    settings = load_settings()
    path = path or settings.config
    environ = environment()
    config = configuration.default_config(environ) if path is None else configuration.load(path, environ)
    settings = resolve(settings, config)
    configure(settings.log_level, settings.log_format)
    catalog = build_catalog(config)
    warn(config, catalog, settings)
    return settings, Loaded(config, catalog)


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


def known_providers(asked: Sequence[str], catalog: Catalog, settings: Settings) -> list[str]:
    """The providers that a worker is asked to serve. Raises `ConfigError` for one that the config does not use, unless
    a model of the database may."""
    known = sorted(providers.known()) if settings.store_model_in_db else catalog.providers()
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"--provider {name}: the config has no deployment of it: expected one of {', '.join(known)}"
            )
    return list(dict.fromkeys(asked))


def warn(config: Config, catalog: Catalog, settings: Settings) -> None:
    """Say once what the config asks for in vain. Of what the database may have, `living` will tell."""
    for path in config.unknown:
        log.warning("unknown config key; `headrace check` lists them all", key=path)
    for warning in () if settings.store_model_in_db else catalog.warnings:
        log.warning(warning)


def pings(settings: Settings) -> Mapping[str, Callable[[], Awaitable[None]]]:
    """For `headrace check`: a call for each server, which connects, asks and disconnects."""

    # Made here and not in the calls: the drivers' imports would count against the time that a server has.
    servers: dict[str, AbstractAsyncContextManager[_Pingable]] = {
        "queue": seams.queue(settings),
        "events": seams.events(settings),
        "limits": seams.limits(settings),
        "store": seams.store(settings),
    }
    return {name: partial(_ping, server) for name, server in servers.items()}


async def _ping(server: AbstractAsyncContextManager[_Pingable]) -> None:
    async with server as it:
        await it.ping()


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


async def prepared_ledger(store: Store, settings: Settings) -> bool:
    """Bring the ledger's schema up to date if its database is there; outcomes wait in the queue while it is not."""
    try:
        if await store.current():
            return True
        if settings.store_url.rstrip("/") == "sqlite:":
            await store.migrate()  # it lives in this process's memory
        else:
            await apart.migrate(settings.store_url)
    except Unavailable as error:
        log.warning("the ledger's database is away; outcomes wait in the queue", reason=error.message)
        return False
    return True


@asynccontextmanager
async def living(backends: Backends, loaded: Loaded, settings: Settings) -> AsyncIterator[LiveCatalog | None]:
    """While inside, the catalog follows the models of the database, if there may be any. Raises `ConfigError` without a
    key to read their secrets with."""
    if not settings.store_model_in_db:
        yield None
        return
    salt_key = settings.salt_key or settings.master_key
    if salt_key is None:
        raise ConfigError(
            "store_model_in_db: no key to encrypt the secrets of models with: set HEADRACE_SALT_KEY, to the same text "
            "for every process, and never change it"
        )
    live = LiveCatalog(
        loaded.catalog,
        loaded.config,
        backends.store.directory,
        backends.log,
        Sealer(salt_key.get_secret_value()),
        backends.queue.declare,
    )
    try:
        await live.renew()
    except Unavailable as error:
        log.warning("the database's models are not to be had yet", reason=error.message)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(live.run(), name="models")
        try:
            yield live
        finally:
            task.cancel()


@contextmanager
def signals(handler: Callable[[int], None]) -> Iterator[None]:
    """`handler` gets SIGINT and SIGTERM, by number, while inside."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def settle_memory() -> None:
    """What exists after start-up lives for ever: full collections need not look at it again and again, and what the
    imports left unused goes back to the operating system."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
