"""Who is refused for the wait ahead, what everybody is told of it, and that nobody is refused for a guess."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from api import lane_board
from api.backpressure import Backpressure
from api.context import Context
from api.lane_board import LaneBoard, Outlook
from api.lane_pace import UNKNOWN, Pace
from api.rate_limits import RateBoard
from broker.interfaces import LaneStats
from broker.limits.memory import MemoryLimiter
from shared.catalog import Catalog
from shared.errors import AppError, DeadlineUnreachable, QueueFull, QueueWaitExceeded
from shared.ids import uuid7
from shared.jobs import FIRST, Job, Lane, Leg
from tests.fakes.api import Api, api
from tests.fakes.asgi import Exchange
from tests.fakes.clock import FakeClock

LANE = LaneStats("openai", Lane.INTERACTIVE, 30, 8, None, 0.0, 1000, 1)
RATES = {"x-ratelimit-limit-requests": "60"}


def outlook(depth: int, rate: float, *, measured: bool = True) -> Outlook:
    return lane_board.outlook(replace(LANE, depth=depth), Pace(rate, measured), depth)


class Board(LaneBoard):
    """The lane looks as the test says."""

    def __init__(self, shown: Outlook) -> None:
        self.shown = shown

    def outlook(self, job: Job) -> Outlook:
        return self.shown


class Rates(RateBoard):
    def headers(self, group: str) -> Mapping[str, str]:
        return RATES if group == "chat" else {}


def pressure(shown: Outlook) -> Backpressure:
    return Backpressure(Board(shown), Rates(MemoryLimiter(FakeClock()), Catalog([])))


def job(seconds: float = 60.0, most_wait: float | None = None, route: tuple[Leg, ...] | None = None) -> Job:
    return Job(
        id=uuid7(),
        endpoint="chat.completions",
        model="chat",
        route=(Leg("openai", "chat", ("d",)),) if route is None else route,
        body=b"{}",
        reply_to="",
        accepted_at=100.0,
        deadline=100.0 + seconds,
        start_by=100.0 + most_wait if most_wait is not None else 0.0,
    )


# Entering


@pytest.mark.parametrize(
    ("shown", "wanted", "refusal", "retry_after"),
    [
        (outlook(0, 0.0), job(1), None, None),
        (outlook(30, 10.0), job(3.1), None, None),
        (outlook(30, 10.0), job(3.0), DeadlineUnreachable, 1.0),
        (outlook(300, 10.0), job(10), DeadlineUnreachable, 20.0),
        (outlook(30, 10.0), job(60, most_wait=3.1), None, None),
        (outlook(300, 10.0), job(60, most_wait=5), QueueWaitExceeded, 25.0),
        (outlook(300, 10.0), job(10, most_wait=5), QueueWaitExceeded, 25.0),  # in time for both
        (outlook(300, 10.0), job(5, most_wait=10), DeadlineUnreachable, 25.0),
        (outlook(300, 10.0, measured=False), job(5), None, None),
        (lane_board.outlook(LANE, UNKNOWN, 30), job(5), None, None),
        (lane_board.outlook(replace(LANE, paused=True), UNKNOWN, 30), job(5), None, None),
        (lane_board.UNKNOWN, job(5), None, None),
    ],
)
def test_a_job_whose_turn_comes_too_late_is_refused_with_the_time_when_it_would_not(
    shown: Outlook, wanted: Job, refusal: type[AppError] | None, retry_after: float | None
) -> None:
    if refusal is None:
        assert pressure(shown).admit(wanted, tenants=1) is shown
        return

    with pytest.raises(refusal) as caught:
        pressure(shown).admit(wanted, tenants=1)

    assert caught.value.retry_after == pytest.approx(retry_after)


def test_a_refusal_names_the_wait_and_the_jobs_time() -> None:
    with pytest.raises(DeadlineUnreachable) as caught:
        pressure(outlook(300, 10.0)).admit(job(12.5), tenants=1)

    assert caught.value.message == (
        "The request cannot be done in time: it would wait about 30.0 s behind 300 jobs for openai, and its deadline "
        "is in 12.5 s. Send it again in 18 s, or with a longer timeout."
    )


@pytest.mark.parametrize(
    ("tenants", "lane", "precedence", "refused"),
    [
        (1, Lane.INTERACTIVE, 2, True),
        (2, Lane.INTERACTIVE, 2, False),  # the others' jobs may be a flood that it goes before
        (2, Lane.INTERACTIVE, 1, False),
        (2, Lane.INTERACTIVE, 0, True),  # everybody goes before it
        (2, Lane.INTERACTIVE, FIRST, True),  # only such jobs are counted for it
        (2, Lane.BATCH, 2, True),  # first come, first served
    ],
)
def test_only_a_job_whose_place_is_known_is_refused(tenants: int, lane: Lane, precedence: int, refused: bool) -> None:
    late = replace(job(1), lane=lane, precedence=precedence)

    try:
        pressure(outlook(300, 10.0)).admit(late, tenants)
    except DeadlineUnreachable:
        assert refused
    else:
        assert not refused


# Telling


def told(shown: Outlook, accepted: Outlook | None, wanted: Job | None = None) -> dict[str, str]:
    headers: dict[str, str] = {}
    pressure(shown).tell(headers, wanted or job(), accepted)
    return headers


def test_an_answer_tells_how_the_lane_stood_at_acceptance() -> None:
    assert told(outlook(0, 10.0), outlook(30, 10.0)) == {
        "x-headrace-queue-position": "30",
        "x-headrace-queue-depth": "30",
        "x-headrace-estimated-wait-ms": "3000",
        **RATES,
    }


def test_what_was_unknown_at_acceptance_is_told_as_of_now() -> None:
    assert told(outlook(30, 10.0), lane_board.UNKNOWN)["x-headrace-queue-depth"] == "30"


def test_a_job_that_had_been_accepted_before_has_no_place_of_its_own() -> None:
    assert told(outlook(30, 10.0), None) == RATES


def test_a_job_that_only_the_log_knows_has_no_route_to_tell_about() -> None:
    assert told(outlook(30, 10.0), None, job(route=())) == {}


# A full lane

FULL = QueueFull("full", provider="openai", retry_after=400.0)


@pytest.mark.parametrize(
    ("shown", "retry_after"),
    [
        (outlook(900, 10.0), 100.0),
        (outlook(900, 2.0), 500.0),
        (outlook(900, 5000.0), 1.0),
        (outlook(900, 0.001), 3600.0),
        (outlook(900, 10.0, measured=False), 100.0),
        (outlook(900, 2.0, measured=False), 400.0),  # the shorter of two that are rather too long
        (outlook(900, 0.0), 400.0),
        (lane_board.UNKNOWN, 400.0),
    ],
)
def test_a_full_lane_is_emptied_by_all_workers(shown: Outlook, retry_after: float) -> None:
    assert pressure(shown).corrected(FULL, job()).retry_after == retry_after


# Over HTTP


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, bound=1) as running:
        yield running


def context(it: Api) -> Context:
    app: FastAPI = it.app._app  # type: ignore[attr-defined]
    found: Context = app.state.context
    return found


@pytest.fixture
def crowded(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured wait of 30 s."""
    shown = outlook(300, 10.0)
    monkeypatch.setattr(context(it).board, "outlook", lambda job: shown)


