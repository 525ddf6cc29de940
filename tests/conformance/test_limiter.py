"""What every Limiter promises. `connect()` opens the limiter of another process; in the embedded profile it is one."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.interfaces import Candidate, Grant, Limiter, Limits, Refusal
from broker.limits import memory, redis
from broker.limits.token_bucket import LEARNED_TTL, PACE
from tests.fakes.clock import FakeClock

Connect = Callable[[], memory.MemoryLimiter | redis.RedisLimiter]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> str:
    """The address of the backend; the memory one has no servers to wait for."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


def opener(url: str, namespace: str, clock: FakeClock | None) -> Connect:
    if url == "memory://":
        limiter = memory.connect(url, clock=clock)
        return lambda: limiter
    return lambda: redis.connect(url, namespace=namespace, clock=clock.monotonic if clock else None)


@pytest.fixture
async def limiter(backend: str, namespace: str, clock: FakeClock) -> AsyncIterator[Limiter]:
    async with opener(backend, namespace, clock)() as limiter:
        yield limiter


def candidate(limits: Limits, tokens: int = 0, name: str = "a") -> Candidate:
    return Candidate(f"deployment-{name}", f"bucket-{name}", f"key-{name}", limits, tokens)


async def granted(limiter: Limiter, lease: str, *candidates: Candidate, lease_ttl: float = 660.0) -> Grant:
    answer = await limiter.take(lease, candidates, lease_ttl=lease_ttl)
    assert isinstance(answer, Grant)
    return answer


async def refused(limiter: Limiter, *candidates: Candidate) -> Refusal:
    answer = await limiter.take("refused", candidates)
    assert isinstance(answer, Refusal)
    return answer


def about(seconds: float) -> Any:
    """A wait, which is rounded up to a microsecond."""
    return pytest.approx(seconds, abs=2e-6)


async def test_the_first_candidate_that_may_go_is_granted(limiter: Limiter) -> None:
    narrow, wide = candidate(Limits(rpm=10), name="narrow"), candidate(Limits(rpm=600), name="wide")

    chosen = [(await granted(limiter, f"job/{n}", narrow, wide)).deployment for n in range(3)]

    assert chosen == ["deployment-narrow", "deployment-wide", "deployment-wide"]


async def test_a_grant_names_what_was_reserved(limiter: Limiter) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=60, tpm=1000), tokens=300))

    assert grant == Grant("deployment-a", "bucket-a", "job/1", 300, Limits(rpm=60, tpm=1000))


async def test_a_refusal_says_exactly_how_long_to_wait(limiter: Limiter, clock: FakeClock) -> None:
    only = candidate(Limits(rpm=60))
    for n in range(6):
        await granted(limiter, f"job/{n}", only)

    refusal = await refused(limiter, only)

    assert refusal == Refusal(about(1 / PACE), "requests")
    clock.advance(refusal.wait - 0.001)
    assert (await refused(limiter, only)).wait == pytest.approx(0.001, abs=2e-6)
    clock.advance(0.001)
    await granted(limiter, "job/again", only)


async def test_the_shortest_wait_of_all_candidates_counts(limiter: Limiter) -> None:
    slow, fast = candidate(Limits(rpm=1), name="slow"), candidate(Limits(tpm=6000), tokens=6000, name="fast")
    await granted(limiter, "job/1", slow)
    await granted(limiter, "job/2", fast)

    refusal = await refused(limiter, slow, replace(fast, tokens=99))

    assert refusal == Refusal(about(1.0), "tokens")


async def test_all_or_nothing_is_taken(limiter: Limiter) -> None:
    limits = Limits(rpm=600, tpm=1000, parallel=9)
    await granted(limiter, "job/1", candidate(limits, tokens=1000))
    before = await limiter.state(["bucket-a"])

    refusal = await refused(limiter, candidate(limits, tokens=500))

    assert refusal.reason == "tokens"
    assert await limiter.state(["bucket-a"]) == before


async def test_a_request_larger_than_the_bucket_passes_when_it_is_full(limiter: Limiter) -> None:
    large = candidate(Limits(tpm=1000), tokens=5000)

    grant = await granted(limiter, "job/1", large)

    assert grant.reserved == 1000
    assert (await refused(limiter, large)).wait == pytest.approx(60 / PACE, abs=2e-6)


async def test_settling_refunds_what_was_not_used(limiter: Limiter) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(tpm=1000), tokens=800))

    await limiter.settle(grant, 100)

    (state,) = await limiter.state(["bucket-a"])
    assert (state.tokens, state.in_flight) == (900, 0)


