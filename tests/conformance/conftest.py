"""The implementations of each seam."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.account_interfaces import Accounts
from broker.interfaces import JobQueue, Limiter
from broker.queues import memory, rabbitmq
from broker.store.database import Database, connect
from shared.jobs import Job
from tests.conformance import accounts as account_openers
from tests.conformance.limiters import opener
from tests.conformance.queues import BOUND, World, clean, rabbit_dead_letters
from tests.fakes.clock import FakeClock
from tests.fakes.schema import make_schema


@pytest.fixture(params=["memory", "rabbitmq"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        async with memory.connect("memory://", bound=BOUND) as in_memory:
            await in_memory.declare(["p", "q"])

            async def dead_letters(provider: str) -> list[tuple[Job, str]]:
                return in_memory.buried(provider)

            yield World(in_memory, lambda bound: memory.connect("memory://", bound=bound), dead_letters)
        return
    url, namespace = request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("namespace")
    async with clean(url, namespace), rabbitmq.connect(url, bound=BOUND, namespace=namespace) as queue:
        await queue.declare(["p", "q"])
        other = f"{namespace}x"

        @asynccontextmanager
        async def another(bound: int) -> AsyncIterator[JobQueue]:
            async with clean(url, other), rabbitmq.connect(url, bound=bound, namespace=other) as queue:
                yield queue

        yield World(queue, another, lambda provider: rabbit_dead_letters(url, namespace, provider))


_IN_MEMORY_TOO = ("test_ledger", "test_ledger_recorder", "test_jobs_store", "test_bill")
"""SQLite's own difference between a file and memory is a connection: these modules show that it makes none."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = any("url" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "url" in metafunc.fixturenames and not chosen:
        memory = ["sqlite-memory"] if metafunc.module.__name__.rpartition(".")[2] in _IN_MEMORY_TOO else []
        metafunc.parametrize("url", ["sqlite-file", *memory, "postgres"], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite-file":
            return f"sqlite:///{tmp_path}/headrace.db"
        case "sqlite-memory":
            return "sqlite://"
        case _:
            return str(request.getfixturevalue("database_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Database]:
    async with connect(url) as store:
        await make_schema(store)
        yield store


@pytest.fixture(params=["sqlite-file", "postgres"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that several processes can open."""
    if request.param == "postgres":
        return str(request.getfixturevalue("database_url"))
    return f"sqlite:///{tmp_path}/headrace.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> str:
    """The address of the backend; the memory one has no servers to wait for."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


@pytest.fixture
async def limiter(backend: str, namespace: str, clock: FakeClock) -> AsyncIterator[Limiter]:
    async with opener(backend, namespace, clock)() as limiter:
        yield limiter


@pytest.fixture
async def accounts(backend: str, namespace: str, clock: FakeClock) -> AsyncIterator[Accounts]:
    async with account_openers.opener(backend, namespace, clock)() as accounts:
        yield accounts
