"""The store's connections and migrations: several processes, servers that are away, addresses of every kind."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from broker.records import SpendQuery
from broker.store import database
from broker.store.database import Database, connect
from broker.store.tables import metadata
from shared.errors import Unavailable
from tests.conformance.ledgers import an_outcome


async def test_several_processes_migrate_at_once(shared_url: str) -> None:
    async with connect(shared_url) as one, connect(shared_url) as two, connect(shared_url) as three:
        await asyncio.gather(*(store.migrate() for store in (one, two, three, one)))

        assert await three.record([an_outcome()]) == 1


async def test_the_migrations_arrive_at_the_tables_that_queries_use(url: str) -> None:
    async with connect(url) as store:
        await store.migrate()
        differences = await store._transactions.migrate(
            lambda connection: connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
            )
        )

    assert differences == []


async def test_a_store_that_answers_can_be_pinged(store: Database) -> None:
    await store.ping()


async def test_a_cancelled_query_leaves_a_working_store(store: Database) -> None:
    await store.record([an_outcome()])
    query = asyncio.create_task(store.spend(SpendQuery()))
    await asyncio.sleep(0)

    query.cancel()
    await asyncio.gather(query, return_exceptions=True)

    assert await store.spend(SpendQuery()) == [an_outcome()]


async def test_more_queries_at_once_than_connections_are_all_answered(store: Database) -> None:
    await store.record([an_outcome()])

    answers = await asyncio.gather(*(store.spend(SpendQuery()) for _ in range(40)))

    assert answers == [[an_outcome()]] * 40


@pytest.mark.parametrize(
    "address",
    ["postgresql://nobody:secret@127.0.0.1:1/none", "sqlite:////nowhere/at/all/headrace.db"],
)
async def test_a_database_that_is_away_is_unavailable_and_stops_nobody_from_starting(address: str) -> None:
    async with connect(address) as store:
        for act in (store.ping, store.migrate, store.summary):
            with pytest.raises(Unavailable) as failure:
                await act()

            assert "secret" not in str(failure.value)


async def test_a_store_that_was_left_is_unavailable() -> None:
    store = connect("sqlite://")

    with pytest.raises(Unavailable):
        await store.ping()


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ValueError, match="unknown database scheme 'mysql'"):
        connect("mysql://root@localhost/headrace")


async def test_a_lock_that_is_held_too_long_makes_sqlite_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT", 0.01)
    url = f"sqlite:///{tmp_path}/headrace.db"
    async with connect(url) as holder, connect(url) as store:
        await holder.migrate()
        assert holder._engines is not None
        async with holder._engines.writer.begin() as transaction:
            await transaction.execute(sa.text("DELETE FROM ledger"))

            with pytest.raises(Unavailable):
                await store.record([an_outcome()])

        assert await store.record([an_outcome()]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "schema=headrace_own&connection_limit=10&pool_timeout=20&sslmode=prefer&connect_timeout=3",
        "schema=public&sslaccept=accept_invalid_certs&socket_timeout=5&channel_binding=prefer",
        "pgbouncer=true&connection_limit=1&statement_cache_size=0",
        "application_name=litellm&options=-c%20geqo%3Doff&connection_limit=none",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_addresses_as_prisma_writes_them_are_understood(database_url: str, scheme: str, query: str) -> None:
    async with connect(f"{scheme}://{database_url.split('://')[1]}?{query}") as store:
        await store.migrate()

        assert await store.record([an_outcome()]) == 1
        assert await store.spend(SpendQuery()) == [an_outcome()]


async def test_the_schema_of_the_address_holds_the_tables(database_url: str) -> None:
    async with connect(f"{database_url}?schema=My-Own") as store:
        await store.migrate()

        assert await store.record([an_outcome()]) == 1

    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval('SELECT count(*) FROM "My-Own".ledger') == 1
    await connection.close()


async def test_connections_that_the_server_closed_are_replaced_unnoticed(database_url: str) -> None:
    async with connect(database_url) as store:
        await store.migrate()
        await asyncio.gather(*(store.ping() for _ in range(5)))
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()

        assert await store.record([an_outcome()]) == 1
