"""Room on the real servers that nobody else uses, for as long as a module's tests run."""

import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
from sqlalchemy.engine import make_url

from tests.conftest import server_address
from tests.e2e.deployment import Servers
from tests.servers import VHOSTS


@contextlib.asynccontextmanager
async def real_servers(worker_number: int) -> AsyncIterator[Servers]:
    """A namespace on RabbitMQ and Redis, and a database of its own on PostgreSQL."""
    namespace = f"e{uuid4().hex[:12]}"
    redis, _, _ = server_address("HEADRACE_TEST_REDIS_URL").rpartition("/")
    rabbitmq = server_address("HEADRACE_TEST_RABBITMQ_URL").rstrip("/")
    server = server_address("HEADRACE_TEST_DATABASE_URL")
    connection = await asyncpg.connect(server, timeout=30)
    try:
        await connection.execute(f"CREATE DATABASE {namespace} TEMPLATE template0")
        yield Servers(
            rabbitmq=f"{rabbitmq}/test{worker_number % VHOSTS}",
            redis=f"{redis}/{32 + worker_number}",
            database=make_url(server).set(database=namespace).render_as_string(hide_password=False),
            namespace=namespace,
        )
        await connection.execute(f"DROP DATABASE {namespace} WITH (FORCE)")
    finally:
        await connection.close(timeout=30)
