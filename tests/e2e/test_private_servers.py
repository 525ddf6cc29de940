"""The private servers stop, crash and come back, because tests of recovery build on that."""

import asyncpg
import pytest
import redis.asyncio

from tests.servers import Postgres, Redis

# Not for their use: they decide what happens on a machine without the servers' packages.
pytestmark = pytest.mark.usefixtures("redis_url", "database_url")


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_postgres_keeps_its_port_and_committed_rows_over_an_end(end: str) -> None:
    async with Postgres() as postgres:
        url = postgres.url
        connection = await asyncpg.connect(url, timeout=30)
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        await connection.close()

        await getattr(postgres, end)()
        with pytest.raises(OSError):
            await asyncpg.connect(url, timeout=30)
        await postgres.start()

        connection = await asyncpg.connect(url, timeout=30)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()


async def test_redis_comes_back_empty_at_the_same_port() -> None:
    async with Redis() as server:
        async with redis.asyncio.from_url(server.url) as client:
            await client.set("key", "value")

        await server.kill()
        await server.start()

        async with redis.asyncio.from_url(server.url) as client:
            assert await client.get("key") is None


async def test_closing_a_server_removes_its_data() -> None:
    async with Redis() as server:
        folder = server.folder
        assert folder.exists()

    assert not folder.exists()
    assert not server.running
