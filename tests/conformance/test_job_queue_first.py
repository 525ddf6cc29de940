"""What every JobQueue counts of the jobs that go first."""

import asyncio
from dataclasses import replace

from shared.jobs import FIRST, Lane
from tests.conformance.queues import World, job, until


async def test_interactive_jobs_that_go_first_are_counted_among_the_others_and_apart(world: World) -> None:
    jobs = [replace(job(lane=lane), precedence=n) for lane in Lane for n in (0, 1, FIRST, FIRST)]

    await asyncio.gather(*(world.queue.publish(each) for each in jobs))

    interactive = await until(world.queue, Lane.INTERACTIVE, lambda stats: stats.depth == 4)
    batch = await until(world.queue, Lane.BATCH, lambda stats: stats.depth == 4)
    assert (interactive.first, batch.first) == (2, 0)
