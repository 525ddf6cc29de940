"""What a job that joins a lane has to expect, and what is said of it."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from api import lane_board
from api.lane_board import LaneBoard
from api.lane_pace import UNKNOWN, Pace
from broker.interfaces import LaneStats
from shared.errors import Unavailable
from shared.jobs import FIRST, Job, Lane, Leg

STATS = LaneStats("openai", Lane.BATCH, 7, 0, None, 1.0, 100, 1)
JOB = Job("id", "chat.completions", "chat", (Leg("openai", "chat", ("d",)),), b"{}", "", 0.0, 60.0, lane=Lane.BATCH)


class Source:
    def __init__(self, *lanes: LaneStats) -> None:
        self.lanes = list(lanes) or [STATS]
        self.asked: list[Collection[str]] = []
        self.away = False

    async def __call__(self, lanes: Collection[str]) -> list[LaneStats]:
        self.asked.append(lanes)
        if self.away:
            raise Unavailable("RabbitMQ is away")
        return self.lanes


async def test_only_the_lanes_with_traffic_are_asked_about() -> None:
    source = Source()
    async with LaneBoard(source) as board:
        assert await board.lane("openai", Lane.BATCH) == STATS

    assert source.asked == [{"openai.batch"}]


async def test_a_lane_is_unknown_at_first_sight_and_known_a_moment_later() -> None:
    async with LaneBoard(Source()) as board:
        first = board.outlook(JOB)
        await board.lane("openai", Lane.BATCH)

        assert first == lane_board.UNKNOWN
        assert board.outlook(JOB).lane == STATS


async def test_a_lane_that_nobody_declared_is_unknown() -> None:
    async with LaneBoard(Source()) as board:
        assert await board.lane("gemini", Lane.BATCH) is None


async def test_while_the_queue_is_away_nobody_knows() -> None:
    source = Source()
    source.away = True
    async with LaneBoard(source) as board:
        assert await board.lane("openai", Lane.BATCH) is None


@pytest.mark.parametrize(
    ("lane", "precedence", "position"),
    [(Lane.INTERACTIVE, FIRST, 3), (Lane.INTERACTIVE, FIRST - 1, 20), (Lane.BATCH, FIRST, 20)],
)
async def test_jobs_that_go_first_stand_behind_such_jobs_only(lane: Lane, precedence: int, position: int) -> None:
    async with LaneBoard(Source(replace(STATS, lane=lane, depth=20, first=3))) as board:
        await board.lane("openai", lane)

        outlook = board.outlook(replace(JOB, lane=lane, precedence=precedence))

    assert (outlook.position, outlook.wait) == (position, position / 1.0)
    assert outlook.headers["x-headrace-queue-position"] == str(position)
    assert outlook.headers["x-headrace-queue-depth"] == "20"


@pytest.mark.parametrize(
    ("depth", "paused", "pace", "wait", "certain"),
    [
        (0, False, UNKNOWN, 0.0, 0.0),  # nothing ran before: no reason to wait
        (0, False, Pace(2.0, measured=True), 0.0, 0.0),
        (10, False, Pace(4.0, measured=True), 2.5, 2.5),
        (10, False, Pace(4.0, measured=False), 2.5, 0.0),
        (10, False, UNKNOWN, None, 0.0),
        (10, True, UNKNOWN, None, 0.0),
        (0, True, UNKNOWN, None, 0.0),
    ],
)
def test_the_wait_is_depth_by_pace_where_somebody_knows(
    depth: int, paused: bool, pace: Pace, wait: float | None, certain: float
) -> None:
    outlook = lane_board.outlook(replace(STATS, depth=depth, paused=paused), pace, depth)

    said = {"x-headrace-queue-position": str(depth), "x-headrace-queue-depth": str(depth)}
    if wait is not None:
        said["x-headrace-estimated-wait-ms"] = f"{wait * 1000:.0f}"
    assert (outlook.wait, outlook.certain_wait, outlook.headers) == (wait, certain, said)
