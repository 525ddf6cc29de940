"""What keeps the memory backends from growing without bound."""

import pytest

from broker.events import memory
from broker.interfaces import Candidate, Limits
from broker.limits import memory as limits
from shared.errors import Unavailable
from shared.events import Event, Kind
from tests.fakes.clock import FakeClock


async def test_only_so_many_finished_logs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_FINISHED", 2)
    async with memory.connect() as log:
        for job in ("one", "two", "three"):
            await log.emit("", [Event(job, 1, Kind.COMPLETED)])
        await log.emit("", [Event("running", 1, Kind.CHUNK)])

        kept = [job for job in ("one", "two", "three", "running") if await log.replay(job)]

    assert kept == ["two", "three", "running"]


async def test_finished_logs_are_bounded_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_FINISHED_BYTES", 250)
    async with memory.connect() as log:
        for job in ("one", "two", "three"):
            await log.emit("", [Event(job, 1, Kind.COMPLETED, b"x" * 100)])

        kept = [job for job in ("one", "two", "three") if await log.replay(job)]

    assert kept == ["two", "three"]


async def test_a_log_loses_its_oldest_events_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_EVENTS", 2000)
    async with memory.connect() as log:
        follower = log.follow("job")
        await log.emit(log.reply_channel, [Event("job", seq, Kind.CHUNK) for seq in range(1, 2002)])

        assert [event.seq for event in await log.replay("job")] == list(range(1001, 2002))
        with pytest.raises(Unavailable, match="lost events 257 to 1000"):
            async for _ in follower:
                pass


async def test_bodies_are_bounded_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_BODY_BYTES", 10)
    async with memory.connect() as log:
        await log.put_body("one", b"123456", ttl=60)

        with pytest.raises(Unavailable):
            await log.put_body("two", b"12345", ttl=60)
        await log.put_body("one", b"1234567890", ttl=60)

        assert await log.get_body("one") == b"1234567890"


async def test_idle_buckets_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_SWEEP_AT", 3)
    clock = FakeClock()
    limiter = limits.connect(clock=clock)
    for name in ("a", "b", "c"):
        await limiter.take(name, [Candidate("deployment", name, "key", Limits(tpm=100), 100)], lease_ttl=10)
        clock.advance(3000)

    await limiter.take("d", [Candidate("deployment", "d", "key", Limits(tpm=100), 100)])

    assert sorted(limiter._buckets) == ["c", "d"]