@pytest.mark.parametrize(("used", "balance"), [(None, 200), (0, 1000), (800, 200), (2000, -1000)])
async def test_settling_replaces_the_reservation(limiter: Limiter, used: int | None, balance: float) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(tpm=1000), tokens=800))

    await limiter.settle(grant, used)

    assert (await limiter.state(["bucket-a"]))[0].tokens == balance


async def test_an_overshoot_is_paid_back_by_those_who_follow(limiter: Limiter, clock: FakeClock) -> None:
    small = candidate(Limits(tpm=6000), tokens=1)
    await limiter.settle(await granted(limiter, "job/1", small), 6099)

    refusal = await refused(limiter, small)

    assert refusal == Refusal(about(100 / 99), "tokens")
    clock.advance(refusal.wait)
    await granted(limiter, "job/2", small)


async def test_a_refund_never_overfills_the_bucket(limiter: Limiter, clock: FakeClock) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(tpm=1000), tokens=800))
    clock.advance(59)

    await limiter.settle(grant, 0)

    assert (await limiter.state(["bucket-a"]))[0].tokens == 1000


async def test_settling_twice_changes_nothing(limiter: Limiter) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(tpm=1000, parallel=2), tokens=800))
    await limiter.settle(grant, 500)

    await limiter.settle(grant, 0)

    (state,) = await limiter.state(["bucket-a"])
    assert (state.tokens, state.in_flight) == (500, 0)


async def test_a_successor_frees_the_lease_of_a_worker_that_died(limiter: Limiter) -> None:
    lost = await granted(limiter, "job/1", candidate(Limits(parallel=1, tpm=1000), tokens=300))

    await limiter.settle(Grant(lost.deployment, lost.bucket, lost.lease, 0, Limits()), None)

    (state,) = await limiter.state(["bucket-a"])
    assert (state.tokens, state.in_flight) == (700, 0)


async def test_a_parallel_slot_is_free_again_after_settling(limiter: Limiter) -> None:
    only = candidate(Limits(parallel=2))
    first = await granted(limiter, "job/1", only)
    await granted(limiter, "job/2", only)

    refusal = await refused(limiter, only)
    await limiter.settle(first, None)

    assert refusal.reason == "parallel"
    assert 0 < refusal.wait < 1
    await granted(limiter, "job/3", only)


async def test_an_attempt_that_was_never_settled_frees_its_slot(limiter: Limiter, clock: FakeClock) -> None:
    only = candidate(Limits(parallel=1, tpm=1000), tokens=600)
    lost = await granted(limiter, "job/1", only, lease_ttl=30)
    clock.advance(29.9)
    assert (await limiter.state(["bucket-a"]))[0].in_flight == 1

    clock.advance(0.1)
    await limiter.settle(lost, 0)

    (state,) = await limiter.state(["bucket-a"])
    assert state.in_flight == 0
    assert state.tokens == pytest.approx(400 + 30 * 16.5), "settling an expired lease changes nothing"
    await granted(limiter, "job/2", only)


async def test_an_attempt_without_limits_is_always_granted(limiter: Limiter) -> None:
    free = candidate(Limits(), tokens=10**9)

    grants = [await granted(limiter, f"job/{n}", free) for n in range(50)]
    await limiter.settle(grants[0], 5)

    (state,) = await limiter.state(["bucket-a"])
    assert (state.requests, state.tokens, state.in_flight) == (None, None, 0)


async def test_deployments_of_one_bucket_share_its_balance(limiter: Limiter) -> None:
    one = candidate(Limits(rpm=10))
    other = replace(one, deployment="deployment-b")
    await granted(limiter, "job/1", one)

    assert (await refused(limiter, one, other)).reason == "requests"


async def test_a_limit_of_zero_closes_the_bucket(limiter: Limiter) -> None:
    for limits, reason in [(Limits(rpm=0), "requests"), (Limits(tpm=0), "tokens"), (Limits(parallel=0), "parallel")]:
        assert await refused(limiter, candidate(limits, tokens=1)) == Refusal(math.inf, reason)


async def test_a_cooldown_keeps_everybody_off_the_bucket(limiter: Limiter, clock: FakeClock) -> None:
    await limiter.cool_down("bucket-a", 20)

    refusal = await refused(limiter, candidate(Limits()))

    assert refusal == Refusal(about(20), "cooldown")
    assert (await limiter.state(["bucket-a"]))[0].cooldown == pytest.approx(20)
    await granted(limiter, "job/1", candidate(Limits()), candidate(Limits(), name="b"))
    clock.advance(20.001)
    await granted(limiter, "job/2", candidate(Limits()))


