import pytest

from broker.queues.drain_rate import DrainRate, LaneMeter, queue_full
from shared.jobs import Lane


def test_nothing_settled_is_no_rate() -> None:
    assert DrainRate(100.0).per_second(160.0) == 0.0


@pytest.mark.parametrize("seconds", [2, 10, 60, 600])
def test_steady_rate_is_known_from_the_first_seconds_on(seconds: int) -> None:
    rate = DrainRate(0.0)

    for tick in range(1, seconds * 10 + 1):
        rate.add(5, tick / 10)

    assert rate.per_second(float(seconds)) == pytest.approx(50.0, rel=0.05)


def test_burst_in_the_first_instant_is_not_extrapolated() -> None:
    rate = DrainRate(0.0)

    rate.add(3, 0.001)

    assert rate.per_second(0.001) <= 3.1


def test_rate_fades_when_nothing_is_settled_any_more() -> None:
    rate = DrainRate(0.0)
    for second in range(60):
        rate.add(10, float(second))

    assert rate.per_second(180.0) < 1.0


def test_publisher_infers_what_drained_from_what_it_put_in() -> None:
    meter = LaneMeter(0.0, depth=100)
    for second in range(1, 61):
        for _ in range(20):
            meter.accepted()
        meter.observe_depth(100, float(second))

    assert meter.per_second(60.0) == pytest.approx(20.0, rel=0.05)


def test_lane_that_only_fills_does_not_drain() -> None:
    meter = LaneMeter(0.0)
    for _ in range(50):
        meter.accepted()

    meter.observe_depth(50, 1.0)

    assert meter.per_second(1.0) == 0.0


def test_jobs_of_other_publishers_never_make_the_rate_negative() -> None:
    meter = LaneMeter(0.0)

    meter.observe_depth(500, 1.0)

    assert meter.per_second(1.0) == 0.0


@pytest.mark.parametrize(
    ("depth", "drain_rate", "retry_after"),
    [(100, 10.0, 10.0), (5, 100.0, 1.0), (10_000, 0.1, 3600.0), (40, 0.0, 40.0), (10_000, 0.0, 3600.0)],
)
def test_retry_after_is_depth_by_drain_rate_within_limits(depth: int, drain_rate: float, retry_after: float) -> None:
    refusal = queue_full("p", Lane.BATCH, depth, drain_rate)

    assert refusal.retry_after == retry_after
    assert refusal.provider == "p"
