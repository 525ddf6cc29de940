"""Where a job stands on its lane, and what its states are called outside."""

import pytest

from api.job_objects import STATUSES, place_on, status
from broker.interfaces import LaneStats
from broker.records import JobRecord
from shared.jobs import Job, JobState, Lane

NOW = 1000.0


def lane(depth: int, oldest: float | None = None, drain_rate: float = 2.0, paused: bool = False) -> LaneStats:
    return LaneStats("openai", Lane.BATCH, depth, 0, oldest, drain_rate, 1000, 1, paused)


@pytest.mark.parametrize(
    ("lane", "waited", "ahead", "position", "starts_in"),
    [
        (lane(0), 0.0, 0, 0, 0.0),
        (lane(10), 0.0, 0, 10, 5.0),
        (lane(10), 0.0, 4, 14, 7.0),
        (lane(10, oldest=20.0), 20.0, 0, 0, 0.0),
        (lane(10, oldest=20.0), 10.0, 0, 5, 2.5),
        (lane(10, oldest=20.0), 0.001, 0, 10, 5.0),
        (lane(10, oldest=20.0), 30.0, 0, 0, 0.0),
        (lane(10), 5.0, 0, 9, 4.5),
        (lane(0), 5.0, 0, 0, 0.0),
        (lane(10, drain_rate=0.0), 0.0, 0, 10, 10.0),
    ],
)
def test_a_place_is_between_the_lanes_head_and_its_end(
    lane: LaneStats, waited: float, ahead: int, position: int, starts_in: float
) -> None:
    place = place_on(lane, waited, NOW, ahead)

    assert (place.position, place.estimated_start) == (position, NOW + starts_in)


def test_nobody_knows_when_a_paused_lane_goes_on() -> None:
    assert place_on(lane(3, paused=True), 0.0, NOW).estimated_start is None


@pytest.mark.parametrize(
    ("state", "begun", "name"),
    [
        (JobState.QUEUED, False, "queued"),
        (JobState.QUEUED, True, "queued"),
        (JobState.DISPATCHING, False, "queued"),
        (JobState.DISPATCHED, False, "queued"),
        (JobState.DISPATCHING, True, "in_progress"),
        (JobState.DISPATCHED, True, "in_progress"),
        (JobState.CONSIGNED, False, "in_progress"),
        (JobState.COMPLETED, True, "completed"),
        (JobState.FAILED, True, "failed"),
        (JobState.CANCELLED, False, "cancelled"),
        (JobState.EXPIRED, False, "expired"),
    ],
)
def test_states_have_simpler_names_outside(state: JobState, begun: bool, name: str) -> None:
    job = Job("j", "chat.completions", "m", (), b"", "", NOW, NOW + 1)

    assert status(JobRecord(job, state), begun) == name
    assert state in STATUSES[name]
