"""Answers of durable jobs: for the client who waits a while, and for those who come later."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.admission import Followed
from api.relay import Relay
from broker.records import JobRecord
from shared import errors
from shared.events import Event, Kind
from shared.ids import uuid7
from shared.jobs import Ending, Job, JobState, Leg
from tests.fakes import asgi
from tests.fakes.api import SERVED, Api, api
from tests.fakes.asgi import Exchange

Answer = Callable[[Request], Awaitable[Response | None]]


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, keepalive_seconds=0.05) as running:
        yield running


@pytest.fixture
def relay(it: Api) -> Relay:
    app: FastAPI = it.app._app  # type: ignore[attr-defined]
    relay: Relay = app.state.context.relay
    return relay


def ask(answer: Answer) -> Exchange:
    """A request that is answered so; 202 for no answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive, send)) or Response(status_code=202)
        await response(scope, receive, send)

    return asgi.start(app, "POST", "/")


async def a_record(it: Api, stream: bool, deadline: float = 3600) -> JobRecord:
    now = time.time()
    job = Job(
        id=uuid7(),
        endpoint="chat.completions",
        model="chat",
        route=(Leg("openai", "chat", ("d",)),),
        body=b"{}",
        reply_to=it.log.reply_channel,
        accepted_at=now,
        deadline=now + deadline,
        stream=stream,
        durable=True,
    )
    record = JobRecord(job, JobState.DISPATCHED)
    await it.backends.store.jobs.add(record)
    return record


async def end(it: Api, record: JobRecord, **fields: object) -> JobRecord:
    """The record with its bodies, ended so."""
    ending = Ending(record.job.id, JobState.COMPLETED, time.time(), attempts=1, served=SERVED)
    await it.backends.store.record([], [replace(ending, **fields)])  # type: ignore[arg-type]
    ended = await it.backends.store.jobs.get(record.job.id, bodies=True)
    assert ended is not None
    return ended


async def test_a_later_request_gets_the_stored_answer_byte_by_byte(it: Api, relay: Relay) -> None:
    record = await end(it, await a_record(it, stream=False), answer=b'{"answer":  1}')

    exchange = await ask(lambda request: relay.attached(request, record)).finished()

    assert (exchange.status, exchange.body) == (200, b'{"answer":  1}')
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.headers["x-headrace-job-id"] == record.job.id
    assert exchange.headers["x-litellm-model-id"] == "d"


async def test_a_later_request_gets_the_stored_stream(it: Api, relay: Relay) -> None:
    stored = b"data: one\n\ndata: two\n\ndata: [DONE]\n\n"
    record = await end(it, await a_record(it, stream=True), answer=stored)

    exchange = await ask(lambda request: relay.attached(request, record)).finished()

    id = record.job.id.encode()
    assert exchange.body == b"id: %b:0\ndata: one\nid: %b:1\n\ndata: two\nid: %b:2\n\ndata: [DONE]\n\n" % (id, id, id)
    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert exchange.headers["x-litellm-model-id"] == "d"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_later_request_gets_the_stored_error_with_its_status(it: Api, relay: Relay, stream: bool) -> None:
    error = errors.UpstreamBadRequest("no", status=422)
    record = await end(it, await a_record(it, stream=stream), state=JobState.FAILED, error=error.to_wire())

    exchange = await ask(lambda request: relay.attached(request, record)).finished()

    assert (exchange.status, exchange.error["code"]) == (422, "422")


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_that_come_while_the_job_runs_get_its_answer_live(it: Api, relay: Relay, stream: bool) -> None:
    record = await a_record(it, stream=stream)
    if stream:
        await it.chunk(record.job, 1, "one")
    exchanges = [ask(lambda request: relay.attached(request, record)) for _ in range(2)]
    if stream:
        await exchanges[0].contains(b"data: one\n")
    await it.completed(record.job, 1 + stream, b"" if stream else b'{"answer": 1}')

    bodies = [(await exchange.finished()).body for exchange in exchanges]

    assert bodies[0] == bodies[1]
    assert bodies[0].endswith(b"data: [DONE]\n\n" if stream else b'{"answer": 1}')
    assert [event for event in await it.log.replay(record.job.id) if event.kind is Kind.ACCEPTED] == []


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_can_be_added_to_any_answer(it: Api, relay: Relay, stream: bool) -> None:
    record = await a_record(it, stream=stream)
    await it.completed(record.job, 1, b"" if stream else b"{}")

    async def marked(request: Request) -> Response:
        response = await relay.attached(request, record)
        response.headers["x-headrace-idempotent-replayed"] = "true"
        return response

    exchange = await ask(marked).finished()

    assert exchange.headers["x-headrace-idempotent-replayed"] == "true"
    assert exchange.headers.get("content-length") == (None if stream else "2")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_shall_go_on_is_not_cancelled_when_its_client_leaves(
    it: Api, relay: Relay, stream: bool, keep: bool
) -> None:
    record = await a_record(it, stream=stream)
    followed = Followed(record.job, it.log.follow(record.job.id))
    exchange = ask(lambda request: relay.answer(request, followed, keep=keep))
    if stream:
        await it.chunk(record.job, 1, "one")
        await exchange.contains(b"one")

    exchange.leave()
    await exchange.finished()

    assert await it.log.is_cancelled(record.job.id, since=0) is not keep


