"""What can be asked and done about jobs over HTTP, and by whom."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.records import JobRecord
from shared.error_bodies import body_of
from shared.errors import Unavailable, UpstreamOverloaded
from shared.events import Event, Kind
from shared.jobs import Job, JobState, Status, Usage
from tests.fakes.api import AUTHORIZED, Api, api
from tests.unit.api.durable_jobs import ANSWER, accepted, begin, end, row

CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as running:
        yield running


async def get(it: Api, job: Job | str, headers: dict[str, str] | None = None) -> Any:
    exchange = await it.ask("GET", f"/v1/jobs/{job if isinstance(job, str) else job.id}", headers)
    return exchange.json if exchange.status == 200 else exchange.status


async def stranger(it: Api) -> dict[str, str]:
    made = (await it.ask("POST", "/key/generate", body=b"{}")).json
    return {"authorization": f"Bearer {made['key']}"}


async def dispatched(it: Api, job: Job) -> None:
    """Wait until the store knows that the job is on its lane."""
    while True:
        record = await it.backends.store.jobs.get(job.id)
        assert record is not None
        if record.state is not JobState.QUEUED:
            return
        await asyncio.sleep(0.005)


# Looking


async def test_a_queued_job_says_what_it_is_and_where_it_stands(it: Api) -> None:
    await it.worker.pause("openai", 60)
    await accepted(it)
    job = await accepted(it, {"x-headrace-priority": "3"}, user="u", tags=["a"])

    found = await get(it, job)

    assert found["id"] == job.id
    assert (found["object"], found["status"], found["endpoint"]) == ("job", "queued", "/v1/chat/completions")
    assert (found["model"], found["user"], found["tags"], found["priority"]) == ("chat", "u", ["a"], 3)
    assert (found["created_at"], found["deadline"]) == (round(job.accepted_at, 3), round(job.deadline, 3))
    assert found["position"] in (0, 1)
    assert found["estimated_start"] >= found["created_at"]
    assert (found["started_at"], found["finished_at"], found["expires_at"]) == (None, None, None)
    assert (found["attempts"], found["history"], found["result"], found["error"]) == (0, [], None, None)


async def test_a_job_that_a_worker_began_is_in_progress(it: Api) -> None:
    job = await accepted(it)
    await begin(it, job)

    found = await get(it, job)

    assert (found["status"], found["attempts"], found["position"]) == ("in_progress", 1, None)
    assert found["started_at"] == round(job.accepted_at + 1, 3)
    assert [(each["attempt"], each["deployment"], each["status"]) for each in found["history"]] == [
        (1, "d", "in_progress")
    ]


async def test_a_completed_job_has_its_answer_and_its_attempts(it: Api) -> None:
    job = await accepted(it)
    failed = row(job, 1, Status.FAILURE, error_code="upstream_overloaded", error_message="busy")
    await end(it, job, JobState.COMPLETED, failed, row(job, 2, Status.SUCCESS), attempts=2)

    found = await get(it, job)

    assert (found["status"], found["result"], found["error"]) == ("completed", orjson.loads(ANSWER), None)
    assert found["finished_at"] == round(job.accepted_at + 10, 3)
    assert found["expires_at"] == pytest.approx(found["finished_at"] + 86_400)
    assert found["attempts"] == 2
    assert [(each["status"], each["error"]) for each in found["history"]] == [
        ("failure", {"code": "upstream_overloaded", "message": "busy"}), ("success", None),
    ]  # fmt: skip


async def test_an_answer_that_the_store_does_not_have_yet_is_shown_from_the_log(it: Api) -> None:
    job = await accepted(it)
    await begin(it, job)
    await it.completed(job, body=ANSWER)

    found = await get(it, job)

    assert (found["status"], found["result"]) == ("completed", orjson.loads(ANSWER))


async def test_a_failed_job_has_openais_error(it: Api) -> None:
    job = await accepted(it)
    error = UpstreamOverloaded("busy", provider="openai")
    await end(it, job, JobState.FAILED, error=error.to_wire())

    found = await get(it, job)

    assert (found["status"], found["result"]) == ("failed", None)
    assert found["error"] == orjson.loads(body_of(error))["error"]


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_streams_answer_is_folded_into_one_completion(it: Api, recorded: bool) -> None:
    job = await accepted(it, stream=True)
    events = [
        Event(job.id, 1, Kind.CHUNK, CHUNK % (b"Hello ", b"null"), {}),
        Event(job.id, 2, Kind.CHUNK, CHUNK % (b"world", b'"stop"')),
        Event(job.id, 3, Kind.COMPLETED, meta={}),
    ]
    await it.log.emit(job.reply_to, events)
    if recorded:
        await end(it, job, answer=b"".join(event.data for event in events[:2]) + b"data: [DONE]\n\n")

    found = await get(it, job)

    assert (found["status"], found["stream"]) == ("completed", True)
    assert found["result"]["object"] == "chat.completion"
    assert found["result"]["choices"][0]["message"]["content"] == "Hello world"


async def test_another_tenants_job_is_not_there(it: Api) -> None:
    other = await stranger(it)
    job = await accepted(it)

    statuses = [
        (await it.ask(method, f"/v1/jobs/{job.id}{path}", other)).status
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/retry"))
    ]

    assert statuses == [404, 404, 404]
    assert (await it.ask("GET", "/v1/jobs", other)).json["data"] == []
    assert (await get(it, job))["status"] == "queued"


async def test_the_administrator_sees_everybodys_jobs(it: Api) -> None:
    job = await accepted(it, await stranger(it))

    assert (await get(it, job))["id"] == job.id


@pytest.mark.parametrize("job_id", ["unknown", "x" * 5000, "%00", "01a20304-7184-71e4-8a0d-662ec652fa74"])
async def test_an_unknown_job_is_a_404(it: Api, job_id: str) -> None:
    assert await get(it, job_id) == 404


async def test_without_a_key_nobody_sees_anything(it: Api) -> None:
    assert [(await it.ask("GET", path, {})).status for path in ("/v1/jobs", "/v1/jobs/x")] == [401, 401]


async def test_a_transient_stream_is_known_by_its_log(it: Api) -> None:
    other = await stranger(it)
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await begin(it, job)
    running = await get(it, job)
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, CHUNK % (b"Hi", b'"stop"'), {"deployment": "d"})])
    await it.log.emit(job.reply_to, [Event(job.id, 2, Kind.COMPLETED, meta={})])
    exchange.leave()
    await exchange.finished()

    found = await get(it, job)

    assert (running["status"], running["model"]) == ("in_progress", "chat")
    assert (found["status"], found["result"]["choices"][0]["message"]["content"]) == ("completed", "Hi")
    assert await get(it, job, other) == 404


async def test_a_transient_answer_is_known_by_what_it_cost_whom(it: Api) -> None:
    other = await stranger(it)
    exchange = it.chat()
    job = await it.next_job()
    outcome = row(job, 1, Status.SUCCESS, usage=Usage(1), duration=0.5)
    await it.log.emit(job.reply_to, [Event(job.id, 1, Kind.COMPLETED, ANSWER, {"outcome": outcome})])
    exchange.leave()
    await exchange.finished()

    found = await get(it, job)

    assert (found["status"], found["result"], found["deadline"]) == ("completed", orjson.loads(ANSWER), None)
    assert found["finished_at"] == pytest.approx(job.accepted_at + 1.5, abs=0.01)
    assert await get(it, job, other) == 404


async def test_while_the_log_is_away_the_store_tells_what_it_knows(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await accepted(it)

    async def away(*_: object) -> None:
        raise Unavailable("Redis is away")

    monkeypatch.setattr(it.log, "replay", away)

    assert (await get(it, job))["status"] == "queued"


# Listing


async def test_jobs_are_listed_newest_first_and_page_by_page(it: Api) -> None:
    jobs = [(await accepted(it)).id for _ in range(5)]

    first = (await it.ask("GET", "/v1/jobs?limit=3")).json
    second = (await it.ask("GET", f"/v1/jobs?limit=3&after={first['last_id']}")).json

    assert [job["id"] for job in first["data"] + second["data"]] == jobs[::-1]
    assert (first["object"], first["first_id"], first["has_more"]) == ("list", jobs[4], True)
    assert (second["last_id"], second["has_more"]) == (jobs[0], False)


async def test_a_full_last_page_says_that_nothing_follows(it: Api) -> None:
    for _ in range(2):
        await accepted(it)

    assert (await it.ask("GET", "/v1/jobs?limit=2")).json["has_more"] is False


async def test_queued_and_running_jobs_are_told_apart(it: Api) -> None:
    waiting, running, done = [await accepted(it) for _ in range(3)]
    await begin(it, running)
    await end(it, done)
    for job in (waiting, running):
        await dispatched(it, job)

    async def listed(status: str) -> list[str]:
        return [job["id"] for job in (await it.ask("GET", f"/v1/jobs?status={status}")).json["data"]]

    assert await listed("queued") == [waiting.id]
    assert await listed("in_progress") == [running.id]
    assert await listed("completed") == [done.id]
    assert await listed("queued,completed") == [done.id, waiting.id]


async def test_jobs_are_found_by_model_and_text(it: Api) -> None:
    one = await accepted(it, user="anna")
    two = await accepted(it, model="any/thing", tags=["nightly"])

    async def listed(query: str) -> list[str]:
        return [job["id"] for job in (await it.ask("GET", f"/v1/jobs?{query}")).json["data"]]

    assert await listed("model=chat") == [one.id]
    assert await listed("search=anna") == [one.id]
    assert await listed("search=nightly") == [two.id]
    assert await listed("model=chat&search=nightly") == []


async def test_the_lines_of_a_batch_are_listed_with_their_batch_only(it: Api) -> None:
    job = await accepted(it)
    line = JobRecord(
        replace(job, id=job.id[:-4] + "beef"), JobState.QUEUED, batch_id="batch_1", line=1, custom_id="first"
    )
    await it.backends.store.jobs.add(line)

    everything = (await it.ask("GET", "/v1/jobs")).json["data"]
    of_the_batch = (await it.ask("GET", "/v1/jobs?batch=batch_1")).json["data"]

    assert [each["id"] for each in everything] == [job.id]
    assert [(each["custom_id"], each["batch_id"]) for each in of_the_batch] == [("first", "batch_1")]


@pytest.mark.parametrize(
    ("query", "param"), [("status=done", "status"), ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit")]
)
async def test_a_filter_that_means_nothing_is_refused_by_name(it: Api, query: str, param: str) -> None:
    refused = await it.ask("GET", f"/v1/jobs?{query}")

    assert (refused.status, refused.error["param"]) == (400, param)


# Cancelling


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_job_ends_at_once_and_whoever_has_it_hears_of_it(it: Api, begun: bool) -> None:
    job = await accepted(it)
    if begun:
        await begin(it, job)

    cancelled = await it.ask("DELETE", f"/v1/jobs/{job.id}")

    assert (cancelled.status, cancelled.json["status"], cancelled.json["attempts"]) == (200, "cancelled", int(begun))
    assert await it.log.is_cancelled(job.id, since=job.accepted_at)


async def test_cancelling_twice_changes_nothing(it: Api) -> None:
    job = await accepted(it)

    first, second = [(await it.ask("DELETE", f"/v1/jobs/{job.id}")).json for _ in range(2)]

    assert first == second


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_job_that_has_ended_stays_as_it_is(it: Api, recorded: bool) -> None:
    job = await accepted(it)
    await it.completed(job, body=ANSWER)
    if recorded:
        await end(it, job)

    cancelled = await it.ask("DELETE", f"/v1/jobs/{job.id}")

    assert (cancelled.status, cancelled.json["status"]) == (200, "completed")
    assert not await it.log.is_cancelled(job.id, since=job.accepted_at)


async def test_a_transient_stream_can_be_cancelled_by_its_owner(it: Api) -> None:
    exchange = it.chat(stream=True)
    job = await it.next_job()
    await begin(it, job)

    assert (await it.ask("DELETE", f"/v1/jobs/{job.id}", await stranger(it))).status == 404
    assert (await it.ask("DELETE", f"/v1/jobs/{job.id}")).status == 200

    assert await it.log.is_cancelled(job.id, since=job.accepted_at)
    exchange.leave()
    await exchange.finished()


# Retrying


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
async def test_a_job_that_did_not_complete_runs_again_as_a_new_job_of_its_owner(it: Api, state: JobState) -> None:
    owner = await stranger(it)
    headers = {**owner, "x-headrace-priority": "5", "x-headrace-result-ttl": "120", "anthropic-beta": "b"}
    old = await accepted(it, headers, user="u", tags=["a"])
    await it.next_job()
    await end(it, old, state)

    retried = await it.ask("POST", f"/v1/jobs/{old.id}/retry", AUTHORIZED)

    new = await it.next_job()
    record = await it.backends.store.jobs.get(new.id)
    assert record is not None
    assert (retried.status, retried.json["id"], retried.json["retry_of"]) == (202, new.id, old.id)
    assert retried.headers["location"] == f"/v1/jobs/{new.id}"
    assert (new.key, new.customer, new.tags, new.headers_in) == (old.key, "u", ("a",), {"anthropic-beta": "b"})
    assert (new.body, new.accepted_at > old.accepted_at, record.priority, record.result_ttl) == (
        old.body, True, 5, 120,
    )  # fmt: skip


async def test_a_completed_job_runs_again_only_if_it_must(it: Api) -> None:
    job = await accepted(it)
    await end(it, job)

    refused = await it.ask("POST", f"/v1/jobs/{job.id}/retry")
    forced = await it.ask("POST", f"/v1/jobs/{job.id}/retry?force=true")

    assert (refused.status, refused.error["param"], forced.status) == (400, "force", 202)


async def test_a_job_whose_end_only_the_log_knows_yet_is_retried(it: Api) -> None:
    job = await accepted(it)
    await it.failed(job, UpstreamOverloaded("busy"))

    assert (await it.ask("POST", f"/v1/jobs/{job.id}/retry")).status == 202


async def test_a_job_that_goes_on_is_not_retried(it: Api) -> None:
    job = await accepted(it)

    assert (await it.ask("POST", f"/v1/jobs/{job.id}/retry?force=true")).status == 400


async def test_a_job_of_which_only_the_log_knows_cannot_be_retried(it: Api) -> None:
    assert (await it.ask("POST", "/v1/jobs/unknown/retry")).status == 404


async def test_a_retry_under_a_key_is_one_job(it: Api) -> None:
    old = await accepted(it, {"idempotency-key": "asked"})
    await end(it, old, JobState.FAILED, error=UpstreamOverloaded("busy", provider="openai").to_wire())
    path, keyed = f"/v1/jobs/{old.id}/retry", {**AUTHORIZED, "idempotency-key": "k"}

    first, second = await it.ask("POST", path, keyed), await it.ask("POST", path, keyed)
    other = await it.ask("POST", path, {**AUTHORIZED, "idempotency-key": "asked"})

    assert (first.status, second.status, other.status) == (202, 202, 422)
    assert second.json["id"] == first.json["id"] != old.id
    assert "x-headrace-idempotent-replayed" not in first.headers
    assert second.headers["x-headrace-idempotent-replayed"] == "true"
