"""Dead letters over HTTP: what an administrator sees of them, and what running one again does."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.account_records import Actor
from broker.records import DeadLetter, JobRecord, KeyRecord
from shared.errors import Quarantined
from shared.jobs import Ending, Job, JobState, Lane, Leg, Outcome, Status, Usage
from tests.fakes.api import Api, api
from tests.fakes.clock import FakeClock

ALICE = "sk-alice-0000000000"
OWNER = sha256(ALICE.encode()).hexdigest()
NOW = float(int(time.time()))  # the store tells by the real time what has expired
REQUEST = {"model": "chat", "messages": [{"role": "user", "content": "a secret"}]}


def a_job(job_id: str, **fields: Any) -> Job:
    job = Job(
        id=job_id,
        endpoint="chat.completions",
        model="chat",
        route=(Leg("openai", "chat", ("d",)),),
        body=orjson.dumps(REQUEST),
        reply_to="api-1",
        accepted_at=NOW - 60,
        deadline=NOW + 60,
        key=OWNER,
        team="blue",
        user="ann",
        tags=("t",),
        max_retries=1,
        attempt=3,
    )
    return replace(job, **fields)


def a_letter(job: Job, **fields: Any) -> DeadLetter:
    letter = DeadLetter(job.id, job.provider, "crashed 3 workers", job.headers(), job.body, NOW - 1.5)
    return replace(letter, **fields)


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, clock=FakeClock(NOW)) as it:
        await it.backends.store.keys.add(KeyRecord(hash=OWNER, name="sk-...", created_at=NOW), Actor("test"))
        yield it


async def add(it: Api, *letters: DeadLetter) -> None:
    await it.backends.store.dead_letters.add(letters)


async def ids(it: Api, query: str = "") -> list[str]:
    return [each["id"] for each in (await it.ask("GET", f"/v1/dead{query}")).json["data"]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/dead"),
        ("GET", "/v1/dead/a"),
        ("POST", "/v1/dead/a/retry"),
        ("DELETE", "/v1/dead/a"),
        ("DELETE", "/v1/dead"),
    ],
)
async def test_dead_letters_are_an_administrators(it: Api, method: str, path: str) -> None:
    await add(it, a_letter(a_job("a")))

    tenant = await it.ask(method, path, {"authorization": f"Bearer {ALICE}"})
    nobody = await it.ask(method, path, {})

    assert (tenant.status, nobody.status) == (403, 401)
    assert await ids(it) == ["a"]


async def test_letters_are_listed_newest_first_page_by_page_and_by_provider(it: Api) -> None:
    await add(it, *[a_letter(a_job(name), died_at=NOW + number) for number, name in enumerate("abcd")])
    await add(it, a_letter(a_job("e"), provider="mistral"))

    first = (await it.ask("GET", "/v1/dead?provider=openai&limit=3")).json
    second = (await it.ask("GET", f"/v1/dead?provider=openai&limit=3&after={first['last_id']}")).json

    assert [each["id"] for each in first["data"]] == ["d", "c", "b"]
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("d", "b", True)
    assert ([each["id"] for each in second["data"]], second["has_more"]) == (["a"], False)
    assert await ids(it, "?provider=mistral") == ["e"]


async def test_a_letter_tells_why_and_what_was_tried_and_never_the_prompt(it: Api) -> None:
    await add(it, a_letter(a_job("a", lane=Lane.BATCH, durable=True)))
    attempts = [
        Outcome(
            "a", number, NOW - 40 + number, "chat.completions", "chat", "chat", "d", "openai", "gpt", Status.UNKNOWN,
            Usage(3), cost=1_000_000, duration=2.0, error_code="worker_lost", error_message="gone", key=OWNER,
        )
        for number in (1, 2)
    ]  # fmt: skip
    await it.backends.store.record(attempts)

    answer = await it.ask("GET", "/v1/dead/a")

    assert answer.json == {
        "id": "a",
        "object": "dead_letter",
        "provider": "openai",
        "reason": "crashed 3 workers",
        "died_at": NOW - 1.5,
        "model": "chat",
        "lane": "batch",
        "durable": True,
        "attempt": 3,
        "accepted_at": NOW - 60,
        "api_key": OWNER,
        "team": "blue",
        "user": "ann",
        "tags": ["t"],
        "history": [
            {
                "attempt": number,
                "deployment": "d",
                "provider": "openai",
                "status": "unknown",
                "error": {"code": "worker_lost", "message": "gone"},
                "started_at": NOW - 40 + number,
                "duration": 2.0,
                "cost": 0.001,
            }
            for number in (1, 2)
        ],
    }
    assert b"secret" not in answer.body + (await it.ask("GET", "/v1/dead")).body


@pytest.mark.parametrize(
    ("body", "shown"),
    [(orjson.dumps(REQUEST), REQUEST), (b"what?", "what?"), (b"\xff\xfe", "//4="), (b"", None)],
)
async def test_the_request_is_shown_when_it_is_asked_for(it: Api, body: bytes, shown: object) -> None:
    await add(it, a_letter(a_job("a"), body=body))

    assert (await it.ask("GET", "/v1/dead/a?body=true")).json["body"] == shown


async def test_a_request_that_stayed_behind_is_shown_from_where_it_is(it: Api) -> None:
    job = a_job("a", body=b"", claim=True)
    await add(it, a_letter(job))
    await it.log.put_body("a", orjson.dumps(REQUEST), 60)

    assert (await it.ask("GET", "/v1/dead/a?body=true")).json["body"] == REQUEST


async def test_a_letter_that_cannot_be_read_is_shown_as_far_as_it_goes(it: Api) -> None:
    await add(it, DeadLetter("unreadable-1", "openai", "unreadable: ValueError()", b"\xff", b"{}", NOW))

    answer = await it.ask("GET", "/v1/dead/unreadable-1")
    refusal = await it.ask("POST", "/v1/dead/unreadable-1/retry")

    assert (answer.json["reason"], answer.json["model"], answer.json["tags"]) == (
        "unreadable: ValueError()",
        None,
        None,
    )
    assert refusal.status == 400
    assert await ids(it) == ["unreadable-1"]


async def test_a_retry_is_a_new_durable_job_on_the_batch_lane_and_takes_the_letter_away(it: Api) -> None:
    await add(it, a_letter(a_job("a")))

    answer = await it.ask("POST", "/v1/dead/a/retry")

    async with asyncio.timeout(60):
        again = await it.next_job()
    record = await it.backends.store.jobs.get(again.id)
    assert answer.status == 202
    assert (answer.json["id"], answer.json["retry_of"], answer.json["status"]) == (again.id, "a", "queued")
    assert again.id != "a"
    assert (again.durable, again.lane, again.attempt, again.body) == (True, Lane.BATCH, 1, orjson.dumps(REQUEST))
    assert (again.key, again.team, again.user, again.tags, again.max_retries) == (OWNER, "blue", "ann", ("t",), 1)
    assert again.deadline > NOW + 3600
    assert record is not None
    assert record.retry_of == "a"
    assert await ids(it) == []


async def test_a_retry_keeps_the_wishes_of_a_durable_job(it: Api) -> None:
    job = a_job("a", durable=True, redact=True)
    stored = JobRecord(job, JobState.DISPATCHED, priority=7, result_ttl=86_000.0, webhook="https://example.com/hook")
    await it.backends.store.jobs.add(stored)
    error = Quarantined("It crashed 3 workers.").to_wire()
    await it.backends.store.record((), [Ending("a", JobState.FAILED, NOW, 3, error=error)])
    await add(it, a_letter(replace(job, body=b"", claim=True)))

    answer = await it.ask("POST", "/v1/dead/a/retry")

    assert answer.status == 202, answer.body
    record = await it.backends.store.jobs.get(answer.json["id"], bodies=True)
    assert record is not None
    assert (record.priority, record.result_ttl, record.webhook) == (7, 86_000.0, "https://example.com/hook")
    assert record.job.body == orjson.dumps(REQUEST)
    assert record.job.redact


async def test_a_request_that_is_gone_cannot_run_again(it: Api) -> None:
    await add(it, a_letter(a_job("a", body=b"", claim=True)))

    answer = await it.ask("POST", "/v1/dead/a/retry")

    assert (answer.status, "is gone" in answer.error["message"]) == (400, True)
    assert await ids(it) == ["a"]


async def test_a_letter_stays_when_its_retry_finds_the_lane_full(tmp_path: Path) -> None:
    async with api(tmp_path, bound=0, clock=FakeClock(NOW)) as it:
        await it.backends.store.keys.add(KeyRecord(hash=OWNER, name="sk-...", created_at=NOW), Actor("test"))
        await add(it, a_letter(a_job("a")))

        answer = await it.ask("POST", "/v1/dead/a/retry")

        assert answer.status == 429
        assert await ids(it) == ["a"]


async def test_a_letter_can_be_thrown_away(it: Api) -> None:
    await add(it, a_letter(a_job("a")), a_letter(a_job("b")))

    first, second = [await it.ask("DELETE", "/v1/dead/a") for _ in range(2)]

    assert first.json == {"id": "a", "object": "dead_letter", "deleted": True}
    assert second.status == 404
    assert await ids(it) == ["b"]


@pytest.mark.parametrize(("query", "deleted", "left"), [("", 3, []), ("?provider=openai", 2, ["c"])])
async def test_letters_can_be_thrown_away_together(it: Api, query: str, deleted: int, left: list[str]) -> None:
    await add(it, a_letter(a_job("a")), a_letter(a_job("b")), a_letter(a_job("c"), provider="mistral"))

    answer = await it.ask("DELETE", f"/v1/dead{query}")

    assert answer.json["deleted"] == deleted
    assert await ids(it) == left


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/dead/none", 404),
        ("POST", "/v1/dead/none/retry", 404),
        ("DELETE", "/v1/dead/none", 404),
        ("GET", "/v1/dead/" + "x" * 5000, 404),
        ("GET", "/v1/dead?limit=0", 400),
        ("GET", "/v1/dead?limit=101", 400),
        ("GET", "/v1/dead?after=" + "x" * 101, 400),
        ("DELETE", "/v1/dead?provider=", 400),
        ("DELETE", "/v1/dead/", 404),
    ],
)
async def test_what_is_not_there_or_makes_no_sense_is_refused(it: Api, method: str, path: str, status: int) -> None:
    await add(it, a_letter(a_job("a")))

    answer = await it.ask(method, path)

    assert answer.status == status
    assert await ids(it) == ["a"]
