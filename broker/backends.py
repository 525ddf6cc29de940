"""The only place that picks servers: three URLs, each unset or set, seam by seam."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.account_interfaces import Accounts
from broker.interfaces import EventLog, JobQueue, Limiter
from broker.store_interfaces import Store
from shared.errors import ConfigError
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Backends:
    """The five seams, open."""

    queue: JobQueue
    log: EventLog
    limiter: Limiter
    store: Store
    accounts: Accounts


@asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Connect to what the settings name; raises `Unavailable` when a server does not answer."""
    async with (
        queue(settings) as jobs,
        events(settings) as log,
        limits(settings) as limiter,
        store(settings) as ledger,
        accounts(settings) as balances,
    ):
        yield Backends(jobs, log, limiter, ledger, balances)


def queue(settings: Settings) -> AbstractAsyncContextManager[JobQueue]:
    match _scheme(settings.queue_url):
        case "memory":
            from broker.queues import memory

            return memory.connect(settings.queue_url, bound=settings.queue_bound)
        case "amqp" | "amqps":
            from broker.queues import rabbitmq

            return rabbitmq.connect(settings.queue_url, bound=settings.queue_bound, namespace=settings.namespace)
        case scheme:
            raise ConfigError(f"RABBITMQ_URL: unknown scheme {scheme!r}: expected amqp or amqps")


def events(settings: Settings) -> AbstractAsyncContextManager[EventLog]:
    match _scheme(settings.events_url):
        case "memory":
            from broker.events import memory

            return memory.connect(settings.events_url)
        case "redis" | "rediss" | "unix":
            from broker.events import redis

            return redis.connect(settings.events_url, namespace=settings.namespace)
        case scheme:
            raise _not_redis(scheme)


def limits(settings: Settings) -> AbstractAsyncContextManager[Limiter]:
    match _scheme(settings.limits_url):
        case "memory":
            from broker.limits import memory

            return memory.connect(settings.limits_url)
        case "redis" | "rediss" | "unix":
            from broker.limits import redis

            return redis.connect(settings.limits_url, namespace=settings.namespace)
        case scheme:
            raise _not_redis(scheme)


def accounts(settings: Settings) -> AbstractAsyncContextManager[Accounts]:
    match _scheme(settings.limits_url):
        case "memory":
            from broker.accounts import memory

            return memory.connect(settings.limits_url)
        case "redis" | "rediss" | "unix":
            from broker.accounts import redis

            return redis.connect(settings.limits_url, namespace=settings.namespace)
        case scheme:
            raise _not_redis(scheme)


def store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    from broker.store import database

    try:
        return database.connect(settings.store_url)
    except ValueError as exc:
        raise ConfigError(f"DATABASE_URL: {exc}") from exc


def _scheme(url: str) -> str:
    return urlsplit(url).scheme


def _not_redis(scheme: str) -> ConfigError:
    return ConfigError(f"REDIS_URL: unknown scheme {scheme!r}: expected redis or rediss")
