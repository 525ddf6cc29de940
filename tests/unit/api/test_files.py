"""Files over HTTP, on SQLite: OpenAI's objects and errors, and nothing left of an upload that failed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from openai.types import FileDeleted, FileObject
from starlette.types import Message

from tests.fakes import tenants
from tests.fakes.api import AUTHORIZED, Api, api
from tests.fakes.asgi import Exchange
from tests.providers.openai_schema import check_object

TYPE = {"content-type": "multipart/form-data; boundary=frontier"}
LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, max_file_bytes=5 << 20, max_batch_file_bytes=3 << 20) as opened:
        tenants.admit(opened.app)
        yield opened


def field(name: str, value: str) -> bytes:
    return f'--frontier\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def content(data: bytes, filename: str = "lines.jsonl", name: str = "file") -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = b"--frontier--\r\n"
BATCH = field("purpose", "batch")


async def upload(it: Api, *parts: bytes, tenant: str = "me") -> Exchange:
    return await it.ask("POST", "/v1/files", {**TYPE, "x-tenant": tenant}, b"".join(parts) + END)


async def listed(it: Api, query: str = "", tenant: str = "me") -> list[str]:
    answer = await it.ask("GET", f"/v1/files{query}", {"x-tenant": tenant})
    return [each["id"] for each in answer.json["data"]]


async def unfinished(it: Api) -> int:
    """Files that were begun and never finished."""
    return await it.backends.store.files.purge(0.0, abandoned_before=1e12, limit=100)


async def test_an_uploaded_file_is_openais_object(it: Api) -> None:
    answer = await upload(it, BATCH, content(LINE))

    assert answer.status == 200
    file = FileObject.model_validate(answer.json, strict=True)
    assert (file.purpose, file.filename, file.bytes, file.status) == ("batch", "lines.jsonl", len(LINE), "processed")
    assert file.expires_at == file.created_at + 30 * 86_400
    check_object("OpenAIFile", answer.body)


@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 12345])
async def test_a_file_of_any_size_is_read_as_it_was_sent(it: Api, size: int) -> None:
    data = (LINE * (size // len(LINE) + 1))[:size]

    file = (await upload(it, BATCH, content(data))).json
    answer = await it.ask("GET", f"/v1/files/{file['id']}/content", {"x-tenant": "me"})

    assert answer.body == data
    assert answer.headers["content-length"] == str(size) == str(file["bytes"])


async def test_the_form_may_name_the_purpose_and_the_expiry_after_the_file(it: Api) -> None:
    expiry = field("expires_after[anchor]", "created_at"), field("expires_after[seconds]", "3600")

    file = (await upload(it, content(LINE), *expiry, field("purpose", "batch"))).json
    again = (await it.ask("GET", f"/v1/files/{file['id']}", {"x-tenant": "me"})).json

    assert again == file
    assert (file["purpose"], file["expires_at"]) == ("batch", file["created_at"] + 3600)


async def test_a_file_of_another_purpose_may_be_anything_and_is_kept(it: Api) -> None:
    file = (await upload(it, field("purpose", "user_data"), content(b"\x00\xff", "picture.png"))).json

    assert (file["purpose"], file["expires_at"], file["bytes"]) == ("user_data", None, 2)


@pytest.mark.parametrize(
    ("parts", "status", "param", "words"),
    [
        ([BATCH], 400, "file", "Missing required parameter: 'file'"),
        ([content(LINE)], 400, "purpose", "Missing required parameter: 'purpose'"),
        ([field("purpose", "fun"), content(LINE)], 400, "purpose", "'fun' is not one of"),
        ([content(LINE), field("purpose", "batch_output")], 400, "purpose", "is not one of"),
        ([BATCH, content(LINE, "lines.csv")], 400, "file", "Invalid file format for Batch API. Must be .jsonl"),
        ([content(LINE, "lines.csv"), BATCH], 400, "file", "Invalid file format for Batch API. Must be .jsonl"),
        ([BATCH, content(b"")], 400, "file", "empty"),
        ([BATCH, content(b"a,b\n1,2\n")], 400, "file", "Must be .jsonl"),
        ([BATCH, content("{\n}".encode("utf-16"))], 400, "file", "UTF-8"),
        ([BATCH, content(LINE), content(LINE)], 400, "file", "expected one"),
        ([BATCH, content(LINE, name="other")], 400, "other", "named 'file'"),
        ([BATCH, content(LINE), field("expires_after[seconds]", "3600")], 400, "expires_after.anchor", "created_at"),
        (
            [BATCH, content(LINE), field("expires_after[anchor]", "created_at"), field("expires_after[seconds]", "9")],
            400, "expires_after.seconds", "between 3600",
        ),
        ([BATCH, content(b"{" * (3 << 20) + b"{")], 413, "file", "at most 3 MB"),
        ([content(b"{" * (3 << 20) + b"{"), BATCH], 413, "file", "at most 3 MB"),
        ([field("purpose", "evals"), content(b"{" * (5 << 20) + b"{")], 413, "file", "at most 5 MB"),
    ],
)  # fmt: skip
async def test_a_wrong_upload_says_what_is_wrong_and_leaves_nothing(
    it: Api, parts: list[bytes], status: int, param: str, words: str
) -> None:
    answer = await upload(it, *parts)

    assert (answer.status, answer.error["param"]) == (status, param)
    assert words in answer.error["message"]
    assert await unfinished(it) == 0 and await listed(it) == []


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbf" + LINE, b"\r\n" + LINE, b"not json\n" + LINE, b"\n\n  " + LINE, LINE.rstrip()]
)
async def test_what_the_batch_can_sort_out_is_taken(it: Api, data: bytes) -> None:
    assert (await upload(it, BATCH, content(data))).status == 200


async def cut_off(it: Api, sent: bytes) -> Exchange:
    """Send that much of a form, and hang up."""
    exchange = Exchange()
    messages: list[Message] = [
        {"type": "http.request", "body": sent, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    headers: Mapping[str, str] = {**TYPE, "x-tenant": "me"}
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    await it.app(scope, receive, exchange.send)
    return exchange


@pytest.mark.parametrize("megabytes", [0, 2])
async def test_an_upload_whose_connection_is_cut_leaves_nothing(it: Api, megabytes: int) -> None:
    answer = await cut_off(it, BATCH + content(LINE + b"{" * (megabytes << 20))[:-2])

    assert answer.status == 400
    assert await unfinished(it) == 0 and await listed(it) == []


async def test_an_upload_without_its_closing_boundary_leaves_nothing(it: Api) -> None:
    body = BATCH + content(LINE + b"{" * (2 << 20))

    answer = await it.ask("POST", "/v1/files", {**TYPE, "x-tenant": "me"}, body)

    assert answer.status == 400 and "cut off" in answer.error["message"]
    assert await unfinished(it) == 0 and await listed(it) == []


async def test_uploads_beyond_the_limit_are_told_to_come_again(tmp_path: Path) -> None:
    async with api(tmp_path, max_uploads=1) as it:
        slots = it.app._app.state.context.uploads  # type: ignore[attr-defined]

        async with slots.taken():
            refused = await it.ask("POST", "/v1/files", {**TYPE, **AUTHORIZED}, BATCH + content(LINE) + END)
        taken = await it.ask("POST", "/v1/files", {**TYPE, **AUTHORIZED}, BATCH + content(LINE) + END)

    assert (refused.status, refused.headers["retry-after"], taken.status) == (429, "5", 200)


# Idempotency-Key


async def keyed(it: Api, key: str, *parts: bytes, tenant: str = "me") -> Exchange:
    body = b"".join(parts or (BATCH, content(LINE))) + END
    return await it.ask("POST", "/v1/files", {**TYPE, "x-tenant": tenant, "idempotency-key": key}, body)


EXPIRY = field("expires_after[anchor]", "created_at"), field("expires_after[seconds]", "3600")


async def test_the_same_upload_under_a_key_is_the_same_file(it: Api) -> None:
    first, second = await keyed(it, "k"), await keyed(it, "k")

    assert (first.status, second.status, second.json) == (200, 200, first.json)
    assert "x-headrace-idempotent-replayed" not in first.headers
    assert second.headers["x-headrace-idempotent-replayed"] == "true"
    assert await listed(it) == [first.json["id"]]
    assert await unfinished(it) == 0


async def test_the_form_of_the_same_upload_may_be_built_otherwise(it: Api) -> None:
    data = LINE * (2 << 20 >> 6)
    whole = field("expires_after[anchor]", "created_at"), field("expires_after[seconds]", str(30 * 86_400))

    first = await keyed(it, "k", BATCH, content(data))
    second = await keyed(it, "k", content(data), *whole, BATCH)

    assert (second.status, second.json) == (200, first.json)


@pytest.mark.parametrize(
    "parts",
    [
        (BATCH, content(LINE + LINE)),
        (BATCH, content(LINE.replace(b"a", b"b"))),
        (BATCH, content(LINE, "others.jsonl")),
        (field("purpose", "evals"), content(LINE)),
        (BATCH, content(LINE), *EXPIRY),
    ],
)
async def test_another_upload_under_the_key_is_refused_and_leaves_nothing(it: Api, parts: tuple[bytes, ...]) -> None:
    first = (await keyed(it, "k")).json["id"]

    second = await keyed(it, "k", *parts)

    assert (second.status, second.error["param"]) == (422, "idempotency-key")
    assert await listed(it) == [first]
    assert await unfinished(it) == 0


async def test_keys_and_owners_keep_files_apart(it: Api) -> None:
    made = [
        await keyed(it, "k"),
        await keyed(it, "l"),
        await keyed(it, "k", tenant="you"),
        await upload(it, BATCH, content(LINE)),
    ]

    assert len({each.json["id"] for each in made}) == 4


async def test_uploads_at_once_under_a_key_end_in_one_file(it: Api) -> None:
    answers = await asyncio.gather(*(keyed(it, "k") for _ in range(4)))

    assert {answer.status for answer in answers} == {200}
    assert [answer.json["id"] for answer in answers] == await listed(it) * 4
    assert sum("x-headrace-idempotent-replayed" in answer.headers for answer in answers) == 3
    assert await unfinished(it) == 0


async def test_an_upload_that_failed_leaves_its_key_free(it: Api) -> None:
    failed = await keyed(it, "k", BATCH, content(b""))
    cut = await it.ask("POST", "/v1/files", {**TYPE, "x-tenant": "me", "idempotency-key": "k"}, BATCH + content(LINE))

    made = await keyed(it, "k", field("purpose", "evals"), content(LINE))

    assert (failed.status, cut.status, made.status) == (400, 400, 200)
    assert "x-headrace-idempotent-replayed" not in made.headers
    assert await listed(it) == [made.json["id"]] and await unfinished(it) == 0


async def test_a_deleted_file_frees_its_key(it: Api) -> None:
    first = (await keyed(it, "k")).json["id"]
    await it.ask("DELETE", f"/v1/files/{first}", {"x-tenant": "me"})

    second = await keyed(it, "k", BATCH, content(LINE + LINE))

    assert second.status == 200 and "x-headrace-idempotent-replayed" not in second.headers
    assert await listed(it) == [second.json["id"]]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_refused_before_anything_is_written(it: Api, key: str) -> None:
    answer = await keyed(it, key)

    assert (answer.status, answer.error["param"]) == (400, "idempotency-key")
    assert await unfinished(it) == 0 and await listed(it) == []


async def test_files_are_listed_in_pages_either_way(it: Api) -> None:
    ids = [(await upload(it, BATCH, content(LINE))).json["id"] for _ in range(3)]
    await upload(it, field("purpose", "evals"), content(LINE))

    answer = await it.ask("GET", "/v1/files?purpose=batch&limit=2", {"x-tenant": "me"})
    page = answer.json
    rest = (await it.ask("GET", f"/v1/files?purpose=batch&limit=2&after={page['last_id']}", {"x-tenant": "me"})).json

    check_object("ListFilesResponse", answer.body)
    assert [each["id"] for each in page["data"]] == ids[:0:-1]
    assert (page["object"], page["first_id"], page["has_more"]) == ("list", ids[2], True)
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert await listed(it, "?purpose=batch&order=asc") == ids


async def test_a_deleted_file_is_gone(it: Api) -> None:
    file_id = (await upload(it, BATCH, content(LINE))).json["id"]

    deleted = await it.ask("DELETE", f"/v1/files/{file_id}", {"x-tenant": "me"})
    again = await it.ask("DELETE", f"/v1/files/{file_id}", {"x-tenant": "me"})

    assert FileDeleted.model_validate(deleted.json, strict=True).deleted
    check_object("DeleteFileResponse", deleted.body)
    assert again.status == 404 and again.error["message"] == f"No such File object: {file_id}"
    assert await unfinished(it) == 0


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/content"), ("DELETE", "")])
async def test_another_tenants_file_is_as_good_as_not_there(it: Api, method: str, suffix: str) -> None:
    file_id = (await upload(it, BATCH, content(LINE))).json["id"]

    stranger = await it.ask(method, f"/v1/files/{file_id}{suffix}", {"x-tenant": "stranger"})
    administrator = await it.ask("GET", f"/v1/files/{file_id}", {})

    assert stranger.status == 404 and stranger.error["message"] == f"No such File object: {file_id}"
    assert administrator.status == 200
    assert await listed(it, tenant="stranger") == []


async def test_a_request_that_is_no_form_is_refused(it: Api) -> None:
    answer = await it.ask("POST", "/v1/files", {"content-type": "application/json", "x-tenant": "me"}, b"{}")

    assert answer.status == 400 and "multipart/form-data" in answer.error["message"]


async def test_files_need_a_key(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        answers = [await it.ask(*request, {}) for request in (("GET", "/v1/files"), ("POST", "/v1/files"))]

    assert [answer.status for answer in answers] == [401, 401]
