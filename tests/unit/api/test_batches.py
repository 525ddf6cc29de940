"""Batches over HTTP, on SQLite: OpenAI's objects and errors, and what Headrace has beyond them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types import Batch

from broker.records import BatchStatus, JobRecord, Progress
from shared.errors import InvalidRequest
from shared.jobs import Ending, Job, JobState
from tests.fakes import asgi, tenants
from tests.fakes.api import Api, api
from tests.fakes.asgi import Exchange
from tests.providers.openai_schema import check_object

ME = {"x-tenant": "me"}
CHAT = "/v1/chat/completions"
REQUESTS = [{"custom_id": f"c-{n}", "body": {"model": "chat", "messages": []}} for n in range(3)]
WEBHOOK_SECRET = "whsec_" + "A" * 32


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, webhook_secret=WEBHOOK_SECRET) as opened:
        tenants.admit(opened.app)
        yield opened


async def create(it: Api, tenant: str = "me", **fields: Any) -> Exchange:
    """Start a batch; whatever is not given is fine."""
    order = {"endpoint": CHAT, "completion_window": "24h", "requests": REQUESTS, **fields}
    given = {name: value for name, value in order.items() if value is not ...}
    return await it.ask("POST", "/v1/batches", {"x-tenant": tenant}, orjson.dumps(given))


async def get(it: Api, path: str, tenant: str = "me") -> Exchange:
    return await it.ask("GET", path, {"x-tenant": tenant})


async def upload(it: Api, purpose: str = "batch", tenant: str = "me") -> str:
    """The id of a file with a line."""
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n%b\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n{}\n\r\n--b--\r\n'
    ) % purpose.encode()
    headers = {"content-type": "multipart/form-data; boundary=b", "x-tenant": tenant}
    file_id = (await it.ask("POST", "/v1/files", headers, form)).json["id"]
    assert isinstance(file_id, str)
    return file_id


def line(batch: dict[str, Any], number: int, state: JobState, **ending: Any) -> JobRecord:
    job = Job(f"{batch['id']}-{number}", "chat.completions", "chat", (), b"", "", 1.0, 2e9, key="me", durable=True)
    end = Ending(job.id, state, 5.0, 1, **ending)
    return JobRecord(job, state, batch_id=batch["id"], line=number, custom_id=f"c-{number}", ending=end, moved_at=5.0)


async def run_lines(it: Api, batch: dict[str, Any], *lines: JobRecord) -> None:
    """Let the lines of a new batch have ended."""
    queued = [replace(each, state=JobState.QUEUED, ending=None) for each in lines]
    batches = it.backends.store.batches
    assert await batches.take_in(batch["id"], queued, Progress(len(lines), 100))
    await batches.move(batch["id"], BatchStatus.IN_PROGRESS, 4.0, expected=[BatchStatus.VALIDATING])
    await it.backends.store.record([], [each.ending for each in lines if each.ending is not None])


async def test_a_new_batch_is_openais_object(it: Api) -> None:
    file_id = await upload(it)

    answer = await create(it, requests=..., input_file_id=file_id, metadata={"team": "search"})

    assert answer.status == 200
    batch = Batch.model_validate(answer.json, strict=True)
    assert (batch.status, batch.input_file_id, batch.endpoint) == ("validating", file_id, CHAT)
    assert batch.expires_at == batch.created_at + 86_400
    assert batch.metadata == {"team": "search"}
    check_object("Batch", answer.body)
    assert batch.request_counts is not None and batch.request_counts.total == 0
    assert (await get(it, f"/v1/batches/{batch.id}")).json == answer.json


async def test_inline_requests_become_a_file_of_lines(it: Api) -> None:
    batch = (await create(it)).json

    content = (await get(it, f"/v1/files/{batch['input_file_id']}/content")).body
    file = (await get(it, f"/v1/files/{batch['input_file_id']}")).json

    assert [orjson.loads(each) for each in content.splitlines()] == [
        {"method": "POST", "url": CHAT, **request} for request in REQUESTS
    ]
    assert (file["purpose"], file["bytes"]) == ("batch", len(content))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"endpoint": ...}, "endpoint", "Missing required parameter: 'endpoint'."),
        ({"endpoint": "/v1/nothing"}, "endpoint", "Supported values are: '/v1/chat/completions'"),
        ({"endpoint": 1}, "endpoint", "expected a string"),
        ({"completion_window": ...}, "completion_window", "Missing required parameter"),
        ({"completion_window": "8d"}, "completion_window", "'24h'"),
        ({"requests": ...}, "input_file_id", "Missing required parameter: 'input_file_id'."),
        ({"requests": []}, "requests", "at least one"),
        ({"requests": ["text"]}, "requests", "array of objects"),
        ({"requests": [{}] * 50_001}, "requests", "at most 50000"),
        ({"input_file_id": "file-1"}, "requests", "not both"),
        ({"metadata": {"k": 1}}, "metadata.k", "expected a string"),
        ({"metadata": {"priority": "much"}}, "metadata.priority", "-100 to 100"),
        ({"metadata": {"deadline": "2001-01-01"}}, "metadata.deadline", "passed"),
        ({"metadata": {"webhook": "ftp://x.example"}}, "metadata.webhook", "metadata.webhook"),
        ({"metadata": {"webhook": "http://127.0.0.1/"}}, "metadata.webhook", "metadata.webhook"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds", "between"),
    ],
)
async def test_a_wrong_order_says_what_is_wrong(it: Api, fields: dict[str, Any], param: str, words: str) -> None:
    answer = await create(it, **fields)

    assert (answer.status, answer.error["param"]) == (400, param)
    assert words in answer.error["message"]
    assert (await get(it, "/v1/batches")).json["data"] == (await get(it, "/v1/files")).json["data"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"'])
async def test_an_order_that_is_no_json_object_is_refused(it: Api, body: bytes) -> None:
    answer = await it.ask("POST", "/v1/batches", ME, body)

    assert (answer.status, answer.error["param"]) == (400, "request_body")


async def test_a_file_of_another_purpose_is_refused(it: Api) -> None:
    answer = await create(it, requests=..., input_file_id=await upload(it, "user_data"))

    assert (answer.status, answer.error["param"]) == (400, "input_file_id")
    assert "Expected 'batch'" in answer.error["message"]


@pytest.mark.parametrize("tenant", ["me", "stranger"])
async def test_a_missing_file_and_another_tenants_are_the_same(it: Api, tenant: str) -> None:
    file_id = await upload(it, tenant="somebody")

    answer = await create(it, tenant, requests=..., input_file_id=file_id)

    assert (answer.status, answer.error["message"]) == (404, f"No such File object: {file_id}")


async def test_a_webhook_needs_a_server_that_can_sign(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        tenants.admit(it.app)

        answer = await create(it, metadata={"webhook": "https://hooks.example/x"})

    assert answer.status == 400 and "HEADRACE_WEBHOOK_SECRET" in answer.error["message"]


async def test_priority_deadline_and_webhook_are_kept_for_those_who_need_them(it: Api) -> None:
    pairs = {"priority": "7", "deadline": "4000000000", "webhook": "https://hooks.example/x"}

    batch = (await create(it, metadata=pairs, output_expires_after={"anchor": "created_at", "seconds": 3600})).json

    record = await it.backends.store.batches.get(batch["id"])
    assert record is not None and batch["metadata"] == pairs
    assert (record.priority, record.webhook, record.output_expires_after) == (7, "https://hooks.example/x", 3600.0)
    assert record.expires_at == record.created_at + 86_400


async def test_batches_are_listed_in_pages(it: Api) -> None:
    ids = [(await create(it)).json["id"] for _ in range(3)]

    answer = await get(it, "/v1/batches?limit=2")
    page = answer.json
    rest = (await get(it, f"/v1/batches?limit=2&after={page['last_id']}")).json

    check_object("ListBatchesResponse", answer.body)
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[:0:-1], True)
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([ids[0]], False)


@pytest.mark.parametrize("path", ["", "/cancel", "/events", "/output", "/errors"])
async def test_another_tenants_batch_is_as_good_as_not_there(it: Api, path: str) -> None:
    batch_id = (await create(it)).json["id"]

    method = "POST" if path == "/cancel" else "GET"
    answer = await it.ask(method, f"/v1/batches/{batch_id}{path}", {"x-tenant": "stranger"})

    assert (answer.status, answer.error["message"]) == (404, f"No batch found with id '{batch_id}'.")
    assert (await get(it, "/v1/batches", "stranger")).json["data"] == []
    assert (await get(it, f"/v1/batches/{batch_id}", "")).json["status"] == "validating"


async def test_a_batch_is_cancelled_once(it: Api) -> None:
    batch_id = (await create(it)).json["id"]

    cancelled = await it.ask("POST", f"/v1/batches/{batch_id}/cancel", ME)
    again = await it.ask("POST", f"/v1/batches/{batch_id}/cancel", ME)

    assert Batch.model_validate(cancelled.json, strict=True).status == "cancelling"
    assert cancelled.json["cancelling_at"] is not None
    assert (again.status, again.error["message"]) == (400, "Cannot cancel a batch with status 'cancelling'.")


@pytest.mark.parametrize("status", [BatchStatus.CANCELLED, BatchStatus.COMPLETED, BatchStatus.FAILED])
async def test_a_batch_that_is_over_cannot_be_cancelled(it: Api, status: BatchStatus) -> None:
    batch_id = (await create(it)).json["id"]
    await it.backends.store.batches.move(batch_id, status, 1.0, expected=[BatchStatus.VALIDATING])

    answer = await it.ask("POST", f"/v1/batches/{batch_id}/cancel", ME)

    assert (answer.status, answer.error["message"]) == (400, f"Cannot cancel a batch with status '{status}'.")


async def test_a_running_batch_gives_its_lines_so_far(it: Api) -> None:
    batch = (await create(it)).json
    error = InvalidRequest("bad line").to_wire()
    await run_lines(
        it,
        batch,
        line(batch, 1, JobState.COMPLETED, answer=b'{"n":\n1}'),
        line(batch, 2, JobState.FAILED, error=error),
        line(batch, 3, JobState.COMPLETED, answer=b'{"n": 3}'),
        line(batch, 4, JobState.EXPIRED),
    )

    output = [orjson.loads(each) for each in (await get(it, f"/v1/batches/{batch['id']}/output")).body.splitlines()]
    errors = [orjson.loads(each) for each in (await get(it, f"/v1/batches/{batch['id']}/errors")).body.splitlines()]

    assert [(row["custom_id"], row["response"]["body"]) for row in output] == [("c-1", {"n": 1}), ("c-3", {"n": 3})]
    assert [(row["custom_id"], row["line"]) for row in errors] == [("c-2", 2), ("c-4", 4)]
    assert errors[0]["response"]["status_code"] == 400 and errors[1]["error"]["code"] == "batch_expired"


async def test_a_finished_batch_gives_its_file(it: Api) -> None:
    batch_id = (await create(it)).json["id"]
    file_id = await upload(it)
    await it.backends.store.batches.move(
        batch_id, BatchStatus.COMPLETED, 1.0, expected=[BatchStatus.VALIDATING], output_file_id=file_id
    )

    output = await get(it, f"/v1/batches/{batch_id}/output")
    errors = await get(it, f"/v1/batches/{batch_id}/errors")

    assert (output.body, errors.body) == (b"{}\n", b"")


def events(exchange: Exchange) -> list[tuple[str, int, dict[str, Any]]]:
    """Name, number and data of each event that has come."""
    found = []
    for frame in exchange.body.decode().replace(": keep-alive\n", "").split("\n\n")[:-1]:
        name, number, data = (each.partition(": ")[2] for each in frame.split("\n"))
        found.append((name, int(number), orjson.loads(data)))
    return found


async def test_progress_is_told_until_the_batch_is_done(it: Api) -> None:
    batch = (await create(it)).json
    batches = it.backends.store.batches

    watching = asgi.start(it.app, "GET", f"/v1/batches/{batch['id']}/events", b"", ME)
    await watching.contains(b"validating")
    await run_lines(it, batch, line(batch, 1, JobState.FAILED), line(batch, 2, JobState.COMPLETED, cost=2_000_000_000))
    await watching.contains(b"in_progress")
    await batches.move(batch["id"], BatchStatus.COMPLETED, 9.0, expected=[BatchStatus.IN_PROGRESS])
    await watching.finished()

    told = events(watching)
    assert watching.headers["content-type"].startswith("text/event-stream")
    assert [number for _, number, _ in told] == list(range(1, len(told) + 1))
    assert [name for name, _, _ in told] == ["progress"] * (len(told) - 1) + ["done"]
    _, _, last = told[-1]
    assert Batch.model_validate(last).request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}  # type: ignore[union-attr]
    assert (last["progress"]["cost"], last["progress"]["errors"]) == (2.0, 1)


async def test_a_finished_batch_is_done_at_once(it: Api) -> None:
    batch_id = (await create(it)).json["id"]
    await it.backends.store.batches.move(batch_id, BatchStatus.FAILED, 1.0, expected=[BatchStatus.VALIDATING])

    told = events(await get(it, f"/v1/batches/{batch_id}/events"))

    assert [(name, data["status"]) for name, _, data in told] == [("done", "failed")]


# Idempotency-Key


async def keyed(it: Api, key: str, tenant: str = "me", **fields: Any) -> Exchange:
    order = {"endpoint": CHAT, "completion_window": "24h", "requests": REQUESTS, **fields}
    return await it.ask("POST", "/v1/batches", {"x-tenant": tenant, "idempotency-key": key}, orjson.dumps(order))


async def files(it: Api) -> list[str]:
    return [file["id"] for file in (await get(it, "/v1/files")).json["data"]]


async def test_the_same_request_under_a_key_is_the_same_batch(it: Api) -> None:
    first, second = await keyed(it, "k"), await keyed(it, "k")

    assert (first.status, second.status, second.json) == (200, 200, first.json)
    assert "x-headrace-idempotent-replayed" not in first.headers
    assert second.headers["x-headrace-idempotent-replayed"] == "true"
    assert await files(it) == [first.json["input_file_id"]]


async def test_the_batch_is_given_as_it_is_now(it: Api) -> None:
    first = (await keyed(it, "k")).json
    await it.ask("POST", f"/v1/batches/{first['id']}/cancel", ME)

    assert (await keyed(it, "k")).json["status"] == "cancelling"


async def test_another_request_under_the_key_is_refused(it: Api) -> None:
    await keyed(it, "k")

    second = await keyed(it, "k", metadata={"a": "b"})

    assert (second.status, second.error["param"]) == (422, "idempotency-key")
    assert len((await get(it, "/v1/batches")).json["data"]) == 1


async def test_keys_and_owners_keep_batches_apart(it: Api) -> None:
    made = [await keyed(it, "k"), await keyed(it, "l"), await keyed(it, "k", tenant="you"), await create(it)]

    assert len({each.json["id"] for each in made}) == 4


@pytest.mark.parametrize("inline", [True, False])
async def test_of_two_at_once_under_a_key_one_is_made_and_no_file_is_left_or_lost(
    it: Api, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    mine, other = await upload(it), await upload(it)
    first = await keyed(it, "k") if inline else await keyed(it, "k", requests=None, input_file_id=mine)
    before = await files(it)

    async def nobody(owner: str, key: str) -> None:
        """The first request was not seen yet."""

    monkeypatch.setattr(it.backends.store.batches, "keyed", nobody)
    second = await keyed(it, "k") if inline else await keyed(it, "k", requests=None, input_file_id=other)

    assert (second.status, second.json if inline else 422) == (200 if inline else 422, first.json if inline else 422)
    assert await files(it) == before


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_a_400(it: Api, key: str) -> None:
    assert (await keyed(it, key)).error["param"] == "idempotency-key"
