"""Leases: who of several processes does what only one may do."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.store.job_tables import leases
from broker.store.paging import upsert


async def take(connection: AsyncConnection, name: str, holder: str, ttl: float, now: float) -> bool:
    """Whether the lease is `holder`'s until `now + ttl`. With a `ttl` of 0 it is given up, and nobody's."""
    if ttl <= 0:
        await connection.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == holder))
        return False
    statement = upsert(connection, leases).values(name=name, holder=holder, until=now + ttl)
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": holder, "until": now + ttl},
        where=sa.or_(leases.c.holder == holder, leases.c.until <= now),
    )
    return (await connection.execute(statement)).rowcount == 1
