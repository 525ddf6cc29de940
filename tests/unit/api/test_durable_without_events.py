"""The event log lost how a job ended: whoever waits for the job hears it from the store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api import job_follower
from shared.errors import WorkerLost
from shared.events import Event, Kind
from shared.jobs import Ending, Job, JobState
from tests.fakes.api import Api, api

_WAITING = [{"prefer": "wait=30"}, {"x-headrace-on-disconnect": "continue"}, {"idempotency-key": "k"}]


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(job_follower, "_LOOK", 0.05)
    async with api(tmp_path, keepalive_seconds=0.05) as running:
        yield running


@pytest.mark.parametrize("headers", _WAITING, ids=lambda each: next(iter(each)))
async def test_the_client_that_brought_the_job_gets_its_answer(it: Api, headers: dict[str, str]) -> None:
    exchange = it.chat(headers=headers)
    job = await it.next_job()

    await record(it, Ending(job.id, JobState.COMPLETED, job.accepted_at + 1, 1, answer=b'{"answer": 1}'))

    assert (await exchange.finished()).json == {"answer": 1}


async def test_a_stream_goes_on_with_what_its_client_has_not(it: Api) -> None:
    exchange = it.chat(headers={"x-headrace-on-disconnect": "continue"}, stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")

    stored = chunk(job, 1, "one") + chunk(job, 2, "two") + b"data: [DONE]\n\n"
    await record(it, Ending(job.id, JobState.COMPLETED, job.accepted_at + 1, 1, answer=stored))

    text = (await exchange.finished()).body.decode()
    assert [line for line in text.splitlines() if line.startswith("data: ")] == [
        "data: one",
        "data: two",
        "data: [DONE]",
    ]


async def test_a_stream_that_broke_off_ends_in_band(it: Api) -> None:
    exchange = it.chat(headers={"x-headrace-on-disconnect": "continue"}, stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")

    error = WorkerLost("The worker died in the middle of the stream.").to_wire()
    await record(it, Ending(job.id, JobState.FAILED, job.accepted_at + 1, 1, answer=chunk(job, 1, "one"), error=error))

    text = (await exchange.finished()).body.decode()
    assert text.count("data: one") == 1
    assert "died in the middle" in text


def chunk(job: Job, seq: int, text: str) -> bytes:
    return Event(job.id, seq, Kind.CHUNK, f"data: {text}\n\n".encode()).data


async def record(it: Api, ending: Ending) -> None:
    """What the recorder does; no event tells of it."""
    await it.backends.store.record([], [ending])