@pytest.mark.parametrize("stream", [False, True])
async def test_whoever_waits_hears_that_the_job_was_cancelled(it: Api, relay: Relay, stream: bool) -> None:
    record = await a_record(it, stream=stream)
    exchange = ask(lambda request: relay.attached(request, record))
    if stream:
        await it.chunk(record.job, 1, "one")
        await exchange.contains(b"one")

    await it.log.cancel(record.job.id)
    await exchange.finished()

    assert exchange.status == (200 if stream else 499)
    assert b"The job was cancelled." in exchange.body


async def test_an_end_that_only_the_store_knows_ends_the_wait(
    it: Api, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.job_follower._LOOK", 0.05)
    record = await a_record(it, stream=False)
    exchange = ask(lambda request: relay.attached(request, record))

    await end(it, record, state=JobState.EXPIRED, error=errors.DeadlineExceeded("Request timed out.").to_wire())

    assert (await exchange.finished()).status == 408


async def test_a_result_that_has_expired_ends_the_wait(it: Api, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.job_follower._LOOK", 0.05)
    record = await a_record(it, stream=False)
    gone = replace(record, job=replace(record.job, id=uuid7()))

    assert (await ask(lambda request: relay.attached(request, gone)).finished()).status == 404


async def test_a_client_that_waits_a_while_gets_the_answer_that_comes_in_time(it: Api, relay: Relay) -> None:
    record = await a_record(it, stream=False)
    followed = Followed(record.job, it.log.follow(record.job.id))
    exchange = ask(lambda request: relay.answer_within(request, followed, 10))

    await it.completed(record.job, body=b'{"answer": 1}')

    assert (await exchange.finished()).body == b'{"answer": 1}'


async def test_a_client_that_waits_a_while_gets_the_error_that_comes_in_time(it: Api, relay: Relay) -> None:
    record = await a_record(it, stream=False)
    followed = Followed(record.job, it.log.follow(record.job.id))
    exchange = ask(lambda request: relay.answer_within(request, followed, 10))

    await it.failed(record.job, errors.UpstreamOverloaded("busy"))

    assert (await exchange.finished()).status == 503


async def test_a_job_goes_on_when_its_clients_patience_ends(it: Api, relay: Relay) -> None:
    record = await a_record(it, stream=False)
    followed = Followed(record.job, it.log.follow(record.job.id))

    exchange = await ask(lambda request: relay.answer_within(request, followed, 0.02)).finished()

    assert exchange.status == 202
    assert not await it.log.is_cancelled(record.job.id, since=0)


async def test_a_client_that_leaves_while_it_waits_cancels_nothing(it: Api, relay: Relay) -> None:
    record = await a_record(it, stream=False)
    followed = Followed(record.job, it.log.follow(record.job.id))
    exchange = ask(lambda request: relay.answer_within(request, followed, 10))

    exchange.leave()
    await exchange.finished()

    assert not await it.log.is_cancelled(record.job.id, since=0)


async def test_the_events_of_a_job_begin_at_once(it: Api, relay: Relay) -> None:
    record = await a_record(it, stream=True)
    followed = Followed(record.job, it.log.tail(record.job.id))

    async def events(request: Request) -> Response:
        return relay.events(request, followed, after=0)

    exchange = ask(events)
    await exchange.contains(b"id: %b:0\n" % record.job.id.encode())
    await it.log.emit("", [Event(record.job.id, 1, Kind.COMPLETED)])

    assert (await exchange.finished()).body.endswith(b"data: [DONE]\n\n")
