"""`GET /v1/jobs/{id}/events` of jobs that have a row in the store, which outlives their log."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api import job_follower
from broker.events.memory import MemoryEventLog
from broker.records import JobRecord
from shared import errors
from shared.errors import AppError, Unavailable
from shared.events import Event, Kind
from shared.ids import uuid7
from shared.jobs import Ending, Job, JobState, Leg
from tests.fakes.api import SERVED, Api
from tests.unit.api.viewers import OTHER, TENANT, api_with_tenants, frames, hashed, watch

NOW = time.time()


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api_with_tenants(tmp_path) as running:
        yield running


def a_record(stream: bool = True, **fields: Any) -> JobRecord:
    job = Job(
        id=uuid7(),
        endpoint="chat.completions",
        model="chat",
        route=(Leg("openai", "chat", ("d",)),),
        body=b"{}",
        reply_to="",
        accepted_at=NOW,
        deadline=NOW + 3600,
        stream=stream,
        key=hashed(TENANT),
        durable=True,
    )
    return JobRecord(job, JobState.DISPATCHED, **fields)


def completed(record: JobRecord) -> Ending:
    """Of a stream: three frames, as its worker made them."""
    stream = b"data: one\n\ndata: two\n\ndata: three\n\ndata: [DONE]\n\n"
    answer = stream if record.job.stream else b'{"answer": 1}'
    return Ending(record.job.id, JobState.COMPLETED, time.time(), attempts=1, answer=answer, served=SERVED)


def failed(record: JobRecord, error: AppError, answer: bytes = b"") -> Ending:
    return Ending(record.job.id, JobState.FAILED, time.time(), attempts=1, answer=answer, error=error.to_wire())


def numbered(record: JobRecord, *texts: str, first: int = 1) -> list[bytes]:
    job_id = record.job.id.encode()
    return [b"data: %b\nid: %b:%d" % (text.encode(), job_id, at) for at, text in enumerate(texts, first)]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_stream_whose_log_is_gone_is_replayed_from_the_store(it: Api, after: int) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    await it.backends.store.record([], [completed(record)])

    viewer = await watch(it, record.job.id, last=f"{record.job.id}:{after}", key=TENANT).finished()

    assert frames(viewer.body) == [*numbered(record, "one", "two", "three")[after:], b"data: [DONE]"]


async def test_points_beyond_a_stored_stream_are_refused(it: Api) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    await it.backends.store.record([], [completed(record)])

    assert (await watch(it, record.job.id, last="4").finished()).status == 400


async def test_a_viewer_whose_frames_the_log_has_lost_waits_for_the_stored_stream(
    it: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_follower, "_LOOK", 0.05)
    record = a_record()
    await it.backends.store.jobs.add(record)

    viewer = watch(it, record.job.id, last="2")
    await viewer.contains(b"id: %b:2\n" % record.job.id.encode())
    await it.backends.store.record([], [completed(record)])

    assert frames((await viewer.finished()).body) == [*numbered(record, "three", first=3), b"data: [DONE]"]


async def test_a_point_beyond_a_stream_that_goes_on_is_refused(it: Api) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    it.log.mark_started(Event(record.job.id, 0, Kind.STARTED, meta={"attempt": 1, "worker": "w", "key": ""}))
    await it.chunk(record.job, 1, "one")

    assert (await watch(it, record.job.id, last="2").finished()).status == 400


async def test_a_stored_answer_that_was_no_stream_is_one_frame(it: Api) -> None:
    record = a_record(stream=False)
    await it.backends.store.jobs.add(record)
    await it.backends.store.record([], [completed(record)])

    viewer = await watch(it, record.job.id).finished()

    assert frames(viewer.body) == [*numbered(record, '{"answer": 1}'), b"data: [DONE]"]


async def test_a_stored_failure_follows_what_came_before_it(it: Api) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    ending = failed(record, errors.WorkerLost("lost"), b"data: one\n\n")
    await it.backends.store.record([], [ending])

    viewer = await watch(it, record.job.id).finished()

    one, failure = frames(viewer.body)
    assert [one] == numbered(record, "one")
    assert b'"code":"502"' in failure
    assert failure.endswith(b":2")


async def test_a_stored_stream_that_was_cut_off_does_not_pretend_to_be_whole(it: Api) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    cut = replace(completed(record), answer=b'data: one\n\ndata: {"error": "not kept"}\n\n')
    await it.backends.store.record([], [cut])

    viewer = await watch(it, record.job.id).finished()

    assert frames(viewer.body) == numbered(record, "one", '{"error": "not kept"}')


@pytest.mark.parametrize("seen", [0, 1, 2])
async def test_a_job_whose_end_is_not_in_the_log_ends_with_what_the_store_has(
    it: Api, monkeypatch: pytest.MonkeyPatch, seen: int
) -> None:
    """The reaper ended it, or its log was flushed: whoever waits for the log hears of it all the same."""
    monkeypatch.setattr("api.job_follower._LOOK", 0.12)
    record = a_record()
    await it.backends.store.jobs.add(record)
    viewer = await watch(it, record.job.id, key=TENANT).contains(b": keep-alive\n")
    data = [b"data: one\n\ndata: two\n\n", b"data: three\n\n"]
    for seq in range(1, seen + 1):
        await it.log.emit("", [Event(record.job.id, seq, Kind.CHUNK, data[seq - 1])])

    await it.backends.store.record([], [completed(record)])

    assert frames((await viewer.finished()).body) == [*numbered(record, "one", "two", "three"), b"data: [DONE]"]


async def test_a_running_durable_stream_is_followed_live(it: Api) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    viewers = [watch(it, record.job.id, key=TENANT), watch(it, record.job.id)]
    await it.log.emit("", [Event(record.job.id, 0, Kind.STARTED, meta={"key": hashed(TENANT), "attempt": 1})])
    await it.chunk(record.job, 1, "one")
    for viewer in viewers:
        await viewer.contains(b"one")
    late = watch(it, record.job.id, last="1", key=TENANT)
    stranger = await watch(it, record.job.id, key=OTHER).finished()
    await it.completed(record.job, 2)

    seen = [frames((await viewer.finished()).body) for viewer in (*viewers, late)]

    whole = [*numbered(record, "one"), b"data: [DONE]"]
    assert seen == [whole, whole, whole[1:]]
    assert stranger.status == 404


async def test_the_log_does_not_tell_of_a_durable_job_whose_result_has_expired(it: Api) -> None:
    record = a_record()
    end = {"state": "completed", "at": NOW, "attempts": 1, "cost": 0}
    started = Event(record.job.id, 0, Kind.STARTED, meta={"key": hashed(TENANT), "attempt": 1})
    await it.log.emit("", [started, Event(record.job.id, 1, Kind.COMPLETED, b"{}", {**SERVED, "end": end})])

    assert (await watch(it, record.job.id, key=TENANT).finished()).status == 404


async def test_a_stored_answer_needs_no_log(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    record = a_record()
    await it.backends.store.jobs.add(record)
    monkeypatch.setattr(MemoryEventLog, "replay", _away)
    unfinished = await watch(it, record.job.id).finished()
    await it.backends.store.record([], [completed(record)])

    finished = await watch(it, record.job.id).finished()

    assert (unfinished.status, finished.status) == (503, 200)
    assert len(frames(finished.body)) == 4


async def _away(*args: object, **options: object) -> None:
    await asyncio.sleep(0)
    raise Unavailable("it is away")
