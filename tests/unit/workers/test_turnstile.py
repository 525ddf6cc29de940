"""The line in front of the limiter: fair, short, and empty once everybody has passed."""

import asyncio
from dataclasses import replace

import pytest

from broker.interfaces import Candidate, Grant, Limits
from shared.jobs import Lane
from tests.fakes.clock import FakeClock
from tests.fakes.seams import NotedLimiter
from workers import turnstile
from workers.line import Standing
from workers.turnstile import Belated, Postponed, Turnstile

SOMEBODY = Standing(Lane.INTERACTIVE, "somebody", first=False)


def candidate(bucket: str = "bucket", *, tpm: float | None = 600.0, parallel: int | None = None) -> Candidate:
    return Candidate("deployment", bucket, f"credential of {bucket}", Limits(None, tpm, parallel), 600)


async def enter(
    gate: Turnstile, lease: str, *candidates: Candidate, patience: float = 60.0, who: Standing = SOMEBODY
) -> Grant | Belated | Postponed:
    return await gate.enter(lease, candidates or (candidate(),), standing=who, patience=patience, lease_ttl=60.0)


async def test_a_free_key_is_granted_at_once() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))

    answer = await enter(gate, "job/1")

    assert isinstance(answer, Grant)
    assert answer.lease == "job/1"


async def test_a_wait_that_is_too_long_for_memory_is_postponed_at_once() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    await enter(gate, "first/1")

    answer = await enter(gate, "second/1")

    assert isinstance(answer, Postponed)
    assert (round(answer.seconds), answer.reason) == (61, "tokens")


async def test_dead_keys_are_postponed_for_ever() -> None:
    limiter = NotedLimiter(FakeClock(), [])
    await limiter.bury("credential of bucket", 60.0)

    answer = await enter(Turnstile(limiter), "job/1")

    assert answer == Postponed(float("inf"), "dead")


async def test_waiting_jobs_pass_in_the_order_of_their_arrival() -> None:
    limiter = NotedLimiter(FakeClock(), [])
    gate = Turnstile(limiter)
    narrow = candidate(parallel=1, tpm=None)
    passed: list[str] = []

    async def pass_by(name: str) -> None:
        answer = await enter(gate, name, narrow)
        assert isinstance(answer, Belated)
        passed.append(name)
        await limiter.settle(answer.grant, 0)

    holder = await enter(gate, "holder", narrow)
    assert isinstance(holder, Grant)
    waiting = [asyncio.create_task(pass_by(f"job-{number}")) for number in range(4)]
    await asyncio.sleep(0)
    await limiter.settle(holder, 0)
    await asyncio.gather(*waiting)

    assert passed == ["job-0", "job-1", "job-2", "job-3"]


async def test_jobs_for_other_keys_do_not_stand_in_the_line() -> None:
    limiter = NotedLimiter(FakeClock(), [])
    gate = Turnstile(limiter)
    narrow = candidate(parallel=1, tpm=None)
    await enter(gate, "holder", narrow)
    waiting = asyncio.create_task(enter(gate, "waiting", narrow))
    await asyncio.sleep(0)

    answer = await enter(gate, "other", candidate("another bucket"))

    assert isinstance(answer, Grant)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_short_patience_is_kept() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    narrow = candidate(parallel=1, tpm=None)
    await enter(gate, "holder", narrow)

    answer = await enter(gate, "impatient", narrow, patience=0.01)

    assert isinstance(answer, Postponed)
    assert answer.reason == "parallel"


async def test_a_line_is_crowded_from_its_bound_on_and_forgotten_when_it_is_empty() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    narrow = candidate(parallel=1, tpm=None)
    await enter(gate, "holder", narrow)
    waiting = [asyncio.create_task(enter(gate, f"job-{number}", narrow)) for number in range(turnstile._CROWD)]
    await asyncio.sleep(0)

    crowded = gate.crowded([narrow], SOMEBODY)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert crowded
    assert not gate.crowded([narrow], SOMEBODY)
    assert gate._lines == {}


async def test_whoever_leaves_while_the_answer_is_under_way_gives_back_its_tokens_and_its_slot() -> None:
    limiter = NotedLimiter(FakeClock(), [])
    limiter.answering.hold()
    leaving = asyncio.create_task(enter(Turnstile(limiter), "job/1", candidate(parallel=1)))
    await limiter.answering.reached.wait()

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    (state,) = await limiter.state(["bucket"])
    assert (state.in_flight, state.tokens) == (0, 600.0)


async def test_an_absent_limiter_does_not_keep_anybody_from_leaving() -> None:
    limiter = NotedLimiter(FakeClock(), [])
    limiter.answering.hold()
    limiter.settling.fail(1)
    leaving = asyncio.create_task(enter(Turnstile(limiter), "job/1"))
    await limiter.answering.reached.wait()

    leaving.cancel()
    (ending,) = await asyncio.gather(leaving, return_exceptions=True)

    assert isinstance(ending, asyncio.CancelledError)


# Who goes first


NARROW = candidate(parallel=1, tpm=None)


def batch(tenant: str = "loud") -> Standing:
    return Standing(Lane.BATCH, tenant, first=False)


def interactive(tenant: str = "loud", *, first: bool = False) -> Standing:
    return Standing(Lane.INTERACTIVE, tenant, first)


