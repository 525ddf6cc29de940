"""What every Limiter promises."""

import math
from dataclasses import replace

import pytest

from broker.interfaces import Grant, Limiter, Limits, Refusal
from broker.limits.token_bucket import LEARNED_TTL, PACE
from tests.conformance.limiters import about, candidate, granted, refused
from tests.fakes.clock import FakeClock


async def test_the_first_candidate_that_may_go_is_granted(limiter: Limiter) -> None:
    narrow, wide = candidate(Limits(rpm=10), name="narrow"), candidate(Limits(rpm=600), name="wide")

    chosen = [(await granted(limiter, f"job/{n}", narrow, wide)).deployment for n in range(3)]

    assert chosen == ["deployment-narrow", "deployment-wide", "deployment-wide"]


async def test_a_grant_names_what_was_reserved(limiter: Limiter) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=60, tpm=1000), tokens=300))

    assert grant == Grant("deployment-a", "bucket-a", "job/1", 300, Limits(rpm=60, tpm=1000))


async def test_a_refusal_says_exactly_how_long_to_wait(limiter: Limiter, clock: FakeClock) -> None:
    only = candidate(Limits(rpm=60))
    for n in range(5):
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


async def test_the_dead_among_some_keys_can_be_told(limiter: Limiter) -> None:
    await limiter.bury("key-a", 3600)
    await limiter.bury("key-b", 3600)
    await limiter.bury("key-b", 0)

    assert await limiter.dead(["key-a", "key-b", "key-c"]) == {"key-a"}
    assert await limiter.dead([]) == frozenset()


async def test_a_buckets_state_tells_the_limits_in_force(limiter: Limiter, clock: FakeClock) -> None:
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=60, parallel=2)))
    await limiter.learn(grant, Limits(rpm=500, tpm=9000), None, None)

    (used, unused) = await limiter.state(["bucket-a", "bucket-b"])
    clock.advance(LEARNED_TTL + 1)
    (later,) = await limiter.state(["bucket-a"])

    assert used.limits == Limits(rpm=60, tpm=9000)
    assert unused.limits == Limits()
    assert later.limits == Limits(rpm=60)


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
    grant = await granted(limiter, "job/1", candidate(Limits(rpm=6000, tpm=1000), tokens=100))

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
    assert (used.bucket, used.requests, used.tokens, used.in_flight) == ("bucket-a", 4, None, 1)
    assert await limiter.state([]) == []


async def test_it_answers_a_ping(limiter: Limiter) -> None:
    await limiter.ping()
