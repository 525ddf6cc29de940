"""The pool: as many jobs as it may, heartbeats while it lives, and nothing left behind when it ends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle, pairwise

import pytest
from structlog.testing import capture_logs

from broker.events.memory import MemoryEventLog
from broker.interfaces import Consumer
from broker.limits.memory import MemoryLimiter
from broker.queues.memory import MemoryQueue
from shared import metrics
from shared.catalog import Catalog
from shared.clock import SystemClock
from shared.errors import Unavailable
from shared.events import Kind
from shared.ids import uuid7
from shared.jobs import Job, Lane, Leg
from shared.lane_reports import LaneReport, total
from tests.fakes.seams import deployment, leg, until
from tests.fakes.upstream import FakeUpstream
from workers import worker as module
from workers.pipeline import Seams
from workers.providers.openai import OpenAI
from workers.worker import Worker

BODY = b'{"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}'


@dataclass
class Pool:
    worker: Worker
    queue: MemoryQueue
    log: MemoryEventLog
    catalog: Catalog
    upstream: FakeUpstream
    stopping: asyncio.Event
    running: "asyncio.Task[None]"

    async def submit(
        self, count: int = 1, *, stream: bool = False, route: tuple[Leg, ...] = (), keys: Sequence[str] = ("",)
    ) -> list[Job]:
        """Jobs of these keys in turn."""
        now = SystemClock().now()
        body = BODY.replace(b"{", b'{"stream": true, ', 1) if stream else BODY
        route = route or (leg("a"),)
        jobs = [
            Job(uuid7(), "chat.completions", "chat", route, body, self.log.reply_channel, now, now + 60, stream=stream)
            for _ in range(count)
        ]
        jobs = [replace(job, key=key) for job, key in zip(jobs, cycle(keys), strict=False)]
        for job in jobs:
            await self.queue.publish(job)
        return jobs

    def heard_of_pauses(self) -> asyncio.Event:
        """Set whenever the worker has taken to heart which lanes are paused; clear it to wait for the next time."""
        heard = asyncio.Event()
        mind = self.worker._mind_paused_lanes

        async def minded(consumer: Consumer) -> None:
            await mind(consumer)
            heard.set()

        self.worker._mind_paused_lanes = minded  # type: ignore[method-assign]  # to know when, without a sleep
        return heard

    async def stop(self) -> None:
        self.stopping.set()
        async with asyncio.timeout(60):
            await self.running

    async def kinds(self, job: Job) -> list[Kind]:
        return [event.kind for event in await self.log.replay(job.id) if event.kind is not Kind.STARTED]

    async def depth(self) -> tuple[int, int]:
        """Waiting, in flight."""
        (lane,) = [each for each in await self.queue.stats() if each.lane is Lane.INTERACTIVE]
        return lane.depth, lane.in_flight


@asynccontextmanager
async def pool(
    concurrency: int = 10, grace: float = 30.0, providers: Sequence[str] | None = ("openai",)
) -> AsyncIterator[Pool]:
    async with FakeUpstream() as upstream, MemoryQueue(1000) as queue, MemoryEventLog() as log:
        limits = {"rpm": None, "tpm": None, "max_parallel_requests": None}
        catalog = Catalog([deployment("a", upstream.url, **limits)])
        clock = SystemClock()
        seams = Seams(queue, log, MemoryLimiter(clock), catalog, clock)
        await queue.declare(["openai"])
        worker = Worker(seams, providers, concurrency=concurrency, grace=grace)
        stopping = asyncio.Event()
        it = Pool(worker, queue, log, catalog, upstream, stopping, asyncio.create_task(worker.run(stopping)))
        try:
            yield it
        finally:
            await it.stop()


async def test_jobs_are_answered_and_acked() -> None:
    async with pool() as it:
        jobs = await it.submit(20)
        await it.upstream.arrived(20)
        await it.stop()

        assert [await it.kinds(job) for job in jobs] == [[Kind.COMPLETED]] * 20
        assert await it.depth() == (0, 0)


async def test_jobs_of_a_provider_that_came_with_a_new_model_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    async with pool(providers=None) as it:
        limits = {"rpm": None, "tpm": None, "max_parallel_requests": None}
        new = deployment("b", it.upstream.url, provider="groq", **limits)
        await it.queue.declare(["groq"])
        [job] = await it.submit(route=(leg("b", provider="groq"),))

        it.catalog.adopt(Catalog([new]))

        await it.upstream.arrived(1)
        await it.stop()
        assert await it.kinds(job) == [Kind.COMPLETED]


async def test_a_worker_of_some_providers_takes_no_jobs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    monkeypatch.setattr(module, "_LOOK", 0.01)
    async with pool(providers=["openai"]) as it:
        heard = it.heard_of_pauses()
        await it.queue.declare(["groq"])
        await it.submit(route=(leg("b", provider="groq"),))

        it.catalog.adopt(Catalog([deployment("b", it.upstream.url, provider="groq")]))
        for _ in range(3):
            await heard.wait()
            heard.clear()

        assert it.worker.in_flight == 0


async def test_no_more_jobs_run_than_the_concurrency_allows() -> None:
    async with pool(concurrency=3) as it:
        it.upstream.gate.clear()
        await it.submit(7)
        await it.upstream.arrived(3)
        await asyncio.sleep(0)

        assert it.worker.in_flight == 3
        assert await it.depth() == (4, 3)
        it.upstream.gate.set()


@pytest.mark.parametrize(("keys", "most"), [(("one", "other"), module._STARTS), (("one",), 20)])
async def test_jobs_of_several_tenants_that_lie_ready_begin_a_few_at_a_time(keys: Sequence[str], most: int) -> None:
    async with pool(concurrency=20) as it:
        it.upstream.gate.clear()
        await it.submit(20, keys=keys)

        begun = [it.worker.in_flight]
        while begun[-1] < 20:
            await asyncio.sleep(0)
            begun.append(it.worker.in_flight)

        assert max(after - before for before, after in pairwise(begun)) == most
        it.upstream.gate.set()


async def test_the_gauge_of_running_jobs_follows_them_and_returns_to_zero() -> None:
    async with pool() as it:
        it.upstream.gate.clear()
        await it.submit(3)
        await it.upstream.arrived(3)

        assert metrics.REGISTRY.get_sample_value("headrace_worker_jobs_running") == 3
        it.upstream.gate.set()
        await until(lambda: it.worker.in_flight == 0)
        assert metrics.REGISTRY.get_sample_value("headrace_worker_jobs_running") == 0


async def test_a_worker_is_present_until_it_has_ended() -> None:
    async with pool() as it:
        it.upstream.latency = 0.2
        await it.submit()
        await it.upstream.arrived(1)

        assert await it.log.present(it.worker.id)
        await it.stop()
        assert not await it.log.present(it.worker.id)


async def test_a_missed_heartbeat_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    async with pool() as it:
        await it.submit()
        await it.upstream.arrived(1)
        beats = 0
        announce = it.log.announce

        async def flaky(worker: str, ttl: float, report: bytes = b"") -> None:
            nonlocal beats
            beats += 1
            if beats == 1:
                raise Unavailable("the log is away")
            await announce(worker, ttl, report)

        it.log.announce = flaky  # type: ignore[method-assign]  # the server is away for one beat
        with capture_logs() as logs:
            await until(lambda: beats >= 3)

        assert [entry["event"] for entry in logs if "missed" in entry["event"]] == ["heartbeat missed"]
        assert not it.running.done()


async def test_a_worker_takes_no_jobs_of_a_paused_lane_until_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    async with pool() as it:
        await it.log.pause_lane("openai.interactive", True)
        heard = it.heard_of_pauses()
        await heard.wait()
        await it.submit()
        heard.clear()
        await heard.wait()
        waiting = await it.depth()

        await it.log.pause_lane("openai.interactive", False)
        await it.upstream.arrived(1)

        assert waiting == (1, 0)


async def test_what_was_paused_stays_paused_while_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    async with pool() as it:
        await it.log.pause_lane("openai.interactive", True)
        heard = it.heard_of_pauses()
        await heard.wait()
        asked = asyncio.Event()

        async def away() -> frozenset[str]:
            asked.set()
            raise Unavailable("the log is away")

        it.log.paused_lanes = away  # type: ignore[method-assign]  # the server is away from here on
        await asked.wait()
        await it.submit()
        asked.clear()
        await asked.wait()

        assert await it.depth() == (1, 0)
        assert not it.running.done()


async def test_a_heartbeat_reports_the_jobs_in_flight_and_then_that_they_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    async with pool() as it:

        async def reported(in_flight: int) -> LaneReport:
            while True:
                lane = total(await it.log.reports()).get("openai.interactive")
                if lane is not None and lane.in_flight == in_flight:
                    return lane
                await asyncio.sleep(0.005)

        it.upstream.gate.clear()
        await it.submit(3)
        async with asyncio.timeout(60):
            busy = await reported(3)
            it.upstream.gate.set()
            idle = await reported(0)

        assert (busy.drain_rate, idle.drain_rate > 0) == (0.0, True)
        await it.stop()
        assert await it.log.reports() == []


async def test_a_drain_lets_running_jobs_finish_and_takes_no_more() -> None:
    async with pool(concurrency=1) as it:
        it.upstream.latency = 0.2
        first, second = await it.submit(2)
        await it.upstream.arrived(1)

        await it.stop()

        assert await it.kinds(first) == [Kind.COMPLETED]
        assert await it.kinds(second) == []
        assert await it.depth() == (1, 0)


async def test_after_the_grace_period_the_rest_is_handed_over() -> None:
    async with pool(grace=0.05) as it:
        it.upstream.latency = 30.0
        (job,) = await it.submit()
        await it.upstream.arrived(1)

        await it.stop()

        assert await it.depth() == (1, 0)
        async with it.queue.consume(["openai"], 1) as other:
            successor = await other.get()
            assert (successor.job.id, successor.job.attempt, successor.redelivered) == (job.id, 2, False)


async def test_a_bug_costs_one_job_and_tells_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    stumbled = False

    original = OpenAI.completion

    def stumble_once(*args: object) -> object:
        nonlocal stumbled
        if not stumbled:
            stumbled = True
            raise KeyError("a bug")
        return original(*args)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(OpenAI, "completion", stumble_once)
    async with pool(concurrency=1) as it:
        with capture_logs() as logs:
            first, second = await it.submit(2)
            await it.upstream.arrived(2)
            await it.stop()

        assert [await it.kinds(job) for job in (first, second)] == [[Kind.FAILED], [Kind.COMPLETED]]
        assert [(dead.id, reason) for dead, reason in it.queue.buried("openai")] == [(first.id, "KeyError")]
        assert [entry["job"] for entry in logs if entry["log_level"] == "error"] == [first.id]