class Passing:
    """Jobs that pass a key of one slot, each giving it back at once, in the order in which they passed."""

    def __init__(self) -> None:
        self.limiter = NotedLimiter(FakeClock(), [])
        self.gate = Turnstile(self.limiter)
        self.passed: list[str] = []
        self._running: list[asyncio.Task[None]] = []

    async def hold(self) -> Grant:
        answer = await enter(self.gate, "holder", NARROW)
        assert isinstance(answer, Grant)
        return answer

    async def join(self, name: str, who: Standing) -> None:
        self._running.append(asyncio.create_task(self._pass(name, who)))
        await asyncio.sleep(0)

    async def give_back(self, grant: Grant) -> None:
        await self.limiter.settle(grant, 0)
        self.gate.freed(grant.bucket)

    async def all(self) -> list[str]:
        await asyncio.gather(*self._running)
        return self.passed

    async def _pass(self, name: str, who: Standing) -> None:
        answer = await enter(self.gate, name, NARROW, who=who)
        assert isinstance(answer, Belated)
        self.passed.append(name)
        await self.give_back(answer.grant)


async def test_an_interactive_job_passes_all_batch_jobs_even_the_one_at_the_head() -> None:
    key = Passing()
    holder = await key.hold()
    for number in range(5):
        await key.join(f"batch-{number}", batch())

    await key.join("interactive", interactive())
    await key.give_back(holder)

    assert await key.all() == ["interactive", *(f"batch-{number}" for number in range(5))]


async def test_a_quiet_tenants_job_passes_the_flood_of_another() -> None:
    key = Passing()
    holder = await key.hold()
    for number in range(20):
        await key.join(f"loud-{number}", interactive("loud"))

    await key.join("quiet", interactive("quiet"))
    await key.give_back(holder)

    assert (await key.all()).index("quiet") <= 1


async def test_a_slot_that_this_worker_frees_is_taken_without_looking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "SHORT_WAIT", 60.0)
    monkeypatch.setattr(turnstile, "_wait", lambda refusal: 50.0)
    key = Passing()
    holder = await key.hold()
    await key.join("waiting", interactive())
    for _ in range(3):
        await asyncio.sleep(0)  # it has asked, and rests

    await key.give_back(holder)

    async with asyncio.timeout(30):
        assert await key.all() == ["waiting"]


async def test_whoever_waits_behind_one_that_leaves_is_next() -> None:
    key = Passing()
    holder = await key.hold()
    leaving = asyncio.create_task(enter(key.gate, "leaving", NARROW))
    await asyncio.sleep(0)
    await key.join("next", interactive())

    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await key.give_back(holder)

    assert await key.all() == ["next"]


# Slots for first jobs


async def granted(gate: Turnstile, who: Standing, tries: int) -> int:
    """How many of so many jobs get a slot of a key with 16 without waiting."""
    answers = [
        await enter(gate, f"{who}-{number}", candidate(parallel=16, tpm=None), who=who, patience=0.001)
        for number in range(tries)
    ]
    return sum(isinstance(answer, Grant) for answer in answers)


@pytest.mark.parametrize("who", [batch(), interactive()])
async def test_all_slots_are_for_everybody_while_no_first_job_comes(who: Standing) -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))

    assert await granted(gate, who, 20) == 16


@pytest.mark.parametrize("who", [batch(), interactive()])
async def test_while_first_jobs_come_the_last_eighth_is_kept_for_them(who: Standing) -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    first = interactive("quiet", first=True)
    await granted(gate, first, 1)

    assert await granted(gate, who, 20) == 13  # and the first one's slot
    gate = Turnstile(gate._limiter)
    assert await granted(gate, interactive("another", first=True), 5) == 2


async def test_the_slots_are_everybodys_again_when_no_first_job_came_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turnstile, "_FIRSTS_COME", 0.0)
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    await granted(gate, interactive("quiet", first=True), 1)

    assert await granted(gate, batch(), 20) == 15
    assert gate._firsts == {}


# What is left to a postponed job


async def test_batch_jobs_leave_what_is_refilled_to_an_interactive_job_that_will_be_back() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    small = replace(candidate(), tokens=1)

    gate.expect(["bucket"], Postponed(30.0, "tokens"), 2.0)
    before = await enter(gate, "batch/1", small, who=batch())
    back = await enter(gate, "interactive/1", small, who=interactive())
    after = await enter(gate, "batch/2", small, who=batch())

    assert isinstance(before, Postponed)
    assert (before.reason, 2.0 < before.seconds <= 2.5) == ("interactive", True)
    assert isinstance(back, Grant)
    assert isinstance(after, Grant)


async def test_nothing_is_left_idle_for_a_job_that_waits_for_more_than_time() -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))

    gate.expect(["bucket"], Postponed(1.0, "parallel"), 1.0)

    assert isinstance(await enter(gate, "batch/1", who=batch()), Grant)


async def test_an_interactive_job_that_does_not_come_back_is_not_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turnstile, "_RETURN", -2.0)
    gate = Turnstile(NotedLimiter(FakeClock(), []))

    gate.expect(["bucket"], Postponed(30.0, "tokens"), 2.0)

    assert isinstance(await enter(gate, "batch/1", who=batch()), Grant)
    assert gate._owed == {}


# Crowds


@pytest.mark.parametrize(
    ("waiting", "crowded"),
    [
        (interactive(), {"batch": True, "interactive": True, "first": False}),
        (batch(), {"batch": True, "interactive": False, "first": False}),
    ],
)
async def test_a_crowd_is_one_for_those_who_would_stand_in_it(waiting: Standing, crowded: dict[str, bool]) -> None:
    gate = Turnstile(NotedLimiter(FakeClock(), []))
    await enter(gate, "holder", NARROW)
    tasks = [asyncio.create_task(enter(gate, f"{n}", NARROW, who=waiting)) for n in range(turnstile._CROWD)]
    await asyncio.sleep(0)

    found = {
        "batch": gate.crowded([NARROW], batch()),
        "interactive": gate.crowded([NARROW], interactive()),
        "first": gate.crowded([NARROW], interactive(first=True)),
    }
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert found == crowded
