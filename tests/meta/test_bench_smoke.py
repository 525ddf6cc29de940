"""The benchmark's load generator against its own upstream: what it counts is what was there."""

from collections.abc import AsyncIterator

import pytest

from benchmarks import targets, upstream
from benchmarks.batch.report import Results
from benchmarks.load import ClosedLoop, OpenLoop, Target


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    server = await upstream.start()
    yield Target(server.sockets[0].getsockname()[1], headers={"Authorization": "Bearer k"})
    server.close()


async def test_a_closed_loop_counts_answers_and_their_time(target: Target) -> None:
    sample = await ClosedLoop(target, target.request("bench-latency-20"), 4).run(0.6, warmup=0.05)

    assert sample.good == sample.answers
    assert len(sample.answers) >= 4
    assert all(answer.ended - answer.started >= 0.019 for answer in sample.answers)


async def test_a_closed_loop_sees_every_event_of_every_stream(target: Target) -> None:
    load = ClosedLoop(target, target.request("bench", stream=True), 4)

    sample = await load.run(0.5, warmup=0.0)

    assert sample.answers
    assert all(answer.is_whole_stream(upstream.PACED_EVENTS) for answer in sample.answers)
    assert load.events == load.answered * upstream.PACED_EVENTS


async def test_a_stream_that_lost_an_event_is_not_whole(target: Target) -> None:
    sample = await ClosedLoop(target, target.request("bench-events-63", stream=True), 1).run(0.5, warmup=0.0)

    assert sample.answers
    assert not any(answer.is_whole_stream(upstream.PACED_EVENTS) for answer in sample.answers)


async def test_an_open_loop_asks_at_its_rate_whatever_the_answers_take(target: Target) -> None:
    sample = await OpenLoop(target, target.request("bench-latency-200")).run(50, 0.4, warmup=0.1)

    assert len(sample.good) == 20


async def test_a_server_that_is_away_is_a_lost_request(target: Target) -> None:
    nobody = Target(1)

    sample = await ClosedLoop(nobody, nobody.request("bench"), 1).run(0.5, warmup=0.0)

    assert {answer.status for answer in sample.answers} == {0}


def test_medians_hold_what_a_system_adds_to_going_direct_in_the_same_run() -> None:
    runs = [
        {"latency": {"direct": {"p50": 50.0 + run, "p99": 60.0}, "embedded": {"p50": 52.0 + 2 * run, "p99": 61.0}}}
        for run in range(3)
    ]

    medians = targets.medians(runs)

    assert medians["latency"]["embedded"]["added_p50"] == 3.0
    assert medians["latency"]["embedded"]["added_p99"] == 1.0


def test_a_goal_is_a_ratio_to_the_peer() -> None:
    goal = targets.Goal("chat", "embedded", "rate", 25, "litellm")

    reached = goal.reached({"chat": {"embedded": {"rate": 2500.0}, "litellm": {"rate": 50.0}}})

    assert reached == 50
    assert goal.met(50)
    assert not goal.met(24.9)
    assert goal.reached({"chat": {"embedded": {"rate": 2500.0}}}) is None


def test_rates_of_a_batch_are_compared_run_by_run() -> None:
    rates = {"headrace": [20.0, 5.0, 40.0], "script": [10.0, 10.0, 10.0], "celery-threads": [5.0, 1.0, 4.0]}
    rates["celery-gevent"] = [1.0, 5.0, 2.0]
    results = Results(3, "5", {name: [{"rate": rate} for rate in each] for name, each in rates.items()})

    assert results.times(["script"]) == 2.0
    assert results.times(["celery-threads", "celery-gevent"]) == 4.0
    assert results.times(["nobody"]) == 0.0
