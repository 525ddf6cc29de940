"""A lane's pace is measured while jobs wait, and guessed else; only the first is good enough to refuse a job."""

from dataclasses import replace

import pytest

from api.lane_pace import UNKNOWN, LanePace, Pace
from broker.interfaces import LaneStats
from shared.jobs import Lane

LANE = LaneStats("openai", Lane.INTERACTIVE, 100, 8, None, 1.5, 1000, 1, drained=0)

Look = tuple[float, int, int]
"""When, how deep the lane is, and how many were drained by then."""


def pace(*looks: Look, **fields: object) -> Pace:
    """After these looks at the lane."""
    it = LanePace()
    last = UNKNOWN
    for now, depth, drained in looks:
        last = it.observe(replace(LANE, depth=depth, drained=drained, **fields), now)  # type: ignore[arg-type]
    return last


GUESS = Pace(1.5, measured=False)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, 100, 0)], GUESS),
        ([(0, 100, 0), (1, 80, 20), (2, 60, 40), (3, 40, 60)], GUESS),  # too short to tell
        ([(0, 100, 0), (1, 80, 0), (2, 60, 20), (3, 40, 40), (4, 20, 60)], Pace(20.0, measured=True)),
        ([(n, 100, n) for n in range(8)], GUESS),  # too few to tell
        ([(n, 100, n) for n in range(10)], Pace(1.0, measured=True)),
        ([(n, 100, n // 4) for n in range(14)], Pace(0.25, measured=True)),  # long jobs
        ([(n, 100, 5) for n in range(12)], UNKNOWN),  # it stands still
        ([(n, 0 if n == 3 else 100, 20 * n) for n in range(7)], GUESS),  # it was empty in between
        ([(n, 100, 20 * n) for n in (0, 1, 2, 3, 9)], GUESS),  # it may have been
        ([(n, 100, 20 * n if n < 3 else n) for n in range(6)], GUESS),  # a worker is gone
        ([(n, 100, 20 * n if n < 3 else n) for n in range(13)], Pace(1.0, measured=True)),
        ([(n, 100, 100 * n if n < 40 else 4000) for n in range(80)], UNKNOWN),
        ([(n, 100, 100 * n if n < 40 else 3960 + n) for n in range(80)], Pace(1.0, measured=True)),
    ],
)
def test_a_pace_is_measured_between_looks_that_find_jobs_waiting(looks: list[Look], expected: Pace) -> None:
    assert pace(*looks) == expected


def test_a_lane_nobody_reports_about_is_guessed() -> None:
    it = LanePace()

    paces = {it.observe(replace(LANE, drained=None), float(now)) for now in range(20)}

    assert paces == {GUESS}


def test_what_was_measured_before_is_the_guess_for_the_next_burst() -> None:
    burst = [(n, 100, 25 * n) for n in range(6)]

    assert pace(*burst, (6, 0, 150), (60, 100, 151)) == Pace(25.0, measured=False)


def test_nobody_knows_the_pace_of_a_paused_lane() -> None:
    assert pace(*[(n, 100, 25 * n) for n in range(6)], paused=True) == UNKNOWN
