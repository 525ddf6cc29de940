"""What `broker.store_interfaces.Store.lease` promises, on every implementation."""

import asyncio

from broker.store.database import Database, connect
from tests.conformance.durable_jobs import (
    NOW,
)


async def test_a_lease_is_one_holders_until_it_runs_out(store: Database) -> None:
    answers = [
        await store.lease("feeder", "a", 10, NOW),
        await store.lease("feeder", "b", 10, NOW + 9),
        await store.lease("feeder", "a", 10, NOW + 9),
        await store.lease("janitor", "b", 10, NOW + 9),
        await store.lease("feeder", "b", 10, NOW + 18.5),
        await store.lease("feeder", "b", 10, NOW + 19),
        await store.lease("feeder", "a", 10, NOW + 20),
    ]

    assert answers == [True, False, True, True, False, True, False]


async def test_a_lease_that_was_given_up_is_anybodys(store: Database) -> None:
    await store.lease("feeder", "a", 10, NOW)

    await store.lease("feeder", "b", 0, NOW)
    kept = await store.lease("feeder", "b", 10, NOW)
    await store.lease("feeder", "a", 0, NOW)

    assert not kept
    assert await store.lease("feeder", "b", 10, NOW)


async def test_of_many_that_want_a_lease_at_once_one_gets_it(shared_url: str) -> None:
    async with connect(shared_url) as one, connect(shared_url) as other:
        await one.migrate()

        answers = await asyncio.gather(
            *(store.lease("feeder", f"{number}", 10, NOW) for number, store in enumerate([one, other] * 5))
        )

        assert answers.count(True) == 1