SHORT = {"x-litellm-timeout": "10"}
ASYNC = {"prefer": "respond-async"}


@pytest.mark.parametrize(
    ("headers", "kind", "retry_after"),
    [
        (SHORT, "deadline_unreachable", "20"),
        ({"x-headrace-max-queue-wait": "4"}, "rate_limit_error", "26"),
        ({**ASYNC, **SHORT}, "deadline_unreachable", "20"),
        ({**ASYNC, "x-headrace-max-queue-wait": "4"}, "rate_limit_error", "26"),
        ({**SHORT, "idempotency-key": "k"}, "deadline_unreachable", "20"),
        ({**SHORT, "x-headrace-dedupe": "body"}, "deadline_unreachable", "20"),
    ],
)
@pytest.mark.usefixtures("crowded")
async def test_what_cannot_be_in_time_is_a_429_at_once(
    it: Api, headers: dict[str, str], kind: str, retry_after: str
) -> None:
    exchange = await it.chat(headers=headers).finished()

    assert (exchange.status, exchange.error["type"], exchange.headers["retry-after"]) == (429, kind, retry_after)
    assert exchange.headers["x-headrace-queue-depth"] == "300"
    assert exchange.headers["x-headrace-estimated-wait-ms"] == "30000"
    assert [lane.depth for lane in await it.queue.stats()] == [0, 0]
    assert (await it.ask("GET", "/v1/jobs?status=queued")).json["data"] == []


@pytest.mark.usefixtures("crowded")
async def test_a_key_may_wait_no_longer_than_it_says_but_in_the_background(it: Api) -> None:
    made = (await it.ask("POST", "/key/generate", body=b'{"max_queue_wait": 4}')).json["key"]
    mine = {"authorization": f"Bearer {made}"}

    connected = await it.chat(headers=mine).finished()
    background = await it.chat(headers={**mine, **ASYNC}).finished()

    assert (connected.status, background.status) == (429, 202)


