"""The census: each lane's jobs in hand and how fast they leave."""

from dataclasses import replace

import pytest

from shared.jobs import Job, Lane
from shared.lane_reports import LaneReport, from_wire
from tests.fakes.clock import FakeClock
from tests.fakes.seams import leg
from workers.census import Census

JOB = Job("id", "chat.completions", "chat", (leg("a"),), b"{}", "", 0.0, 60.0)
BATCH = replace(JOB, lane=Lane.BATCH)
OTHER = replace(JOB, route=(leg("b", provider="anthropic"),))


def test_a_new_worker_has_nothing_to_report() -> None:
    assert from_wire(Census(FakeClock()).report()) == {}


def test_jobs_are_in_flight_in_their_own_lane_until_they_end() -> None:
    census = Census(FakeClock())

    for job in (JOB, JOB, JOB, BATCH, OTHER):
        census.taken(job)
    census.ended(JOB)
    census.ended(OTHER)

    lanes = from_wire(census.report())
    assert {lane: report.in_flight for lane, report in lanes.items()} == {
        "openai.interactive": 2,
        "openai.batch": 1,
        "anthropic.interactive": 0,
    }


def test_the_drain_rate_is_that_of_the_lanes_own_jobs() -> None:
    clock = FakeClock()
    census = Census(clock)
    census.taken(BATCH)

    for _ in range(600):  # five a second for two minutes
        census.taken(JOB)
        clock.advance(0.2)
        census.ended(JOB)

    lanes = from_wire(census.report())
    assert lanes["openai.interactive"].drain_rate == pytest.approx(5.0, rel=0.05)
    assert lanes["openai.batch"] == LaneReport(1, 0.0)


def test_the_drain_rate_falls_while_nothing_ends() -> None:
    clock = FakeClock()
    census = Census(clock)
    census.taken(JOB)
    census.ended(JOB)

    clock.advance(300)

    assert from_wire(census.report()) == {"openai.interactive": LaneReport(0, 0.0, drained=1)}
