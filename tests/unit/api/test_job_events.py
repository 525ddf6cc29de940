"""`GET /v1/jobs/{id}/events`: a stream that broke off goes on where it was, and others may watch."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import errors
from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.ids import uuid7
from tests.fakes.api import KEY, SERVED, Api
from tests.unit.api.viewers import OTHER, TENANT, api_with_tenants, finished_stream, frames, hashed, streaming, watch


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api_with_tenants(tmp_path) as running:
        yield running


async def test_a_finished_stream_is_replayed_as_its_first_client_had_it(it: Api) -> None:
    job, first = await finished_stream(it)

    exchange = await watch(it, job.id).finished()

    assert (exchange.status, exchange.body) == (200, first)
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.headers["x-headrace-job-id"] == job.id


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
async def test_a_client_goes_on_after_the_frame_it_had_last(it: Api, after: int) -> None:
    job, first = await finished_stream(it)

    answers = [
        await watch(it, job.id, last=f"{job.id}:{after}").finished(),
        await watch(it, job.id, last=str(after)).finished(),
        await watch(it, job.id, f"?starting_after={after}").finished(),
        await watch(it, job.id, "?starting_after=99", last=f"{job.id}:{after}").finished(),
    ]

    for each in answers:
        assert each.body.startswith(b"id: %b:%d\n" % (job.id.encode(), after))
        assert frames(each.body) == frames(first)[after:]


async def test_several_viewers_follow_a_running_stream_live(it: Api) -> None:
    first, job = await streaming(it)
    await it.chunk(job, 1, "one")
    viewers = [watch(it, job.id), watch(it, job.id, last="1"), watch(it, job.id, "?starting_after=0")]
    await viewers[0].contains(b"one")
    await it.chunk(job, 2, "two")
    late = watch(it, job.id, last=f"{job.id}:2")
    for viewer in viewers:
        await viewer.contains(b"two")
    await it.completed(job, 3)

    whole = frames((await first.finished()).body)
    seen = [frames((await viewer.finished()).body) for viewer in (*viewers, late)]

    assert seen == [whole, whole[1:], whole, whole[2:]]


async def test_a_viewer_of_a_waiting_job_is_kept_company(it: Api) -> None:
    first, job = await streaming(it)
    viewer = watch(it, job.id)

    await viewer.contains(b"id: %b:0\n: keep-alive\n: keep-alive\n" % job.id.encode())
    await it.chunk(job, 1, "one")
    await it.completed(job, 2)

    assert frames((await viewer.finished()).body) == frames((await first.finished()).body)


async def test_a_viewer_that_leaves_cancels_nothing(it: Api) -> None:
    first, job = await streaming(it)
    await it.chunk(job, 1, "one")
    viewer = await watch(it, job.id).contains(b"one")

    viewer.leave()
    await viewer.finished()
    await it.completed(job, 2)

    assert b"[DONE]" not in viewer.body
    assert b"error" not in viewer.body
    assert (await first.finished()).body.endswith(b"[DONE]\n\n")
    assert not await it.log.is_cancelled(job.id, since=0)


async def test_viewers_hear_that_the_job_was_cancelled(it: Api) -> None:
    first, job = await streaming(it)
    await it.chunk(job, 1, "one")
    viewer = await watch(it, job.id).contains(b"one")

    first.leave()
    await first.finished()
    late = await watch(it, job.id).finished()

    assert b"data: one\n" in late.body
    for each in (await viewer.finished(), late):
        assert b"The job was cancelled." in each.body
        assert b"[DONE]" not in each.body


async def test_a_failure_comes_in_band_with_its_number(it: Api) -> None:
    first, job = await streaming(it)
    await it.chunk(job, 1, "one")
    await it.failed(job, errors.WorkerLost("lost"), 2)
    await first.finished()

    viewer = await watch(it, job.id, last="1").finished()
    nothing_new = await watch(it, job.id, last="2").finished()

    (failure,) = frames(viewer.body)
    assert viewer.status == 200
    assert b'"code":"502"' in failure
    assert failure.endswith(b"\nid: %b:2" % job.id.encode())
    assert frames(nothing_new.body) == []


async def test_a_job_past_its_deadline_is_not_waited_for_any_longer(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.relay._GRACE", 0.0)
    monkeypatch.setattr("api.relay._UNWATCHED", 0.0)
    job_id = uuid7()
    meta = {"key": "", "stream": True, "deadline": time.time() + 0.1, "accepted_at": time.time()}
    await it.log.mark_started(Event(job_id, 0, Kind.ACCEPTED, meta=meta))

    viewer = await watch(it, job_id).finished()

    assert b'"code":"408"' in viewer.body


async def test_a_job_that_was_no_stream_is_one_frame(it: Api) -> None:
    job_id = uuid7()
    note = Event(job_id, 0, Kind.STARTED, meta={"key": hashed(TENANT), "attempt": 1})
    await it.log.emit("", [note, Event(job_id, 1, Kind.COMPLETED, b'{\r\n  "answer":\n 1}', SERVED)])

    viewer = await watch(it, job_id, key=TENANT).finished()
    again = await watch(it, job_id, last="1", key=TENANT).finished()

    assert frames(viewer.body) == [b'data: {   "answer":  1}\nid: %b:1' % job_id.encode(), b"data: [DONE]"]
    assert frames(again.body) == [b"data: [DONE]"]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("header", "query", "param"),
    [
        ("{other}:1", None, "Last-Event-ID"),
        (":1", None, "Last-Event-ID"),
        ("-1", None, "Last-Event-ID"),
        ("{job}:-1", None, "Last-Event-ID"),
        ("{job}:", None, "Last-Event-ID"),
        ("{job}", None, "Last-Event-ID"),
        ("", None, "Last-Event-ID"),
        ("1.5", None, "Last-Event-ID"),
        ("²", None, "Last-Event-ID"),
        ("9" * 400, None, "Last-Event-ID"),
        ("{job}:5", "1", "Last-Event-ID"),
        (None, "5", "starting_after"),
        (None, "-1", "starting_after"),
        (None, "one", "starting_after"),
        (None, "", "starting_after"),
    ],
)
async def test_a_point_that_is_none_of_this_jobs_is_refused_by_its_name(
    it: Api, header: str | None, query: str | None, param: str, live: bool
) -> None:
    if live:
        _, job = await streaming(it)
        await it.chunk(job, 1, "one")
        await it.chunk(job, 2, "two\n\ndata: three")
        await it.chunk(job, 3, "four")
    else:
        job, _ = await finished_stream(it)
    last = header.format(job=job.id, other=uuid7()) if header is not None else None

    refused = await watch(it, job.id, f"?starting_after={query}" if query is not None else "", last).finished()

    assert (refused.status, refused.error["param"]) == (400, param)
    assert param in refused.error["message"]
    assert len(refused.error["message"]) < 200


async def test_only_its_owner_and_administrators_see_a_job(it: Api) -> None:
    first, job = await streaming(it, TENANT)
    await it.chunk(job, 1, "one")
    await it.completed(job, 2)
    await first.finished()

    statuses = [(await watch(it, job.id, key=key).finished()).status for key in (TENANT, OTHER, KEY, "sk-unknown")]

    assert statuses == [200, 404, 200, 401]


@pytest.mark.parametrize("job_id", ["0192f0c1-2d3e-7abc-8def-000000000001", "nonsense", "%00", "x" * 3000, "{*}"])
async def test_a_job_that_nobody_knows_is_not_found(it: Api, job_id: str) -> None:
    answer = await watch(it, job_id).finished()

    assert (answer.status, answer.error["param"]) == (404, "job_id")


async def test_a_transient_stream_needs_no_store(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job, first = await finished_stream(it)
    monkeypatch.setattr(type(it.backends.store.jobs), "get", _away)

    known = await watch(it, job.id).finished()
    unknown = await watch(it, uuid7()).finished()

    assert (known.status, known.body) == (200, first)
    assert unknown.status == 503


async def _away(*args: object, **options: object) -> None:
    await asyncio.sleep(0)
    raise Unavailable("it is away")
