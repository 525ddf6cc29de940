"""The keeper's part: a batch finds its way to the provider without anybody's help."""

import asyncio

from shared.clock import SystemClock
from shared.settings import Settings
from tests.fakes.batching import a_line, eventually, json_lines
from tests.fakes.consigning import world
from workers.keeper import PARTS, Keeper, Surroundings


async def _prepared() -> bool:
    return True


async def test_a_keeper_takes_a_batch_to_its_provider() -> None:
    async with world() as it:
        around = Surroundings(it.backends, it.catalog, Settings(), SystemClock(), _prepared)
        batch = await it.desk.batch(json_lines([a_line(number, body={"model": "m"}) for number in range(12)]))
        it.batch_id = batch.id
        keeping = asyncio.create_task(Keeper(around, PARTS).run())
        try:
            await eventually(lambda: it.api.batches)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

        assert len(it.api.only.lines) == 12
        assert await it.states() == {"consigned": 12}