@pytest.mark.parametrize(
    ("cooldowns", "left"),
    [([20, 5], 20), ([5, 20], 20), ([0], 0), ([-3], 0), ([10_000], 3600)],
)
async def test_the_longer_cooldown_is_kept_within_an_hour(
    limiter: Limiter, cooldowns: list[float], left: float
) -> None:
    for seconds in cooldowns:
        await limiter.cool_down("bucket-a", seconds)

    assert (await limiter.state(["bucket-a"]))[0].cooldown == pytest.approx(left)


async def test_a_cooldown_leaves_the_balance_as_it_is(limiter: Limiter) -> None:
    await granted(limiter, "job/1", candidate(Limits(tpm=1000), tokens=800))

    await limiter.cool_down("bucket-a", 5)

    assert (await limiter.state(["bucket-a"]))[0].tokens == 200


async def test_a_dead_key_takes_all_its_deployments_out(limiter: Limiter) -> None:
    dead = candidate(Limits())
    twin = replace(dead, bucket="bucket-b", deployment="deployment-b")
    alive = candidate(Limits(), name="alive")
    await limiter.bury("key-a", 3600)

    assert (await granted(limiter, "job/1", dead, twin, alive)).deployment == "deployment-alive"
    assert await refused(limiter, dead, twin) == Refusal(math.inf, "dead")


async def test_a_dead_key_can_be_revived(limiter: Limiter) -> None:
    await limiter.bury("key-a", 3600)

    await limiter.bury("key-a", 0)

    await granted(limiter, "job/1", candidate(Limits()))


async def test_a_living_key_at_its_limit_beats_a_dead_one(limiter: Limiter) -> None:
    busy = candidate(Limits(rpm=10), name="busy")
    await granted(limiter, "job/1", busy)
    await limiter.bury("key-a", 3600)

    assert (await refused(limiter, candidate(Limits()), busy)).reason == "requests"


async def test_no_candidates_is_a_refusal_for_good(limiter: Limiter) -> None:
    assert await refused(limiter) == Refusal(math.inf, "dead")


async def test_limits_that_the_config_does_not_give_are_adopted(limiter: Limiter) -> None:
    free = candidate(Limits(), tokens=100)
    grant = await granted(limiter, "job/1", free)

    await limiter.learn(grant, Limits(rpm=20, tpm=1000), None, None)

    assert (await granted(limiter, "job/2", free)).limits == Limits(rpm=20, tpm=1000)
    assert (await limiter.state(["bucket-a"]))[0].tokens == 900
    await granted(limiter, "job/3", free)
    assert (await refused(limiter, free)).reason == "requests"


async def test_adopted_limits_are_forgotten_when_nobody_confirms_them(limiter: Limiter, clock: FakeClock) -> None:
    free = candidate(Limits())
    await limiter.learn(await granted(limiter, "job/1", free), Limits(rpm=20), None, None)

    clock.advance(LEARNED_TTL)

    assert (await granted(limiter, "job/2", free)).limits == Limits()


async def test_configured_limits_win_over_learnt_ones(limiter: Limiter) -> None:
    own = candidate(Limits(rpm=600))
    grant = await granted(limiter, "job/1", own)

    await limiter.learn(grant, Limits(rpm=10, tpm=500), None, None)

    assert (await granted(limiter, "job/2", own)).limits == Limits(rpm=600, tpm=500)


@pytest.mark.parametrize(
    ("requests", "tokens", "expected"),
    [(3, None, (3, 900)), (None, 40, (59, 40)), (0, 0, (0, 0)), (400, 5000, (59, 900)), (None, None, (59, 900))],
)
async def test_a_lower_remaining_is_believed_and_a_higher_one_is_not(
    limiter: Limiter, requests: int | None, tokens: int | None, expected: tuple[float, float]
) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=600, tpm=1000), tokens=100))

    await limiter.learn(grant, Limits(), requests, tokens)

    (state,) = await limiter.state(["bucket-a"])
    assert (state.requests, state.tokens) == expected


async def test_nothing_remaining_is_believed_even_right_after_another_report(limiter: Limiter) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=600)))
    await limiter.learn(grant, Limits(rpm=600), 50, None)

    await limiter.learn(grant, Limits(rpm=600), 0, None)

    assert (await limiter.state(["bucket-a"]))[0].requests == 0


