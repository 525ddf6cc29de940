"""The precedence of a tenant's next job falls with what it has under way, and rises again once it has been calm."""

from dataclasses import replace

import pytest

from api import fairness
from api.fairness import CALM, Outstanding, Seat
from shared.jobs import FIRST, Job, Lane, Leg
from tests.fakes.clock import FakeClock


def job(key: str = "loud", lane: Lane = Lane.INTERACTIVE) -> Job:
    return Job(
        id="job",
        endpoint="chat.completions",
        model="m",
        route=(Leg("p", "m", ("d",)),),
        body=b"{}",
        reply_to="api",
        accepted_at=0.0,
        deadline=60.0,
        lane=lane,
        key=key,
    )


def flood(outstanding: Outstanding, jobs: int, key: str = "loud") -> list[Seat]:
    seats = [outstanding.take(job(key)) for _ in range(jobs)]
    return [seat for seat in seats if seat is not None]


@pytest.mark.parametrize(
    ("under_way", "precedence"), [(0, 3), (15, 3), (16, 2), (63, 2), (64, 1), (255, 1), (256, 0), (10_000, 0)]
)
def test_the_more_a_tenant_has_under_way_the_lower_its_next_job(under_way: int, precedence: int) -> None:
    outstanding = Outstanding(FakeClock())

    flood(outstanding, under_way)

    assert outstanding.precedence("loud") == precedence


def test_each_job_has_the_precedence_of_the_moment_at_which_it_came() -> None:
    precedences = [seat.precedence for seat in flood(Outstanding(FakeClock()), 260)]

    assert precedences == [3] * 16 + [2] * 48 + [1] * 192 + [0] * 4


def test_one_tenants_flood_is_nothing_to_another() -> None:
    outstanding = Outstanding(FakeClock())

    flood(outstanding, 500)

    assert outstanding.precedence("quiet") == FIRST


def test_tenants_are_teams_where_there_are_teams() -> None:
    outstanding = Outstanding(FakeClock())

    for number in range(16):
        outstanding.take(replace(job(f"key-{number}"), team="team"))

    assert outstanding.precedence("team") == 2
    assert outstanding.precedence("key-0") == FIRST


def test_batch_jobs_do_not_count() -> None:
    outstanding = Outstanding(FakeClock())

    assert outstanding.take(job(lane=Lane.BATCH)) is None
    assert len(outstanding) == 0


def test_what_comes_later_does_not_overtake_while_the_flood_runs_off() -> None:
    outstanding = Outstanding(FakeClock())
    seats = flood(outstanding, 300)

    for seat in seats[:299]:
        seat.leave()

    assert outstanding.precedence("loud") == 0


@pytest.mark.parametrize(("calm", "precedence"), [(0.99, 0), (1.0, 1), (1.99, 1), (2.0, 2), (3.0, 3), (100.0, 3)])
def test_precedence_rises_by_one_with_each_time_of_calm(calm: float, precedence: int) -> None:
    clock = FakeClock()
    outstanding = Outstanding(clock)
    first, *others = flood(outstanding, 300)
    for seat in others:
        seat.leave()

    clock.advance(calm * CALM)

    assert outstanding.precedence("loud") == precedence
    first.leave()


def test_whoever_keeps_more_than_half_of_a_bound_does_not_rise() -> None:
    clock = FakeClock()
    outstanding = Outstanding(clock)
    seats = flood(outstanding, 300)
    for seat in seats[:172]:  # 128 are left: half of 256
        seat.leave()

    clock.advance(100 * CALM)

    assert outstanding.precedence("loud") == 0


def test_calm_begins_anew_when_it_was_broken() -> None:
    clock = FakeClock()
    outstanding = Outstanding(clock)
    seats = flood(outstanding, 300)
    for seat in seats[1:]:
        seat.leave()
    clock.advance(0.8 * CALM)

    again = flood(outstanding, 150)
    for seat in again:
        seat.leave()
    clock.advance(0.8 * CALM)

    assert outstanding.precedence("loud") == 0


def test_leaving_twice_is_leaving_once() -> None:
    outstanding = Outstanding(FakeClock())
    seats = flood(outstanding, 17)

    for _ in range(5):
        seats[0].leave()

    assert outstanding.precedence("loud") == 2
    assert len(outstanding) == 1


def test_tenants_with_nothing_under_way_are_forgotten_at_once_unless_they_flooded() -> None:
    clock = FakeClock()
    outstanding = Outstanding(clock)
    for number in range(100):
        for seat in flood(outstanding, 16, f"quiet-{number}"):
            seat.leave()
    assert len(outstanding) == 0

    for seat in flood(outstanding, 17, "loud"):
        seat.leave()
    clock.advance(FIRST * CALM)
    for seat in flood(outstanding, 17, "another"):
        seat.leave()

    assert len(outstanding) == 1


def test_those_that_flooded_and_rest_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "_MOST_RESTING", 10)
    outstanding = Outstanding(FakeClock())

    for number in range(50):
        for seat in flood(outstanding, 17, f"loud-{number}"):
            seat.leave()

    assert len(outstanding) == 10
    assert outstanding.precedence("loud-0") == FIRST
    assert outstanding.precedence("loud-49") == 2
