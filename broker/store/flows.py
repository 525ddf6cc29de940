"""The jobs that wait to be released: who has any, which go first, and how many go before one.

All of it is read from the index `jobs_ready`, which holds exactly these jobs in the order in which they go.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import Flow, JobRecord
from broker.store import job_rows
from broker.store.job_tables import READY, jobs

MOST_COUNTED = 100
"""Jobs of a flow are not counted beyond this."""

MOST_FLOWS = 10_000

_IN_TURN = (jobs.c.rank, jobs.c.deadline, jobs.c.created_at, jobs.c.line, jobs.c.id)

# Jumps through the index from one provider to the next, and from one tenant to the next, however many jobs lie between.
# ORDER BY keeps every step to the index: with old statistics PostgreSQL would compute a `min` from all rows, and
# count a few of many from the table's front, where the rows lie that are no more.
_FLOWS = sa.text(
    f"""
    WITH RECURSIVE providers(provider) AS (
        SELECT (SELECT provider FROM jobs WHERE {READY} ORDER BY provider LIMIT 1)
        UNION ALL
        SELECT (
            SELECT jobs.provider FROM jobs
            WHERE {READY} AND jobs.provider > providers.provider ORDER BY jobs.provider LIMIT 1
        )
        FROM providers WHERE provider IS NOT NULL
    ), flows(provider, tenant) AS (
        SELECT provider, (
            SELECT tenant FROM jobs WHERE {READY} AND jobs.provider = providers.provider ORDER BY tenant LIMIT 1
        )
        FROM providers WHERE provider IS NOT NULL
        UNION ALL
        SELECT provider, (
            SELECT jobs.tenant FROM jobs
            WHERE {READY} AND jobs.provider = flows.provider AND jobs.tenant > flows.tenant
            ORDER BY jobs.tenant LIMIT 1
        )
        FROM flows WHERE tenant IS NOT NULL
    )
    SELECT tenant, provider, (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs
            WHERE {READY} AND jobs.provider = flows.provider AND jobs.tenant = flows.tenant
            ORDER BY rank, deadline LIMIT {MOST_COUNTED}
        ) AS counted
    )
    FROM flows WHERE tenant IS NOT NULL LIMIT {MOST_FLOWS}
    """  # noqa: S608 - constants
)


async def find(connection: AsyncConnection) -> list[Flow]:
    return [Flow(tenant, provider, count) for tenant, provider, count in await connection.execute(_FLOWS)]


async def head(connection: AsyncConnection, tenant: str, provider: str, limit: int) -> list[JobRecord]:
    """The first of a flow, with their bodies."""
    statement = (
        job_rows.select(body=True)
        .where(sa.text(READY), jobs.c.provider == provider, jobs.c.tenant == tenant)
        .order_by(*_IN_TURN)
        .limit(limit)
    )
    return await job_rows.records(connection, statement)


async def position(connection: AsyncConnection, job_id: str) -> int | None:
    """How many of its flow go before this one; None when it does not wait."""
    turn = sa.select(jobs.c.provider, jobs.c.tenant, *_IN_TURN).where(jobs.c.id == job_id, sa.text(READY))
    row = (await connection.execute(turn)).one_or_none()
    if row is None:
        return None
    provider, tenant, *place = row
    before = sa.tuple_(*_IN_TURN) < sa.tuple_(*place)
    count = sa.select(sa.func.count()).where(
        sa.text(READY), jobs.c.provider == provider, jobs.c.tenant == tenant, before
    )
    return await connection.scalar(count.select_from(jobs))
