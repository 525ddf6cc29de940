"""From a request to a job on its lane: what headers change, what is refused, and what a full queue says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from api import admission, wishes
from api.admission import Admission
from api.auth import Principal
from api.backpressure import Backpressure
from api.lane_board import LaneBoard
from api.rate_limits import RateBoard
from api.routes.queues import fleet_wide
from broker import gate
from broker.accounts.memory import MemoryAccounts
from broker.backends import Backends
from broker.events.memory import MemoryEventLog
from broker.limits.memory import MemoryLimiter
from broker.queues.memory import MemoryQueue
from shared.catalog import Catalog, Deployment, Routing
from shared.chat_request import Envelope
from shared.clock import SystemClock
from shared.errors import InvalidRequest, QueueFull, Unavailable, UnknownModel
from shared.jobs import CLAIM_CHECK_BYTES, Job
from shared.settings import Settings
from tests.fakes.api import Api, api
from tests.fakes.clock import FakeClock
from tests.fakes.seams import NotedQueue, settled, until

CALLER = Principal("hash-of-key")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, bound=1) as running:
        yield running


class Desk:
    """An admission with nothing behind it but the memory backends."""

    def __init__(self, log: MemoryEventLog, queue: MemoryQueue, **deployment: object) -> None:
        catalog = Catalog(
            [Deployment("d", "chat", "openai", "gpt", **deployment), Deployment("e", "other", "gemini", "g")],  # type: ignore[arg-type]
            routing=Routing(num_retries=2),
        )
        store: Any = SimpleNamespace(keys=None, directory=None, bill=None)  # never asked: nobody has limits
        self.clock = FakeClock(SystemClock().now())
        backends = Backends(queue, log, MemoryLimiter(self.clock), store, MemoryAccounts(self.clock))
        self.board = LaneBoard(partial(fleet_wide, backends))
        pressure = Backpressure(self.board, RateBoard(backends.limiter, catalog))
        settings = Settings(_env_file=None)  # type: ignore[call-arg]  # pydantic-settings' own argument
        door = gate.make(backends, catalog, settings, self.clock)
        self.admission = Admission(backends, catalog, self.clock, 600.0, pressure, door)

    def job(self, headers: dict[str, str] | None = None, body: bytes = b"{}", **fields: object) -> Job:
        request = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **fields}
        return self.admission.job(Envelope.model_validate(request), body, CALLER, wishes.of(headers or {}))


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    async with MemoryEventLog() as it:
        yield it


@pytest.fixture
async def queue() -> NotedQueue:
    it = NotedQueue([])
    await it.declare(["openai", "gemini"])
    return it


@pytest.fixture
def desk(log: MemoryEventLog, queue: NotedQueue) -> Desk:
    return Desk(log, queue)


def test_a_job_knows_its_caller_its_route_and_where_to_answer(desk: Desk, log: MemoryEventLog) -> None:
    job = desk.job({"traceparent": "00-1"}, user="u")

    assert (job.key, job.customer, job.reply_to, job.traceparent) == ("hash-of-key", "u", log.reply_channel, "00-1")
    assert [(leg.provider, leg.deployments) for leg in job.route] == [("openai", ("d",))]
    assert job.published_at == job.accepted_at == desk.clock.now()


def test_an_unknown_model_is_refused(desk: Desk) -> None:
    with pytest.raises(UnknownModel):
        desk.job(model="no-such-model")


@pytest.mark.parametrize(
    ("header", "field", "seconds"),
    [
        (None, None, 600.0),
        (None, 30.0, 30.0),
        ("5", 30.0, 5.0),
        ("0.5", None, 0.5),
        ("0", 30.0, 30.0),
        (" 7 ", None, 7.0),
    ],
)
def test_the_headers_timeout_wins_over_the_bodys(
    desk: Desk, header: str | None, field: float | None, seconds: float
) -> None:
    job = desk.job({"x-litellm-timeout": header} if header else {}, timeout=field)

    assert job.deadline - job.accepted_at == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("header", "field", "own", "retries"),
    [
        (None, None, None, 2),
        (None, None, 7, 7),
        (None, 1, 7, 1),
        ("3", 1, 7, 3),
        ("0", 1, None, 0),
        (None, 0, 7, 0),
    ],
)
def test_the_nearest_wish_for_retries_counts(
    log: MemoryEventLog, queue: NotedQueue, header: str | None, field: int | None, own: int | None, retries: int
) -> None:
    desk = Desk(log, queue, num_retries=own)

    job = desk.job({"x-litellm-num-retries": header} if header else {}, num_retries=field)

    assert job.max_retries == retries


@pytest.mark.parametrize("name", ["x-litellm-timeout", "x-litellm-num-retries"])
@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1e9", "86401"])
def test_a_header_that_is_no_sensible_number_is_refused_by_name(desk: Desk, name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.job({name: value})

    assert caught.value.param == name


def test_tags_come_from_everywhere_once_each(desk: Desk) -> None:
    job = desk.job({"x-litellm-tags": "c, a,, d "}, tags=["a", "b"], metadata={"tags": ["b", 7]})

    assert job.tags == ("a", "b", "7", "c", "d")


@pytest.mark.parametrize("name", ["x-litellm-enable-message-redaction", "litellm-enable-message-redaction"])
@pytest.mark.parametrize(
    ("value", "redact"), [("true", True), ("1", True), ("please", True), ("False", False), ("", False)]
)
def test_a_request_may_ask_that_the_bill_keeps_no_prompt(desk: Desk, name: str, value: str, redact: bool) -> None:
    assert desk.job({name: value}).redact is redact
    assert not desk.job().redact


def test_tags_are_bounded_in_number_and_length(desk: Desk) -> None:
    job = desk.job(tags=[f"{number}" + "x" * 500 for number in range(200)])

    assert len(job.tags) == 50
    assert max(map(len, job.tags)) == 200


def test_only_headers_that_concern_vendors_travel(desk: Desk) -> None:
    job = desk.job({"anthropic-beta": "x", "authorization": "Bearer sk-secret", "cookie": "c"})

    assert job.headers_in == {"anthropic-beta": "x"}
    assert b"secret" not in job.headers()


def test_a_request_may_bring_its_own_fallbacks(desk: Desk) -> None:
    job = desk.job(fallbacks=[{"model": "other"}])

    assert [(leg.group, leg.fallback) for leg in job.route] == [("chat", False), ("other", True)]


@pytest.mark.parametrize("fallbacks", [[{}], [{"model": 7}]])
def test_fallbacks_that_name_no_model_are_refused(desk: Desk, fallbacks: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="fallbacks"):
        desk.job(fallbacks=fallbacks)


@pytest.mark.parametrize(("size", "claimed"), [(CLAIM_CHECK_BYTES, False), (CLAIM_CHECK_BYTES + 1, True)])
async def test_a_body_over_a_mebibyte_stays_behind(
    desk: Desk, log: MemoryEventLog, queue: NotedQueue, size: int, claimed: bool
) -> None:
    body = b"x" * size

    followed = await desk.admission.enter(desk.job(body=body))

    ((published, _),) = queue.published
    assert (published.claim, followed.job.claim) == (claimed, claimed)
    assert published.body == (b"" if claimed else body)
    assert await log.get_body(published.id) == (body if claimed else None)
    followed.follower.close()


async def test_a_lost_confirm_is_published_again_and_marked(desk: Desk, queue: NotedQueue) -> None:
    queue.confirms.fail(1)

    followed = await desk.admission.enter(desk.job())
    while len(queue.published) < 2:
        await asyncio.sleep(0)

    assert [job.suspect for job, _ in queue.published] == [False, True]
    with pytest.raises(TimeoutError):
        await followed.follower.next(0.01)
    followed.follower.close()


async def test_a_queue_that_stays_away_fails_the_request_at_its_deadline(
    desk: Desk, queue: NotedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_PUBLISH_PAUSE", 0.01)
    queue.confirms.fail(1000)

    followed = await desk.admission.enter(desk.job({"x-litellm-timeout": "30"}))
    await until(lambda: len(queue.published) > 2)
    desk.clock.advance(30)

    with pytest.raises(Unavailable):
        await followed.follower.next(60)
    followed.follower.close()


async def test_a_full_lane_fails_the_request_at_once(log: MemoryEventLog) -> None:
    queue = NotedQueue([], bound=1)
    await queue.declare(["openai"])
    desk = Desk(log, queue)
    first = await desk.admission.enter(desk.job())

    second = await desk.admission.enter(desk.job())

    with pytest.raises(QueueFull) as caught:
        await second.follower.next(60)
    assert caught.value.retry_after is not None
    assert len(queue.published) == 2
    for each in (first, second):
        each.follower.close()


# Over HTTP


async def test_a_full_lane_is_a_429_with_a_wait(it: Api) -> None:
    await it.worker.pause("openai", 60)
    first = it.chat()
    while not (await it.queue.stats())[0].depth:
        await asyncio.sleep(0.001)

    second = await it.chat().finished()

    assert (second.status, second.error["type"]) == (429, "rate_limit_error")
    assert int(second.headers["retry-after"]) >= 1
    first.leave()
    await first.finished()


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/chat/completions", "/openai/deployments/chat/chat/completions",
     "/engines/chat/chat/completions", "/v1/engines/chat/chat/completions"],
)  # fmt: skip
async def test_every_path_of_chat_leads_to_a_job(it: Api, path: str) -> None:
    exchange = it.chat(path)
    await it.completed(await it.next_job(), body=b"{}")

    assert (await exchange.finished()).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/engines/chat/chat/completions"])
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 401),
        ({"authorization": "Bearer sk-wrong"}, b"{}", 401),
        (None, b"{", 400),
        (None, orjson.dumps({"model": "nope", "messages": [{"role": "user", "content": "x"}]}), 400),
        (None, b"x" * 2000, 413),
    ],
)
async def test_what_may_not_enter_is_refused_in_openais_words(
    tmp_path: Path, path: str, headers: dict[str, str] | None, body: bytes, status: int
) -> None:
    async with api(tmp_path, max_body_bytes=1000) as it:
        exchange = await it.ask("POST", path, headers, body)

    assert (exchange.status, exchange.error["code"]) == (status, str(status))


async def test_a_declared_size_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    async with api(tmp_path, max_body_bytes=1000) as it:
        exchange = it.chat(headers={"content-length": "1001"})

        assert (await exchange.finished()).status == 413


async def test_jobs_that_are_still_followed_are_published_again_when_the_queue_may_have_lost_them(
    log: MemoryEventLog,
) -> None:
    queue = _Forgetful()
    await queue.declare(["openai"])
    desk = Desk(log, queue)
    waiting = await desk.admission.enter(desk.job())
    await desk.admission.enter(desk.job())  # nobody keeps what it returns: its client is gone
    await settled()  # the confirms

    queue.forget()

    jobs = [job for job, _ in queue.published]
    assert [(job.id, job.suspect) for job in jobs[2:]] == [(waiting.job.id, True)]
    waiting.follower.close()


class _Forgetful(NotedQueue):
    def __init__(self) -> None:
        super().__init__([])
        self.forget: Callable[[], None] = lambda: None

    def on_loss(self, callback: Callable[[], None]) -> None:
        self.forget = callback
