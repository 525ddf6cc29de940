"""The sums by day of a ledger that is older than they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import SpendQuery
from broker.store import migrations
from broker.store.database import connect
from broker.store.tables import daily_customers, daily_keys, daily_spend, daily_tags, daily_totals
from shared.jobs import Outcome, Status, Usage
from tests.conformance.ledgers import MIDNIGHT, an_outcome

USAGE = Usage(input=1, cache_read=2, cache_write=3, cache_write_1h=4, output=5, reasoning=1)
OLD = [
    an_outcome("a", key="k", user="owner", tags=("x", "y", "x", ""), usage=USAGE, cost=2**53 + 1),
    an_outcome("a", 2, key="k", user="owner", tags=("x",), usage=USAGE, status=Status.FAILURE),
    an_outcome("b", key="k", user="end ü", started_at=MIDNIGHT - 1e-6, team="t"),
    an_outcome("c", key="gone", user="somebody"),
    an_outcome("d", started_at=MIDNIGHT + 86_400.0),
]
TABLES = (daily_spend, daily_customers, daily_tags, daily_keys, daily_totals)


async def test_an_old_ledger_is_summed_up_as_if_it_had_been_recorded_now(url: str) -> None:
    async with connect(url) as store:
        await store._transactions.migrate(lambda connection: upgrade(connection, "0004"))
        await store._transactions.write(fill)

        await store.migrate()

        rows = sorted(await store.spend(SpendQuery()), key=lambda row: (row.job_id, row.attempt))
        sums = await store._transactions.read(all_sums)
    assert rows == [
        OLD[0],
        OLD[1],
        replace(OLD[2], user="owner", customer="end ü"),  # the request's `user` was in the same place as the key's
        replace(OLD[3], user="", customer="somebody"),
        OLD[4],
    ]
    async with connect("sqlite://") as fresh:
        await fresh.migrate()
        await fresh.record(rows)
        assert sums == await fresh._transactions.read(all_sums)


async def test_sums_of_an_old_ledger_go_on_growing(url: str) -> None:
    async with connect(url) as store:
        await store._transactions.migrate(lambda connection: upgrade(connection, "0004"))
        await store._transactions.write(fill)
        await store.migrate()

        await store.record([replace(OLD[0], job_id="z", cost=1), OLD[0]])

        sums = await store._transactions.read(all_sums)
    day = int(MIDNIGHT // 86_400)
    assert [row["requests"] for row in sums["daily_spend"] if row["day"] == day and row["user_id"] == "owner"] == [3]
    assert [row["requests"] for row in sums["daily_tags"] if row["tag"] == "x"] == [3]


async def upgrade(connection: AsyncConnection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))

    def run(sync: sa.Connection) -> None:
        config.attributes["connection"] = sync
        command.upgrade(config, revision)

    await connection.run_sync(run)


async def fill(connection: AsyncConnection) -> None:
    """As the version before wrote it."""
    table = await connection.run_sync(lambda sync: sa.Table("ledger", sa.MetaData(), autoload_with=sync))
    await connection.execute(sa.insert(table), [old_row(outcome) for outcome in OLD])
    await connection.execute(
        sa.text(
            "INSERT INTO keys (hash, name, alias, user_id, team_id, created_at, blocked, metadata) "
            "VALUES ('k', 'sk-...', '', 'owner', '', 1, false, '{}')"
        )
    )


def old_row(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "job_id": outcome.job_id,
        "attempt": outcome.attempt,
        "started_at": outcome.started_at,
        "created_at": outcome.started_at,
        "endpoint": outcome.endpoint,
        "model": outcome.model,
        "model_group": outcome.group,
        "deployment": outcome.deployment,
        "provider": outcome.provider,
        "upstream_model": outcome.upstream_model,
        "status": outcome.status.value,
        "input_tokens": usage.input,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "estimated": usage.estimated,
        "cost_nanodollars": outcome.cost,
        "queue_wait": 0.0,
        "ttft": None,
        "duration": 0.0,
        "error_code": "",
        "error_message": "",
        "stream": False,
        "key_hash": outcome.key,
        "team_id": outcome.team,
        "user_id": outcome.user,
        "tags": list(outcome.tags),
        "response_id": outcome.response_id,
    }


async def all_sums(connection: AsyncConnection) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table in TABLES:
        rows = await connection.execute(sa.select(table).order_by(table.c.day, table.c.id))
        found[table.name] = [dict(row._mapping) for row in rows]
    return found
