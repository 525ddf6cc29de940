"""The feeder: fair between tenants, shallow lanes, and every job either on its lane or in the store's queue."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from broker.backends import Backends
from broker.interfaces import JobQueue, LaneStats
from shared.errors import Unavailable
from shared.jobs import CLAIM_CHECK_BYTES, Ending, Job, JobState, Lane, Leg
from tests.fakes.batching import a_job, a_record, memory_backends
from tests.fakes.clock import FakeClock
from workers import pace
from workers.feeder import IDLE, Feeder
from workers.lease import Lease


@dataclass
class Scene:
    clock: FakeClock
    backends: Backends
    feeder: Feeder
    lease: Lease

    async def queue(self, owner: str, number: int, *, weight: int = 10, **changes: object) -> list[str]:
        jobs = [a_job(self.clock, owner, **changes) for _ in range(number)]
        for job in jobs:
            await self.backends.store.jobs.add(a_record(job, weight=weight))
        return [job.id for job in jobs]

    async def take(self, most: int = 10_000) -> list[Job]:
        """What stands on the lane, taken and settled."""
        (stats,) = [each for each in await self.backends.queue.stats() if each.lane is Lane.BATCH]
        taken = []
        async with self.backends.queue.consume(["simulated"], 10_000) as consumer:
            for _ in range(min(stats.depth, most)):
                delivery = await consumer.get()
                taken.append(delivery.job)
                await delivery.ack()
        return taken

    async def drain(self, rounds: int) -> list[Job]:
        """What so many rounds release, each lane emptied before the next."""
        released = []
        for _ in range(rounds):
            await self.feeder.round()
            released += await self.take()
            self.clock.advance(0.05)
        return released

    async def states(self, job_ids: Sequence[str]) -> Counter[str]:
        records = [await self.backends.store.jobs.get(job_id) for job_id in job_ids]
        return Counter(record.state.value for record in records if record is not None)


@asynccontextmanager
async def scene(*, bound: int = 10_000) -> AsyncIterator[Scene]:
    clock = FakeClock()
    async with memory_backends(clock, bound=bound) as backends:
        lease = Lease(backends.store, "feeder", "me", clock, ttl=600)
        await lease.acquire()
        yield Scene(clock, backends, Feeder(backends, clock, lease), lease)


async def test_an_empty_lane_gets_its_first_window_and_no_more() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 100)

        await it.feeder.round()
        await it.feeder.round()

        assert await it.states(ids) == {"dispatched": 32, "queued": 68}
        assert len(await it.take()) == 32


async def test_everything_is_released_once_as_the_lane_drains() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 300)

        released = await it.drain(20)

        assert sorted(job.id for job in released) == sorted(ids)
        assert await it.states(ids) == {"dispatched": 300}
        assert not any(job.suspect for job in released)


async def test_two_tenants_share_a_lane_by_the_weight_of_their_jobs() -> None:
    async with scene() as it:
        await it.queue("alice", 100, weight=30)
        await it.queue("bob", 100, weight=10)

        released = Counter(job.key for job in await it.drain(1))

        assert released == {"alice": 8, "bob": 24}


async def test_a_quiet_tenants_job_passes_a_flood() -> None:
    async with scene() as it:
        await it.queue("flood", 500)
        await it.drain(3)
        await it.queue("quiet", 1)
        it.clock.advance(0.3)

        released = [job.key for job in await it.drain(1)]

        assert "quiet" in released[:2]


async def test_within_a_tenant_priority_goes_first_then_the_deadline() -> None:
    async with scene() as it:
        late, soon, urgent = (a_job(it.clock, deadline=it.clock.now() + seconds) for seconds in (500, 100, 900))
        for job, priority in ((late, 0), (soon, 0), (urgent, 5)):
            await it.backends.store.jobs.add(a_record(job, priority=priority))

        released = await it.drain(1)

        assert [job.id for job in released] == [urgent.id, soon.id, late.id]


async def test_a_job_with_more_priority_passes_those_that_were_read_before_it_came() -> None:
    async with scene() as it:
        await it.queue("alice", 300)
        await it.drain(2)
        urgent = a_job(it.clock)
        await it.backends.store.jobs.add(a_record(urgent, priority=9))
        it.clock.advance(2.5)

        released = await it.drain(1)

        assert released[0].id == urgent.id


async def test_a_hundred_tenants_are_all_served() -> None:
    async with scene() as it:
        for number in range(100):
            await it.queue(f"tenant-{number}", 2)

        released = Counter(job.key for job in await it.drain(25))

        assert len(released) == 100
        assert set(released.values()) == {2}


async def test_a_paused_lane_gets_nothing_until_it_goes_on() -> None:
    async with scene() as it:
        await it.backends.log.pause_lane("simulated.batch", True)
        ids = await it.queue("alice", 10)

        assert await it.feeder.round() == IDLE
        assert await it.states(ids) == {"queued": 10}

        await it.backends.log.pause_lane("simulated.batch", False)
        it.clock.advance(1)
        await it.feeder.round()
        assert await it.states(ids) == {"dispatched": 10}


async def test_half_of_a_lanes_bound_is_left_for_others() -> None:
    async with scene(bound=10) as it:
        ids = await it.queue("alice", 20)

        await it.feeder.round()

        assert await it.states(ids) == {"dispatched": 5, "queued": 15}


class Refusing:
    """A queue that loses its connection after so many messages."""

    def __init__(self, queue: JobQueue, accepts: int) -> None:
        self._queue = queue
        self.accepts = accepts

    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        self.accepts -= 1
        if self.accepts >= 0:
            return self._queue.publish(job, delay=delay)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(Unavailable("the connection was lost before the confirm"))
        return lost

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)


async def test_jobs_that_the_queue_refuses_wait_again_and_come_back_as_suspects() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 10)
        refusing = Refusing(it.backends.queue, 4)
        feeder = Feeder(replace(it.backends, queue=refusing), it.clock, it.lease)  # type: ignore[arg-type]

        assert await feeder.round() == IDLE
        assert await it.states(ids) == {"dispatched": 4, "queued": 6}

        refusing.accepts = 100
        await it.take()
        it.clock.advance(1)
        await feeder.round()
        again = await it.take()
        assert await it.states(ids) == {"dispatched": 10}
        assert [job.suspect for job in again] == [True] * 6


class Slow:
    """A queue that confirms nothing, nor has anything, until it is let go. Publishing takes time."""

    def __init__(self, queue: JobQueue, clock: FakeClock) -> None:
        self._queue = queue
        self._clock = clock
        self.held: list[tuple[Job, asyncio.Future[None]]] = []
        self.looks = 0

    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        self._clock.advance(0.002)
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held.append((job, confirm))
        return confirm

    async def stats(self) -> Sequence[LaneStats]:
        self.looks += 1
        return await self._queue.stats()

    async def let_go(self) -> None:
        for job, confirm in self.held:
            await self._queue.publish(job)
            confirm.set_result(None)

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)


async def test_the_next_look_does_not_wait_for_confirms_and_counts_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "FEWEST", 300)
    async with scene() as it:
        ids = await it.queue("alice", 400)
        slow = Slow(it.backends.queue, it.clock)
        feeder = Feeder(replace(it.backends, queue=slow), it.clock, it.lease)  # type: ignore[arg-type]

        filling = asyncio.create_task(feeder.round())
        async with asyncio.timeout(30):
            while len(slow.held) < 300:
                await asyncio.sleep(0.01)
        looks = slow.looks
        await slow.let_go()
        await filling

        assert looks == 2
        assert len(slow.held) == 300
        assert await it.states(ids) == {"dispatched": 300, "queued": 100}


async def test_a_job_that_ended_after_it_was_read_is_not_released() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 200)
        await it.drain(2)
        left = [each for each in ids if (await it.states([each])) == {"queued": 1}]
        cancelled = [Ending(job_id, JobState.CANCELLED, it.clock.now(), attempts=0) for job_id in left]
        await it.backends.store.jobs.end(cancelled)

        released = await it.drain(2)

        assert released == []


async def test_without_its_lease_the_feeder_releases_nothing() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 5)
        await it.lease.give_up()

        await it.feeder.round()

        assert await it.states(ids) == {"queued": 5}


async def test_a_large_body_stays_in_the_store() -> None:
    async with scene() as it:
        await it.queue("alice", 1, body=b" " * (CLAIM_CHECK_BYTES + 1))

        (job,) = await it.drain(1)

        assert (job.body, job.claim) == (b"", True)


async def test_jobs_for_a_provider_that_the_config_lost_are_reported_once_and_hold_up_nobody() -> None:
    async with scene() as it:
        await it.queue("alice", 1, route=(Leg("gone", "g", ("x",)),))
        ids = await it.queue("alice", 1)

        with capture_logs() as logs:
            await it.drain(3)

        assert await it.states(ids) == {"dispatched": 1}
        assert [entry["event"] for entry in logs] == ["jobs_of_an_unknown_provider_wait"]


async def test_nothing_queued_means_a_long_pause() -> None:
    async with scene() as it:
        assert await it.feeder.round() == IDLE


@pytest.mark.parametrize("tenants", [1, 3])
async def test_large_bodies_are_read_a_few_at_a_time(tenants: int) -> None:
    async with scene() as it:
        for tenant in range(tenants):
            await it.queue(f"tenant-{tenant}", 12, body=b"x" * 1_000_000)

        released = await it.drain(12)

        assert len(released) == 12 * tenants
