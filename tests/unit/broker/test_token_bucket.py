"""The algorithm alone: capacities, refill, waits, and how the first of several waits is chosen."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.interfaces import Candidate, Limits
from broker.limits.token_bucket import (
    PACE,
    Bucket,
    Taken,
    Wait,
    request_capacity,
    reservation,
    shortest,
    token_capacity,
)


def attempt(limits: Limits, tokens: int = 0) -> Candidate:
    return Candidate("deployment", "bucket", "key", limits, tokens)


@pytest.mark.parametrize(("rpm", "capacity"), [(6000, 60), (600, 6), (60, 5), (30, 3), (3, 1), (None, 0)])
def test_a_hundredth_of_the_requests_fits_or_a_few(rpm: float | None, capacity: float) -> None:
    assert request_capacity(rpm) == pytest.approx(capacity)


@pytest.mark.parametrize("rpm", [500, 600, 10_000])
def test_a_full_bucket_and_a_minutes_refill_stay_within_the_limit(rpm: float) -> None:
    assert request_capacity(rpm) + PACE * rpm <= rpm + 1e-6


@pytest.mark.parametrize(("tpm", "capacity"), [(30_000, 30_000), (None, 0)])
def test_a_minute_of_tokens_fits(tpm: float | None, capacity: float) -> None:
    assert token_capacity(tpm) == capacity


@pytest.mark.parametrize(("tokens", "tpm", "reserved"), [(5, None, 5), (5, 100, 5), (500, 100, 100), (500, 99.9, 99)])
def test_a_reservation_is_clamped_to_the_bucket(tokens: int, tpm: float | None, reserved: int) -> None:
    assert reservation(tokens, tpm) == reserved


@pytest.mark.parametrize(
    ("waits", "first"),
    [
        ([], Wait(math.inf, "dead")),
        ([Wait(2.0, "tokens"), Wait(1.0, "requests")], Wait(1.0, "requests")),
        ([Wait(1.0, "tokens"), Wait(1.0, "requests")], Wait(1.0, "tokens")),
        ([Wait(math.inf, "requests"), Wait(math.inf, "dead")], Wait(math.inf, "requests")),
        ([Wait(0.1234561, "tokens")], Wait(0.123457, "tokens")),
    ],
)
def test_the_shortest_wait_is_rounded_up_and_the_first_among_equals(waits: list[Wait], first: Wait) -> None:
    assert shortest(waits) == first


def test_the_reason_is_what_is_waited_for_longest() -> None:
    bucket, limits = Bucket(), Limits(rpm=10, tpm=1000)
    bucket.take("one", attempt(limits, tokens=1000), 0.0, 660.0)

    assert bucket.take("two", attempt(limits, tokens=1000), 0.0, 660.0) == Wait(60 / PACE, "tokens")
    assert bucket.take("two", attempt(limits, tokens=1), 0.0, 660.0) == Wait(6 / PACE, "requests")


def test_a_clock_that_steps_back_neither_drains_nor_fills() -> None:
    bucket, limits = Bucket(), Limits(tpm=600)
    bucket.take("one", attempt(limits, tokens=600), 100.0, 660.0)

    bucket.refill(limits, 40.0)
    bucket.refill(limits, 100.0)

    assert (bucket.tokens, bucket.at) == (0.0, 100.0)


def test_a_smaller_limit_shrinks_what_is_in_the_bucket() -> None:
    bucket = Bucket()
    bucket.take("one", attempt(Limits(tpm=1000)), 0.0, 660.0)

    bucket.take("two", attempt(Limits(tpm=300)), 0.0, 660.0)

    assert bucket.tokens == 300


def test_a_bucket_is_forgettable_only_when_a_new_one_would_be_the_same() -> None:
    bucket, limits = Bucket(), Limits(tpm=1000)
    bucket.take("one", attempt(limits, tokens=10), 0.0, 10_000.0)

    assert not bucket.forgettable(100.0)
    assert not bucket.forgettable(5_000.0), "an attempt is in flight"
    assert bucket.forgettable(10_001.0)


@given(
    rpm=st.floats(1, 6000), tpm=st.floats(100, 1e6), gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
    tokens=st.integers(1, 2000),
)  # fmt: skip
def test_over_any_stretch_no_more_goes_out_than_a_burst_and_the_refill(
    rpm: float, tpm: float, gaps: list[float], tokens: int
) -> None:
    bucket, limits, now, taken, reserved = Bucket(), Limits(rpm=rpm, tpm=tpm), 0.0, 0, 0
    for number, gap in enumerate(gaps):
        now += gap
        answer = bucket.take(str(number), attempt(limits, tokens), now, 660.0)
        if isinstance(answer, Taken):
            taken, reserved = taken + 1, reserved + answer.reserved

    assert taken <= request_capacity(rpm) + now * PACE * rpm / 60 + 1e-3
    assert reserved <= tpm + now * PACE * tpm / 60 + 0.1


@given(rpm=st.floats(0.5, 6000), tpm=st.floats(100, 1e6), tokens=st.integers(1, 5000), turns=st.integers(1, 60))
def test_whoever_waits_as_long_as_it_was_told_is_granted(rpm: float, tpm: float, tokens: int, turns: int) -> None:
    bucket, limits, now = Bucket(), Limits(rpm=rpm, tpm=tpm), 1.8e9
    for number in range(turns):
        answer = bucket.take(str(number), attempt(limits, tokens), now, 660.0)
        if isinstance(answer, Wait):
            now += shortest([answer]).seconds
            assert isinstance(bucket.take(str(number), attempt(limits, tokens), now, 660.0), Taken)
