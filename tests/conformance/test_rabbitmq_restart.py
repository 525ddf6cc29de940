"""What is still there after RabbitMQ itself was killed and started again: all that is durable."""

import asyncio
import time
from dataclasses import replace

import pytest

from broker.queues import rabbitmq
from shared.jobs import Ending, JobState, Lane
from tests.conformance.queues import BOUND, job, outcome
from tests.servers import RabbitMQ

PATIENCE = 240.0  # seconds; the server starts three times, and takes long for it on a busy machine

pytestmark = pytest.mark.timeout(PATIENCE + 60)


async def test_durable_jobs_of_either_lane_endings_and_dead_letters_survive_a_crash_of_the_server() -> None:
    durable = replace(job("interactive"), durable=True)
    ended = Ending("ended", JobState.COMPLETED, time.time(), 1, b"\x00answer")
    async with RabbitMQ() as server, asyncio.timeout(PATIENCE):
        async with rabbitmq.connect(server.url, bound=BOUND) as queue:
            await queue.declare(["p"])
        # RabbitMQ 3.10 never elects a leader for a quorum queue that was killed within a second of its creation.
        await server.stop()
        await server.start()
        async with rabbitmq.connect(server.url, bound=BOUND) as queue:
            await queue.declare(["p"])
            await queue.publish(durable)
            await queue.publish(job("batch", lane=Lane.BATCH))
            await queue.publish(replace(durable, id="delayed"), delay=0.5)
            await queue.bury("p", job("dead").headers(), b"{}", "why")
            await queue.record([outcome("ended")], [ended])
            await server.kill()
        await server.start()

        async with rabbitmq.connect(server.url, bound=BOUND) as queue:
            async with queue.consume(["p"], 8) as consumer:
                found = [(await consumer.get()).job for _ in range(3)]
            async with queue.outcomes(1) as batches, queue.dead_letters(1) as letters:
                batch, dead = await anext(batches), await anext(letters)

    assert sorted(each.id for each in found) == ["batch", "delayed", "interactive"]
    assert all(each.durable for each in found if each.id != "batch")
    assert list(batch.endings) == [ended]
    assert dead.letter.job_id == "dead"
