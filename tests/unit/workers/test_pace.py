"""How many jobs stand ready on a lane: a quarter of a second's worth, within bounds, and soon after a standstill."""

import pytest

from workers import pace
from workers.pace import Pace


def run(per_second: float, seconds: float, *, concurrency: int = 0, step: float = 0.05) -> tuple[Pace, list[int]]:
    """A lane whose workers hold `concurrency` jobs at a time and finish `per_second`; with the depths that they saw."""
    lane = Pace()
    depth, held, done = 0, 0, 0.0
    depths = []
    for tick in range(int(seconds / step)):
        done += per_second * step
        finished = min(int(done), held)
        done -= finished
        held -= finished
        taken = min(concurrency - held, depth)
        held, depth = held + taken, depth - taken
        depths.append(depth)
        room = lane.room(depth, 0.0, 10_000, tick * step)
        depth += room
        lane.put(room)
    return lane, depths


@pytest.mark.parametrize(
    ("reported_rate", "bound", "target"),
    [(0.0, 10_000, 32), (100.0, 10_000, 32), (1_000.0, 10_000, 250), (50_000.0, 10_000, 2_000), (1_000.0, 100, 50),
     (0.0, 1, 1)],
)  # fmt: skip
def test_the_target_is_a_quarter_of_a_second_within_bounds(reported_rate: float, bound: int, target: int) -> None:
    assert Pace().room(0, reported_rate, bound, 0.0) == target


def test_a_lane_that_has_enough_gets_nothing() -> None:
    assert Pace().room(30, 0.0, 10_000, 0.0) == 0


def test_a_lane_over_its_target_gets_nothing() -> None:
    assert Pace().room(5_000, 0.0, 10_000, 0.0) == 0


def test_an_empty_lane_is_filled_to_its_target() -> None:
    assert Pace().room(0, 1_000.0, 10_000, 0.0) == 250


def test_a_worker_of_256_is_busy_within_half_a_second_and_never_idle_after_it() -> None:
    _, depths = run(2_000, 5, concurrency=256)

    assert min(depths[10:]) > 0


def test_the_lane_stays_shallow_once_the_rate_is_known() -> None:
    lane, depths = run(2_000, 5, concurrency=256)

    assert max(depths[40:]) <= 2 * 2_000 * pace.WINDOW
    assert lane.rate == pytest.approx(2_000, rel=0.3)


def test_a_standing_lane_is_looked_at_less_and_less() -> None:
    lane = Pace()
    lane.put(lane.room(0, 0.0, 10_000, 0.0))
    waits = []
    for tick in range(1, 6):
        lane.room(32, 0.0, 10_000, float(tick))
        waits.append(lane.wait)

    assert waits[0] > pace.SHORTEST_WAIT
    assert waits[-1] == pace.LONGEST_WAIT


def test_a_lane_that_starts_to_drain_is_looked_at_often_again() -> None:
    lane = Pace()
    lane.put(lane.room(0, 0.0, 10_000, 0.0))
    for tick in range(1, 6):
        lane.room(32, 0.0, 10_000, float(tick))

    lane.room(20, 0.0, 10_000, 6.0)
    assert lane.wait == pace.SHORTEST_WAIT


def test_a_lane_that_was_emptied_is_looked_at_soonest() -> None:
    lane = Pace()
    lane.put(lane.room(0, 0.0, 10_000, 0.0))

    lane.room(0, 0.0, 10_000, 1.0)

    assert lane.wait == pace.HURRY


def test_a_slow_feeder_is_not_what_keeps_a_fast_lane_short() -> None:
    _, depths = run(2_000, 20, concurrency=256, step=0.3)

    assert min(depths[10:]) > 0


def test_what_was_too_much_becomes_less() -> None:
    lane = Pace()
    for tick in range(8):
        lane.put(lane.room(0, 0.0, 10_000, tick * 0.05))

    depth = pace.MOST
    rooms = []
    for tick in range(8, 200):
        depth = max(depth - 10, 0)
        room = lane.room(depth, 0.0, 10_000, tick * 0.05)
        lane.put(room)
        depth += room
        rooms.append(depth)

    assert rooms[-1] <= 2 * 200 * pace.WINDOW