@pytest.mark.parametrize(("header", "own", "smaller"), [("7", 4, 4), ("3", 4, 3), ("7", None, 7), (None, 4, 4)])
async def test_the_worker_is_told_until_when_an_attempt_must_have_begun(
    it: Api, header: str | None, own: float | None, smaller: float
) -> None:
    made = (await it.ask("POST", "/key/generate", body=b"{}" if own is None else b'{"max_queue_wait": 4}')).json["key"]
    wished = {} if header is None else {"x-headrace-max-queue-wait": header}

    exchange = it.chat(headers={"authorization": f"Bearer {made}", **wished})
    job = await it.next_job()
    await it.completed(job, body=b"{}")
    await exchange.finished()

    assert job.start_by - job.accepted_at == pytest.approx(smaller)


async def test_an_answer_that_is_there_needs_no_turn(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = {**SHORT, "idempotency-key": "k"}
    first = it.chat(headers=keyed)
    await it.completed(await it.next_job(), body=b'{"answer": 1}')
    await first.finished()
    monkeypatch.setattr(context(it).board, "outlook", lambda job: outlook(300, 10.0))

    second = await it.chat(headers=keyed).finished()

    assert (second.status, second.json) == (200, {"answer": 1})


async def test_a_refused_request_may_come_again_under_its_key(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [outlook(300, 10.0)]
    monkeypatch.setattr(context(it).board, "outlook", lambda job: shown[0])
    keyed = {**ASYNC, **SHORT, "idempotency-key": "k"}
    refused = await it.chat(headers=keyed).finished()
    shown[0] = outlook(0, 10.0)

    again = await it.chat(headers=keyed).finished()

    assert (refused.status, again.status) == (429, 202)
    assert "x-headrace-idempotent-replayed" not in again.headers


async def test_a_full_lane_says_when_all_workers_will_have_emptied_it(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context(it).board, "outlook", lambda job: outlook(900, 10.0))
    await it.worker.pause("openai", 60)
    await it.chat(headers=ASYNC).finished()
    waiting = it.chat()
    await it.log.paused_lanes()  # a turn of the loop: it is on its lane

    refused = [await it.chat(headers=headers).finished() for headers in ({}, ASYNC)]

    assert [(each.status, each.headers["retry-after"]) for each in refused] == [(429, "100")] * 2
    waiting.leave()
    await waiting.finished()


async def answered(it: Api, stream: bool = False) -> Exchange:
    exchange = it.chat(stream=stream)
    job = await it.next_job()
    if stream:
        await it.chunk(job, 1, "one")
        await it.completed(job, 2)
    else:
        await it.completed(job, body=b"{}")
    return await exchange.finished()


@pytest.mark.parametrize("stream", [True, False])
async def test_every_answer_tells_how_long_the_lane_was(it: Api, stream: bool) -> None:
    await context(it).board.lane("openai", Lane.INTERACTIVE)

    exchange = await answered(it, stream=stream)

    assert exchange.status == 200
    assert exchange.headers["x-headrace-queue-position"] == exchange.headers["x-headrace-queue-depth"] == "0"
    assert exchange.headers["x-headrace-estimated-wait-ms"] == "0"


@pytest.mark.parametrize(("paused", "wait"), [(False, "0"), (True, None)])
async def test_a_job_for_later_is_told_its_wait_or_that_its_lane_is_paused(
    it: Api, paused: bool, wait: str | None
) -> None:
    await it.log.pause_lane("openai.batch", paused)

    exchange = await it.chat(headers=ASYNC).finished()

    assert (exchange.status, exchange.json["paused"]) == (202, paused)
    assert (exchange.json["estimated_start"] is None) is paused
    assert exchange.headers.get("x-headrace-estimated-wait-ms") == wait
    assert exchange.headers["x-headrace-queue-depth"] == exchange.headers["x-headrace-queue-position"]


async def test_our_sum_over_the_keys_stands_for_the_providers_own_limits(
    it: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = await answered(it)
    ours = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "5"}
    monkeypatch.setattr(context(it).rates, "headers", lambda group: ours)

    sums = await answered(it)

    assert theirs.headers["x-ratelimit-limit-requests"] == "10"
    assert sums.headers["x-ratelimit-limit-requests"] == "60"
    assert sums.headers["llm_provider-x-ratelimit-limit-requests"] == "10"
