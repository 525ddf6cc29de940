"""Keys that were made before they had fields."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.account_records import Actor, KeyQuery
from broker.store import migrations
from broker.store.database import Database, connect
from tests.conformance.stores import a_key

OLD = "0004"
COLUMNS = "hash, name, alias, user_id, team_id, created_at, expires_at, blocked, max_queue_wait, metadata"


def _to_old(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, OLD)


@pytest.fixture
async def old(shared_url: str) -> AsyncIterator[Database]:
    """A database of the revision before."""
    async with connect(shared_url) as store:
        await store._transactions.migrate(lambda connection: connection.run_sync(_to_old))
        yield store


async def insert(store: Database, rows: list[tuple[str, str, float]]) -> None:
    """Hash, alias, time."""

    async def insert(connection: AsyncConnection) -> None:
        values = ":hash, 'sk-...abcd', :alias, 'u', 't', :at, NULL, false, 2.5, '{\"a\": 1}'"
        statement = sa.text(f"INSERT INTO keys ({COLUMNS}) VALUES ({values})")
        await connection.execute(statement, [{"hash": hash, "alias": alias, "at": at} for hash, alias, at in rows])

    await store._transactions.write(insert)


async def test_old_keys_keep_what_they_had(old: Database) -> None:
    await insert(old, [("aa", "Grün", 5.0)])

    await old.migrate()

    key = a_key(alias="Grün", user="u", team="t", created_at=5.0, max_queue_wait=2.5, metadata={"a": 1}, updated_at=5.0)
    assert await old.keys.get("aa") == key
    assert await old.keys.find(KeyQuery(text="GRÜN")) == [key]
    assert (await old.keys.change("aa", lambda record: record, Actor("test")))[1] == ""


async def test_of_equal_aliases_the_oldest_key_keeps_its_own(old: Database) -> None:
    rows = [("c" * 64, "x", 3.0), ("a" * 64, "x", 2.0), ("b" * 64, "x", 1.0), ("d" * 64, "", 1.0), ("e" * 64, "", 1.0)]
    await insert(old, rows)

    await old.migrate()

    aliases = {record.hash[0]: record.alias for record in await old.keys.find(KeyQuery())}
    assert aliases == {"a": "x-aaaaaaaa", "b": "x", "c": "x-cccccccc", "d": "", "e": ""}
    assert await old.keys.add(a_key(alias="x"), Actor("test")) == "alias"


async def test_any_number_of_old_keys_is_found_by_text(old: Database) -> None:
    await insert(old, [(f"{number:04}", f"Key {number}", float(number)) for number in range(2100)])

    await old.migrate()

    assert await old.keys.count(KeyQuery(text="key ")) == 2100
