"""Several processes share the limits, and both implementations answer alike."""

import asyncio
import time
from collections import Counter
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.interfaces import Grant, Limiter, Limits, Refusal
from broker.limits import memory, redis
from broker.limits.token_bucket import PACE
from tests.conformance.limiters import candidate, opener
from tests.fakes.clock import FakeClock


async def test_several_processes_together_stay_within_the_limits(backend: str, namespace: str) -> None:
    connect = opener(backend, namespace, clock=None)
    limits = Limits(rpm=12_000, tpm=600_000, parallel=8)
    only = candidate(limits, tokens=500)
    in_flight, most = 0, 0
    tally: Counter[str] = Counter()
    before_the_first_wait: list[int] = []

    async def client(limiter: Limiter, name: str, until: float) -> None:
        nonlocal in_flight, most
        turn = 0
        while time.monotonic() < until:
            turn += 1
            answer = await limiter.take(f"{name}/{turn}", [only])
            if isinstance(answer, Refusal):
                tally[answer.reason] += 1
                if answer.reason != "parallel" and not before_the_first_wait:
                    before_the_first_wait.append(tally["granted"])
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
    assert tally["granted"] <= 120 + 1 + elapsed * PACE * 200, "no more than a burst and the refill since"
    # Each of the fifteen clients may hear of its grant a moment later than another one of the refusal.
    assert min(before_the_first_wait, default=120) >= 120 - 15, "the burst is not held back"


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
