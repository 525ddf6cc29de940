"""The line in front of the limiter: fair, short, and empty once everybody has passed."""

import asyncio

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
