"""The lanes as an operator sees them: of all workers where the queue knows only its own process."""

from collections.abc import Collection
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
REPORTS = [
    to_wire({"openai.interactive": LaneReport(n, 2.0, 10 * n), "mistral.batch": LaneReport(9, 9.0)}) for n in (3, 4)
]


def test_a_lane_known_in_part_takes_the_sums_of_the_workers_reports() -> None:
    (lane,) = merged([LOCAL], REPORTS)

    assert (lane.depth, lane.in_flight, lane.drain_rate, lane.estimated_wait) == (10, 7, 4.0, 2.5)


def test_a_lane_that_no_worker_has_served_is_idle() -> None:
    (lane,) = merged([replace(LOCAL, lane=Lane.BATCH)], REPORTS)

    assert (lane.in_flight, lane.drain_rate, lane.estimated_wait) == (0, 0.0, 10.0)


def test_what_the_queue_knows_wholly_stays_as_it_is_but_for_what_was_drained() -> None:
    whole = replace(LOCAL, in_flight=1, local=False)

    assert merged([whole], REPORTS) == [replace(whole, drained=70)]


def partly_known(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue answers as RabbitMQ's does in an api process."""

    async def stats(lanes: Collection[str] | None = None) -> list[LaneStats]:
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


async def paused(it: Api) -> list[str]:
    return [lane["id"] for lane in (await it.ask("GET", "/v1/queues")).json["data"] if lane["paused"]]


async def test_a_lane_is_paused_and_resumed_and_the_pages_say_so(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        answers = [await it.ask("POST", "/v1/queues/openai.batch/pause") for _ in range(2)]
        stopped = await paused(it)
        known = await it.log.paused_lanes()
        resumed = await it.ask("POST", "/v1/queues/openai.batch/resume")

        assert [answer.json for answer in answers] == [{"id": "openai.batch", "object": "queue", "paused": True}] * 2
        assert (stopped, known) == (["openai.batch"], {"openai.batch"})
        assert resumed.json == {"id": "openai.batch", "object": "queue", "paused": False}
        assert await paused(it) == []


async def test_a_lane_known_in_part_is_shown_as_paused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(tmp_path) as it:
        partly_known(it, monkeypatch)
        await it.log.announce("one", 60, REPORTS[0])

        await it.ask("POST", "/v1/queues/openai.interactive/pause")

        assert await paused(it) == ["openai.interactive"]


@pytest.mark.parametrize("lane", ["openai", "openai.none", "nobody.batch", "x" * 5000])
@pytest.mark.parametrize("act", ["pause", "resume"])
async def test_there_is_no_such_lane_to_pause_or_resume(tmp_path: Path, act: str, lane: str) -> None:
    async with api(tmp_path) as it:
        assert (await it.ask("POST", f"/v1/queues/{lane}/{act}")).status == 404
        assert await it.log.paused_lanes() == frozenset()


async def test_a_paused_lane_that_the_config_has_lost_can_be_let_go_on(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        await it.log.pause_lane("retired.batch", True)

        answer = await it.ask("POST", "/v1/queues/retired.batch/resume")

        assert answer.status == 200
        assert await it.log.paused_lanes() == frozenset()


async def test_lanes_are_paused_by_administrators_only(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        key = (await it.ask("POST", "/key/generate")).json["key"]
        tenant = {"authorization": f"Bearer {key}"}

        answers = [await it.ask("POST", f"/v1/queues/openai.batch/{act}", tenant) for act in ("pause", "resume")]

        assert [answer.status for answer in answers] == [403, 403]
        assert (await it.ask("GET", "/v1/queues", tenant)).status == 200
        assert await it.log.paused_lanes() == frozenset()
