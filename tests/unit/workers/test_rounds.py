"""Parts of the keeper: one process at a time does them, and neither an outage nor a bug ends them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from shared.errors import Unavailable
from tests.fakes.clock import FakeClock
from workers import rounds
from workers.lease import Lease
from workers.rounds import Rounds


@dataclass
class Leases:
    """The store's leases, and how often they were asked for."""

    holders: dict[str, tuple[str, float]] = field(default_factory=dict)
    asked: int = 0
    away: bool = False

    async def lease(self, name: str, holder: str, ttl: float, now: float) -> bool:
        self.asked += 1
        if self.away:
            raise Unavailable("the store is away")
        current, until = self.holders.get(name, ("", 0.0))
        if current not in ("", holder) and until > now:
            return False
        if ttl <= 0:
            self.holders.pop(name, None)
            return False
        self.holders[name] = (holder, now + ttl)
        return True


def a_lease(store: Leases, clock: FakeClock, holder: str = "me") -> Lease:
    return Lease(store, "feeder", holder, clock, ttl=6)  # type: ignore[arg-type]  # it needs no more of a store


@asynccontextmanager
async def running(part: Rounds) -> AsyncIterator[None]:
    task = asyncio.create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_a_lease_is_one_holders_until_it_runs_out() -> None:
    store, clock = Leases(), FakeClock()
    mine, yours = a_lease(store, clock), a_lease(store, clock, "you")

    assert await mine.acquire()
    assert not await yours.acquire()
    clock.advance(7)
    assert await yours.acquire()


async def test_a_holder_that_could_not_renew_stops_believing_before_others_may_have_it() -> None:
    store, clock = Leases(), FakeClock()
    mine, yours = a_lease(store, clock), a_lease(store, clock, "you")
    await mine.acquire()

    clock.advance(4.5)

    assert not mine.held
    assert not await yours.acquire()


async def test_a_lease_that_was_given_up_is_free_at_once() -> None:
    store, clock = Leases(), FakeClock()
    mine, yours = a_lease(store, clock), a_lease(store, clock, "you")
    await mine.acquire()

    await mine.give_up()

    assert not mine.held
    assert await yours.acquire()


async def test_giving_up_a_lease_survives_an_outage() -> None:
    store, clock = Leases(), FakeClock()
    mine = a_lease(store, clock)
    await mine.acquire()
    store.away = True

    await mine.give_up()

    assert not mine.held


async def test_rounds_wait_for_the_lease_and_give_it_up_at_the_end() -> None:
    store, clock = Leases(holders={"feeder": ("you", 1e12)}), FakeClock()
    done = 0

    async def once() -> float:
        nonlocal done
        done += 1
        return 0.0

    part = Rounds("feeder", once, a_lease(store, clock))
    async with running(part):
        await until(lambda: store.asked > 0)
        assert done == 0

        store.holders.clear()
        part.wake()
        await until(lambda: done > 2)

    assert store.holders == {}


async def test_rounds_go_on_after_an_outage_and_say_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_FIRST_BACKOFF", 0.0)
    calls = 0

    async def once() -> float:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise Unavailable("the store is away")
        return 60.0

    with capture_logs() as logs:
        async with running(Rounds("part", once)):
            await until(lambda: calls == 4)
            await asyncio.sleep(0)

    assert [entry["event"] for entry in logs] == ["part_waits_for_a_server", "part_goes_on"]


async def test_a_bug_in_a_round_is_logged_and_the_next_round_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_FIRST_BACKOFF", 0.0)
    calls = 0

    async def once() -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return 60.0

    with capture_logs() as logs:
        async with running(Rounds("part", once)):
            await until(lambda: calls == 2)

    assert [entry["event"] for entry in logs] == ["part_failed"]


async def test_waking_a_part_cuts_its_pause_short() -> None:
    calls = 0

    async def once() -> float:
        nonlocal calls
        calls += 1
        return 60.0

    part = Rounds("part", once)
    async with running(part):
        await until(lambda: calls == 1)
        part.wake()
        await until(lambda: calls == 2)