async def test_the_state_of_an_unused_bucket_is_empty(limiter: Limiter) -> None:
    await granted(limiter, "job/1", candidate(Limits(rpm=100)))

    unused, used = await limiter.state(["nobody", "bucket-a"])

    assert (unused.bucket, unused.requests, unused.tokens, unused.in_flight, unused.cooldown) == (
        "nobody", None, None, 0, 0.0,
    )  # fmt: skip
    assert (used.bucket, used.requests, used.tokens, used.in_flight) == ("bucket-a", 9, None, 1)
    assert await limiter.state([]) == []


async def test_it_answers_a_ping(limiter: Limiter) -> None:
    await limiter.ping()


async def test_several_processes_together_stay_within_the_limits(backend: str, namespace: str) -> None:
    connect = opener(backend, namespace, clock=None)
    limits = Limits(rpm=1200, tpm=60_000, parallel=8)
    only = candidate(limits, tokens=500)
    in_flight, most = 0, 0
    tally: Counter[str] = Counter()

    async def client(limiter: Limiter, name: str, until: float) -> None:
        nonlocal in_flight, most
        turn = 0
        while time.monotonic() < until:
            turn += 1
            answer = await limiter.take(f"{name}/{turn}", [only])
            if isinstance(answer, Refusal):
                tally[answer.reason] += 1
                await asyncio.sleep(min(answer.wait, 0.02))
                continue
            in_flight += 1
            most = max(most, in_flight)
            tally["granted"] += 1
            await asyncio.sleep(0)
            in_flight -= 1
            await limiter.settle(answer, 500)

    began = time.monotonic()
    async with connect() as one, connect() as two, connect() as three, asyncio.TaskGroup() as group:
        for number, limiter in enumerate((one, two, three) * 5):
            group.create_task(client(limiter, f"client-{number}", began + 1.0))
    elapsed = time.monotonic() - began

    assert most <= 8
    assert tally["granted"] <= 120 + 1 + elapsed * PACE * 20, "no more than a burst and the refill since"
    assert tally["granted"] >= 120, "the burst is not held back"


def short_waits() -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just("advance"), st.floats(0, 90, allow_nan=False))


def histories() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    limits = st.builds(
        Limits,
        rpm=st.sampled_from([None, 0, 7, 60, 333.3]),
        tpm=st.sampled_from([None, 100, 1000, 77777.7]),
        parallel=st.sampled_from([None, 1, 2]),
    )
    choice = st.builds(candidate, limits, tokens=st.integers(0, 3000), name=st.sampled_from(["a", "b"]))
    said = st.none() | st.integers(0, 500)
    return st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.lists(choice, max_size=3), st.sampled_from([5.0, 660.0])),
            st.tuples(st.just("settle"), st.integers(0, 30), st.none() | st.integers(0, 5000)),
            st.tuples(st.just("learn"), st.integers(0, 30), limits, said, st.just(0)),
            st.tuples(st.just("cool_down"), st.sampled_from(["bucket-a", "bucket-b"]), st.floats(0, 60)),
            st.tuples(st.just("bury"), st.sampled_from(["key-a", "key-b"]), st.sampled_from([0.0, 1e6])),
            short_waits(),
        ),
        max_size=40,
    )


async def play(limiter: Limiter, clock: FakeClock, history: list[tuple[Any, ...]]) -> list[object]:
    """What the limiter answered, and both buckets after each step."""
    answers: list[object] = []
    grants: list[Grant] = []
    for step, (act, *arguments) in enumerate(history):
        if act == "take":
            answer = await limiter.take(f"job/{step}", arguments[0], lease_ttl=arguments[1])
            answers.append(answer)
            if isinstance(answer, Grant):
                grants.append(answer)
        elif act in ("settle", "learn"):
            if grants:
                await getattr(limiter, act)(grants[arguments[0] % len(grants)], *arguments[1:])
        elif act == "advance":
            clock.advance(*arguments)
        else:
            await getattr(limiter, act)(*arguments)
        answers.append(await limiter.state(["bucket-a", "bucket-b"]))
    return answers


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
async def test_memory_and_redis_answer_alike(redis_url: str, history: list[tuple[Any, ...]]) -> None:
    clock, twin = FakeClock(), FakeClock()

    async with (
        memory.connect(clock=clock) as in_memory,
        redis.connect(redis_url, namespace=uuid4().hex, clock=twin.monotonic) as on_redis,
    ):
        expected = await play(in_memory, clock, history)
        answers = await play(on_redis, twin, history)

    assert answers == expected
