"""The lanes as an operator sees them: of all workers where the queue knows only its own process."""

from dataclasses import replace
from pathlib import Path

import pytest

from api.routes.queues import merged
from broker.interfaces import LaneStats
from shared.errors import Unavailable
from shared.jobs import Lane
from shared.lane_reports import LaneReport, to_wire
from tests.fakes.api import Api, api

LOCAL = LaneStats("openai", Lane.INTERACTIVE, 10, 0, None, 0.5, 100, 2, local=True)
REPORTS = [to_wire({"openai.interactive": LaneReport(n, 2.0), "mistral.batch": LaneReport(9, 9.0)}) for n in (3, 4)]


def test_a_lane_known_in_part_takes_the_sums_of_the_workers_reports() -> None:
    (lane,) = merged([LOCAL], REPORTS)

    assert (lane.depth, lane.in_flight, lane.drain_rate, lane.estimated_wait) == (10, 7, 4.0, 2.5)


def test_a_lane_that_no_worker_has_served_is_idle() -> None:
    (lane,) = merged([replace(LOCAL, lane=Lane.BATCH)], REPORTS)

    assert (lane.in_flight, lane.drain_rate, lane.estimated_wait) == (0, 0.0, 10.0)


def test_what_the_queue_knows_wholly_stays_as_it_is() -> None:
    whole = replace(LOCAL, in_flight=1, local=False)

    assert merged([whole], REPORTS) == [whole]


def partly_known(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue answers as RabbitMQ's does in an api process."""

    async def stats() -> list[LaneStats]:
        return [LOCAL]

    monkeypatch.setattr(it.queue, "stats", stats)


async def page(it: Api) -> dict[str, float]:
    (lane,) = (await it.ask("GET", "/v1/queues")).json["data"]
    return {name: lane[name] for name in ("in_flight", "drain_rate", "estimated_wait")}


async def test_both_pages_tell_of_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(tmp_path) as it:
        partly_known(it, monkeypatch)
        for name, report in zip(("one", "two"), REPORTS, strict=True):
            await it.log.announce(name, 60, report)

        lane = await page(it)
        metrics = (await it.ask("GET", "/metrics")).body.decode().splitlines()

    assert lane == {"in_flight": 7, "drain_rate": 4.0, "estimated_wait": 2.5}
    assert 'headrace_queue_in_flight{lane="interactive",provider="openai"} 7.0' in metrics
    assert 'headrace_queue_drain_rate{lane="interactive",provider="openai"} 4.0' in metrics


async def test_without_reports_the_queues_own_numbers_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(tmp_path) as it:
        partly_known(it, monkeypatch)

        assert await page(it) == {"in_flight": 0, "drain_rate": 0.5, "estimated_wait": 20.0}


async def test_the_page_answers_while_the_event_log_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> list[bytes]:
        raise Unavailable("Redis is away")

    async with api(tmp_path) as it:
        partly_known(it, monkeypatch)
        monkeypatch.setattr(it.log, "reports", away)

        assert await page(it) == {"in_flight": 0, "drain_rate": 0.5, "estimated_wait": 20.0}
