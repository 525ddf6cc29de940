"""The line gate: a tenant at its limit waits in the store, others go on, and what cannot run says why."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from broker import gate
from broker.account_records import Actor
from broker.backends import Backends
from broker.records import JobRecord, KeyRecord
from shared.errors import AppError, BudgetExceeded, LimitExceeded, Unavailable
from shared.jobs import Ending, Job, JobState, Lane
from shared.settings import Settings
from tests.fakes.batching import a_job, a_record, memory_backends, simulated_catalog
from tests.fakes.clock import FakeClock
from workers.feeder import Feeder
from workers.lease import Lease
from workers.line_gate import LineGate

ADMIN = Actor("test")


@dataclass
class Scene:
    clock: FakeClock
    backends: Backends
    gate: gate.Gate
    line_gate: LineGate
    feeder: Feeder
    ids: list[str] = field(default_factory=list)

    async def key(self, name: str, **fields: object) -> None:
        await self.backends.store.keys.add(KeyRecord(name, f"sk-...{name}", fields=fields), ADMIN)

    async def queue(self, owner: str, number: int, **changes: object) -> list[str]:
        jobs = [a_job(self.clock, owner, **changes) for _ in range(number)]
        for job in jobs:
            await self.backends.store.jobs.add(a_record(job, weight=20))
        return [job.id for job in jobs]

    async def drain(self, rounds: int = 1, seconds: float = 0.05) -> list[Job]:
        """What so many rounds release, taken off its lane."""
        released = []
        for _ in range(rounds):
            await self.feeder.round()
            released += await self._take()
            self.clock.advance(seconds)
        return released

    async def _take(self) -> list[Job]:
        (stats,) = [each for each in await self.backends.queue.stats() if each.lane is Lane.BATCH]
        taken = []
        async with self.backends.queue.consume(["simulated"], 10_000) as consumer:
            for _ in range(stats.depth):
                delivery = await consumer.get()
                taken.append(delivery.job)
                await delivery.ack()
        return taken

    async def record(self, job_id: str) -> JobRecord:
        record = await self.backends.store.jobs.get(job_id)
        assert record is not None
        return record

    async def states(self, job_ids: Sequence[str]) -> Counter[str]:
        return Counter([(await self.record(each)).state.value for each in job_ids])

    async def in_flight(self, key: str) -> int:
        (state,) = await self.backends.accounts.states([f"key:{key}"])
        return state.in_flight


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock(time.time())
    async with memory_backends(clock) as backends:
        lease = Lease(backends.store, "feeder", "me", clock, ttl=6000)
        await lease.acquire()
        door = gate.make(backends, simulated_catalog(), Settings(), clock)
        line_gate = LineGate(door, backends.store.jobs, clock)
        yield Scene(clock, backends, door, line_gate, Feeder(backends, clock, lease, line_gate))


async def test_lines_of_keys_without_limits_go_as_they_are() -> None:
    async with scene() as it:
        ids = await it.queue("alice", 10)

        released = await it.drain()

        assert sorted(job.id for job in released) == sorted(ids)
        assert {job.accounts for job in released} == {()}


async def test_a_line_goes_with_the_accounts_that_admitted_it() -> None:
    async with scene() as it:
        await it.key("limited", max_parallel_requests=5)
        await it.queue("limited", 1)

        (job,) = await it.drain()

        assert job.accounts == ("key:limited",)
        assert await it.in_flight("limited") == 1


async def test_a_tenant_over_its_limit_waits_for_exactly_as_long_as_it_must_and_others_go_on() -> None:
    async with scene() as it:
        await it.key("limited", rpm_limit=6)
        held = await it.queue("limited", 20)
        await it.queue("alice", 200)

        released = Counter(job.key for job in await it.drain(4))

        assert released["limited"] == 6
        assert released["alice"] > 50
        assert await it.states(held) == {"dispatched": 6, "queued": 14}

        it.clock.advance(9.7)  # the next request is free ten seconds after the sixth
        early = [job.key for job in await it.drain(1, seconds=0.0)]
        it.clock.advance(0.2)
        in_time = [job.key for job in await it.drain(1)]

        assert (early.count("limited"), in_time.count("limited")) == (0, 1)


async def test_the_feeder_looks_again_when_the_wait_is_over() -> None:
    async with scene() as it:
        await it.key("limited", rpm_limit=600)
        await it.queue("limited", 700)
        while len(await it.drain(1, seconds=0.0)):
            pass

        pause = await it.feeder.round()

        assert 0 <= pause <= 0.1


async def test_lines_go_in_their_order_though_some_had_to_wait() -> None:
    async with scene() as it:
        await it.key("limited", rpm_limit=60)
        jobs = [a_job(it.clock, "limited", deadline=it.clock.now() + 1000 + number) for number in range(70)]
        for job in jobs:
            await it.backends.store.jobs.add(a_record(job))

        released = await it.drain(25, seconds=0.5)

        assert [job.id for job in released] == [job.id for job in jobs]


async def test_a_tenant_that_had_to_wait_owes_nothing_for_lines_that_did_not_go() -> None:
    async with scene() as it:
        await it.key("limited", rpm_limit=6)
        await it.queue("limited", 300)
        await it.queue("alice", 300)
        await it.drain(8)
        it.clock.advance(60)

        released = [job.key for job in await it.drain(1)]

        assert released[:12].count("limited") == 6


async def test_a_line_over_its_budget_is_an_error_line() -> None:
    async with scene() as it:
        await it.key("poor", max_budget=0.0)
        (line,) = await it.queue("poor", 1)

        released = await it.drain()

        record = await it.record(line)
        assert (released, record.state) == ([], JobState.FAILED)
        assert record.ending is not None
        assert record.ending.error is not None
        assert record.ending.error["code"] == "budget_exceeded"


@pytest.mark.parametrize(
    ("fields", "code"), [(None, "invalid_key"), ({"blocked": True}, "key_blocked")], ids=["deleted", "blocked"]
)
async def test_lines_of_a_key_that_is_gone_say_so(fields: dict[str, bool] | None, code: str) -> None:
    async with scene() as it:
        if fields is not None:
            await it.backends.store.keys.add(KeyRecord("gone", "sk-...gone", **fields), ADMIN)
        lines = await it.queue("gone", 250)
        others = await it.queue("alice", 10)

        released = await it.drain(12)

        errors = [(await it.record(line)).ending for line in lines]
        assert {each.error["code"] for each in errors if each and each.error} == {code}
        assert await it.states(lines) == {"failed": 250}
        assert sorted(job.id for job in released) == sorted(others)


async def test_a_line_that_the_queue_refuses_gives_back_what_it_took() -> None:
    async with scene() as it:
        await it.key("limited", max_parallel_requests=5)
        await it.queue("limited", 3)
        refused: list[str] = []

        async def publish(records: Sequence[JobRecord], *, suspect: bool = False) -> object:
            refused.extend(record.job.id for record in records)
            return replace(await _publish([]), refused=frozenset(refused))

        _publish = it.feeder._dispatch.publish
        it.feeder._dispatch.publish = publish  # type: ignore[method-assign, assignment]  # the queue refuses all

        await it.feeder.round()

        assert len(refused) == 3
        assert await it.in_flight("limited") == 0


async def test_a_line_that_ended_after_it_was_read_gives_back_what_it_took() -> None:
    async with scene() as it:
        await it.key("limited", max_parallel_requests=50)
        ids = await it.queue("limited", 100)
        await it.drain(1)
        left = [each for each in ids if (await it.states([each])) == {"queued": 1}]
        await it.backends.store.jobs.end(
            [Ending(each, JobState.CANCELLED, it.clock.now(), attempts=0) for each in left]
        )
        before = await it.in_flight("limited")

        await it.drain(1)

        assert await it.in_flight("limited") == before


class Doors:
    """A gate that answers as it is told."""

    def __init__(self, door: gate.Gate, *answers: AppError | None) -> None:
        self.policies = door.policies
        self.answers = list(answers)
        self.left: list[str] = []

    async def enter(self, job: Job, policy: object, **more: object) -> Job:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer
        return replace(job, accounts=("key:x",))

    async def leave(self, job: Job) -> None:
        self.left.append(job.id)


async def test_a_tenants_lines_after_the_first_that_waits_are_not_asked_about() -> None:
    async with scene() as it:
        await it.key("x", rpm_limit=1)
        doors = Doors(it.gate, None, LimitExceeded("wait", retry_after=7.0))
        records = [a_record(a_job(it.clock, "x")) for _ in range(4)]

        found = await LineGate(doors, it.backends.store.jobs, it.clock).sort(records)  # type: ignore[arg-type]

        assert [each.job.id for each in found.go] == [records[0].job.id]
        assert [(held.seconds, held.records) for held in found.held.values()] == [(7.0, records[1:])]


async def test_a_line_that_no_wait_can_help_ends() -> None:
    async with scene() as it:
        await it.key("x", rpm_limit=1)
        doors = Doors(it.gate, LimitExceeded("never"), BudgetExceeded("used up", retry_after=60.0))
        ids = await it.queue("x", 2)
        records = [await it.record(each) for each in ids]

        found = await LineGate(doors, it.backends.store.jobs, it.clock).sort(records)  # type: ignore[arg-type]

        assert (found.go, found.held, found.ended) == ([], {}, records)
        assert await it.states(ids) == {"failed": 2}


async def test_what_was_taken_is_given_back_when_the_accounts_go_away() -> None:
    async with scene() as it:
        await it.key("x", rpm_limit=1)
        doors = Doors(it.gate, None, Unavailable("away"))
        records = [a_record(a_job(it.clock, "x")) for _ in range(2)]

        with pytest.raises(Unavailable):
            await LineGate(doors, it.backends.store.jobs, it.clock).sort(records)  # type: ignore[arg-type]

        assert doors.left == [records[0].job.id]
