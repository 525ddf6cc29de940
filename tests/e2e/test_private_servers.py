"""The private servers stop, crash and come back, because tests of recovery build on that."""

import socket

import asyncpg
import pytest
import redis.asyncio

from tests.server_process import Server, ServerFailed, free_port
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


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(500)]

    assert len(set(ports)) == len(ports)


def test_parallel_test_processes_draw_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for worker in ("gw0", "gw1", "gw2", ""):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        drawn.append({free_port() for _ in range(100)})

    assert len(set.union(*drawn)) == sum(map(len, drawn))


@pytest.mark.parametrize("kind", [Redis, Postgres])
async def test_a_first_start_that_finds_its_port_taken_takes_another(kind: type[Server]) -> None:
    server = kind()
    with socket.create_server(("127.0.0.1", server.port)):
        taken = server.port

        async with server:
            assert server.port not in (taken, 0)
            assert str(server.port) in server.url
            assert server.running


async def test_a_later_start_keeps_its_port_and_fails_if_that_is_taken() -> None:
    async with Redis() as server:
        port = server.port
        await server.kill()

        with socket.create_server(("127.0.0.1", port)), pytest.raises(ServerFailed):
            await server.start()

        await server.start()
        assert server.port == port


async def test_closing_a_server_removes_its_data() -> None:
    async with Redis() as server:
        folder = server.folder
        assert folder.exists()

    assert not folder.exists()
    assert not server.running
