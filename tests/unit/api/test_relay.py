"""What a client sees of its job: one answer or a stream, its own errors, and what its leaving causes."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import errors
from shared.events import Event, Kind
from tests.fakes.api import SERVED, Api, api


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, keepalive_seconds=0.05) as running:
        yield running


async def test_a_whole_answer_is_passed_on_byte_by_byte(it: Api) -> None:
    exchange = it.chat()
    await it.completed(await it.next_job(), body=b'{"answer":  1}')

    await exchange.finished()

    assert (exchange.status, exchange.body) == (200, b'{"answer":  1}')
    assert exchange.headers["content-type"] == "application/json"


async def test_an_answer_says_where_it_comes_from(it: Api) -> None:
    exchange = it.chat()
    job = await it.next_job()
    await it.completed(job, body=b"{}")

    headers = (await exchange.finished()).headers

    assert headers["x-headrace-job-id"] == headers["x-litellm-call-id"] == job.id
    assert headers["x-litellm-model-id"] == "d"
    assert headers["x-litellm-response-cost"] == "0.0015"
    assert headers["x-litellm-model-api-base"] == "https://up.example/v1"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UpstreamRateLimited("slow down", retry_after=2.3), 429),
        (errors.UpstreamBadRequest("no", status=422), 422),
        (errors.UpstreamOverloaded("busy"), 503),
        (errors.DeadlineExceeded("late"), 408),
        (errors.CredentialsExhausted("keys"), 502),
    ],
)
async def test_an_error_before_the_first_event_has_its_own_status(
    it: Api, error: errors.AppError, status: int, stream: bool
) -> None:
    exchange = it.chat(stream=stream)
    await it.failed(await it.next_job(), error)

    await exchange.finished()

    assert (exchange.status, exchange.error["code"]) == (status, str(status))
    assert exchange.headers.get("retry-after") == ("3" if error.retry_after else None)


async def test_a_stream_carries_the_number_of_each_frame_and_ends_with_done(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")
    await it.chunk(job, 2, "two")
    await it.completed(job, 3)

    await exchange.finished()

    id = job.id.encode()
    assert exchange.body == (b"id: %b:0\ndata: one\nid: %b:1\n\ndata: two\nid: %b:2\n\ndata: [DONE]\n\n" % (id, id, id))
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.headers["x-litellm-model-id"] == "d"


async def test_a_stream_that_fails_says_so_in_band_and_is_not_done(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")
    await it.failed(job, errors.WorkerLost("lost"), 2)

    await exchange.finished()

    assert exchange.status == 200
    assert b'"code":"502"' in exchange.body
    assert exchange.body.endswith(b"id: %b:2\n\n" % job.id.encode())
    assert b"[DONE]" not in exchange.body


async def test_a_stream_that_waits_is_opened_with_its_jobs_id_and_its_error_comes_in_band(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await exchange.contains(b"id: %b:0\n" % job.id.encode())
    await exchange.contains(b": keep-alive\n")
    await it.failed(job, errors.UpstreamOverloaded("busy"))

    await exchange.finished()

    assert exchange.status == 200
    assert b'"code":"503"' in exchange.body
    assert b"[DONE]" not in exchange.body
    assert exchange.headers["x-headrace-job-id"] == job.id


async def test_comments_go_on_in_a_silent_stream(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")
    await exchange.contains(b":1\n\n: keep-alive\n")
    await it.chunk(job, 2, "two")
    await it.completed(job, 3)

    await exchange.finished()

    assert exchange.body.replace(b": keep-alive\n", b"").strip().endswith(b":2\n\ndata: [DONE]")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", ["queued", "running", "streaming"])
async def test_a_client_that_leaves_cancels_its_job_within_a_second(it: Api, stream: bool, state: str) -> None:
    exchange = it.chat(stream=stream)
    job = await it.next_job()
    cancelled = asyncio.Event()
    with it.log.on_cancel(job.id, cancelled.set):
        if state == "streaming" and stream:
            await it.chunk(job, 1, "one")
            await exchange.contains(b"one")
        begun = time.monotonic()

        exchange.leave()

        async with asyncio.timeout(60):
            await cancelled.wait()
        assert time.monotonic() - begun < 1
    await exchange.finished()
    assert b"[DONE]" not in exchange.body


async def test_a_client_that_leaves_in_the_queue_is_remembered_for_the_worker(it: Api) -> None:
    await it.worker.pause("openai", 60)
    exchange = it.chat()
    await asyncio.sleep(0)

    exchange.leave()
    await exchange.finished()
    await it.worker.pause("openai", 0)

    job = await it.next_job()
    assert await it.log.is_cancelled(job.id, since=job.accepted_at)


async def test_a_job_that_is_over_is_not_cancelled(it: Api) -> None:
    exchange = it.chat()
    job = await it.next_job()
    await it.completed(job, body=b"{}")
    await exchange.finished()

    exchange.leave()

    assert not await it.log.is_cancelled(job.id, since=job.accepted_at)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_without_a_word_from_any_worker_is_a_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("api.relay._GRACE", 0.0)
    monkeypatch.setattr("api.relay._UNWATCHED", 0.01)
    began = time.time()

    async with api(tmp_path, keepalive_seconds=60) as it:  # which would open the stream with a 200
        exchange = await it.chat(stream=stream, headers={"x-litellm-timeout": "0.04"}).finished()

        assert (exchange.status, exchange.error["type"]) == (408, "timeout_error")
        assert await it.log.is_cancelled(exchange.headers["x-headrace-job-id"], since=began)


async def test_a_deadline_in_an_open_stream_comes_in_band(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.relay._GRACE", 0.0)
    exchange = it.chat(stream=True, headers={"x-litellm-timeout": "1"})

    await exchange.finished()

    assert exchange.status == 200
    assert b": keep-alive" in exchange.body
    assert b'"code":"408"' in exchange.body


async def test_frames_that_travel_in_one_event_have_numbers_of_their_own(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one\n\ndata: two")
    await it.chunk(job, 2, "three")
    await it.completed(job, 3)

    await exchange.finished()

    id = job.id.encode()
    frames = [b"data: %b\nid: %b:%d\n\n" % (text, id, at) for at, text in enumerate([b"one", b"two", b"three"], 1)]
    assert exchange.body == b"id: %b:0\n%bdata: [DONE]\n\n" % (id, b"".join(frames))


@pytest.mark.parametrize("stream", [False, True])
async def test_whose_a_stream_is_stands_in_the_log_for_other_processes(it: Api, stream: bool) -> None:
    exchange = it.chat(stream=stream)
    job = await it.next_job()
    await it.completed(job)
    await exchange.finished()

    notes = [event for event in await it.log.replay(job.id) if event.kind is Kind.ACCEPTED]

    assert [note.meta["key"] for note in notes] == [job.key] * stream
    assert [note.meta["deadline"] for note in notes] == [job.deadline] * stream


async def test_two_clients_do_not_hear_each_other(it: Api) -> None:
    exchanges = [it.chat(stream=True), it.chat(stream=True)]
    jobs = [await it.next_job(), await it.next_job()]
    for name, job in zip("ab", jobs, strict=True):
        await it.chunk(job, 1, name)
        await it.completed(job, 2)

    bodies = [(await exchange.finished()).body for exchange in exchanges]

    assert [b"data: a" in bodies[0], b"data: b" in bodies[1]] == [True, True]
    assert b"data: b" not in bodies[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_models_name_in_any_script_does_not_break_the_answer(it: Api, stream: bool) -> None:
    """Wildcards put the client's words into `x-litellm-model-id` and its group."""
    exchange = it.chat(model="any/模型\r\nset-cookie: a=b", stream=stream)
    job = await it.next_job()
    (deployment,) = job.current.deployments
    outcome = {"duration": 0, "cost": 0}
    meta = {**SERVED, "deployment": deployment, "group": job.current.group, "headers": {"x-odd": "模"}}
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.COMPLETED, b"{}", {**meta, "outcome": outcome})])

    await exchange.finished()

    assert exchange.status == 200
    assert not any("\n" in value for value in exchange.headers.values())
