"""Addresses of the private servers that `make test` starts, each test apart from its neighbours."""

import gc
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import redis.asyncio
import structlog
from hypothesis import settings
from sqlalchemy.engine import make_url

from tests.servers import VHOSTS

IN_CI = bool(os.environ.get("CI"))

# The same examples every time in CI, so that a failure is the change's doing. Deadlines would measure the machine.
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("local", deadline=None, max_examples=50)
settings.load_profile("ci" if IN_CI else "local")

# As `shared.logs` has it: the default formats the variables of each frame, in a quarter of a second for each error.
structlog.configure(
    [
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_finish() -> None:
    """Thousands of tests are in memory: to look through them for garbage again and again would stop the event loop, and
    with it the fakes, for longer than the time limits that tests set."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def namespace() -> str:
    """A prefix that no other test has."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def rabbitmq_url(worker_number: int) -> str:
    """A virtual host that tests of other pytest-xdist workers do not use. Queues of earlier tests stay in it: take
    `namespace` for their names."""
    return f"{server_address('HEADRACE_TEST_RABBITMQ_URL').rstrip('/')}/test{worker_number % VHOSTS}"


@pytest.fixture
async def redis_url(worker_number: int) -> AsyncIterator[str]:
    """An empty database. Channels are shared by all databases of a server: take `namespace` for their names."""
    base, _, _ = server_address("HEADRACE_TEST_REDIS_URL").rpartition("/")
    url = f"{base}/{worker_number}"
    async with redis.asyncio.from_url(url) as client:
        await client.flushdb()
        yield url


@pytest.fixture
async def database_url(namespace: str) -> AsyncIterator[str]:
    """An empty PostgreSQL database of the test's own."""
    server = server_address("HEADRACE_TEST_DATABASE_URL")
    connection = await asyncpg.connect(server, timeout=30)
    try:
        await connection.execute(f"CREATE DATABASE {namespace} TEMPLATE template0")
        yield make_url(server).set(database=namespace).render_as_string(hide_password=False)
        await connection.execute(f"DROP DATABASE {namespace} WITH (FORCE)")
    finally:
        await connection.close(timeout=30)


@pytest.fixture(scope="session")
def worker_number() -> int:
    """0 without pytest-xdist, else the worker's number."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def server_address(variable: str) -> str:
    address = os.environ.get(variable)
    if address is None:
        missing = f"{variable} is not set: `make test` starts the servers and sets it"
        if IN_CI:
            pytest.fail(missing)
        pytest.skip(missing)
    return address
