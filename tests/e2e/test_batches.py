"""Files and batches with the official OpenAI client and with the command line, in both profiles."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from tests.e2e.deployment import MASTER_KEY, Headrace
from tests.fakes.upstream import ANSWER
from tests.providers.openai_schema import check_completion, check_object
from tests.server_process import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
AUTHORIZED = {"authorization": f"Bearer {MASTER_KEY}"}
FINAL = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str | None, model: str = "gpt", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "What is a headrace?"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **fields}


def json_lines(*lines: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def submit(client: AsyncOpenAI, content: bytes, **options: Any) -> Batch:
    file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **options)


async def finished(client: AsyncOpenAI, batch_id: str) -> Batch:
    """The batch at its end. It is asked for as often as a person who is in a hurry would."""
    async with asyncio.timeout(100):
        while (batch := await client.batches.retrieve(batch_id)).status not in FINAL:
            await asyncio.sleep(0.1)
    return batch


async def rows(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(each) for each in (await client.files.content(file_id)).content.splitlines()]


async def test_a_batch_of_every_vendor_completes(client: AsyncOpenAI) -> None:
    models = ["gpt", "claude", "gemini", "mistral"] * 5
    lines = [line(f"{number}", model) for number, model in enumerate(models)]

    started = await submit(client, json_lines(*lines), metadata={"purpose": "test"})
    batch = await finished(client, started.id)
    output = await rows(client, batch.output_file_id)

    assert (batch.status, batch.error_file_id, batch.metadata) == ("completed", None, {"purpose": "test"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 20, "completed": 20, "failed": 0}
    check_object("Batch", batch.model_dump_json(exclude_none=True).encode())
    assert [row["custom_id"] for row in output] == [str(number) for number in range(20)]
    for row in output:
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["choices"][0]["message"]["content"] == ANSWER
        check_completion(json.dumps(row["response"]["body"]).encode())


async def test_every_stage_of_a_batch_has_its_time(client: AsyncOpenAI) -> None:
    batch = await finished(client, (await submit(client, json_lines(line("a")))).id)

    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in times and times == sorted(times)  # type: ignore[type-var]
    assert batch.expires_at == batch.created_at + 86_400
    assert batch.cancelled_at is batch.failed_at is batch.expired_at is None


BAD_LINES: dict[str, bytes] = {
    "not JSON": b"this is not JSON",
    "not an object": b"[1, 2]",
    "no custom_id": json_lines({"method": "POST", "url": CHAT, "body": {}}).rstrip(),
    "duplicate custom_id": json_lines(line("good")).rstrip(),
    "wrong url": json_lines(line("bad", url="/v1/embeddings")).rstrip(),
    "wrong method": json_lines(line("bad", method="GET")).rstrip(),
    "no messages": json_lines(line("bad", body={"model": "gpt"})).rstrip(),
    "unknown model": json_lines(line("bad", "no-such-model")).rstrip(),
    "a line of 10 MB": json_lines(line("bad", padding="x" * (10 << 20))).rstrip(),
    "not UTF-8": b'{"custom_id": "\xff"}',
}


async def test_a_bad_line_is_an_error_line_and_never_a_failed_batch(client: AsyncOpenAI) -> None:
    content = b"\xef\xbb\xbf" + json_lines(line("good")) + b"\r\n\n".join(BAD_LINES.values()) + b"\r\n"

    batch = await finished(client, (await submit(client, content)).id)
    output, errors = await rows(client, batch.output_file_id), await rows(client, batch.error_file_id)

    assert batch.status == "completed"
    assert [row["custom_id"] for row in output] == ["good"]
    assert [row["line"] for row in errors] == [2 + 2 * number for number in range(len(BAD_LINES))]
    for case, row in zip(BAD_LINES, errors, strict=True):
        assert row["response"]["status_code"] in (400, 404), case
        assert row["response"]["body"]["error"]["message"], case


@pytest.mark.parametrize("content", [b"{\n", b'{"custom_id"\n' * 3, b"\n{\n" + b"\n" * 100])
async def test_a_file_without_a_single_json_line_fails_the_batch(client: AsyncOpenAI, content: bytes) -> None:
    batch = await finished(client, (await submit(client, content)).id)

    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert batch.errors is not None and batch.errors.data
    assert batch.errors.data[0].code and batch.errors.data[0].message


async def test_a_batch_over_its_number_of_lines_fails(client: AsyncOpenAI) -> None:
    content = b'{"custom_id": "x"}\n' * 50_001

    batch = await finished(client, (await submit(client, content)).id)

    assert batch.status == "failed" and batch.errors is not None


async def test_a_cancelled_batch_keeps_what_it_has_and_is_not_cancelled_again(client: AsyncOpenAI) -> None:
    lines = [line(f"{number}", "one-at-a-time") for number in range(500)]

    batch = await submit(client, json_lines(*lines))
    cancelling = await client.batches.cancel(batch.id)
    cancelled = await finished(client, batch.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.batches.cancel(batch.id)

    assert cancelling.status == "cancelling" and cancelling.cancelling_at is not None
    assert cancelled.status == "cancelled" and cancelled.cancelled_at is not None
    assert "Cannot cancel a batch with status 'cancelled'." in caught.value.message


async def test_what_is_not_there_is_not_found(client: AsyncOpenAI) -> None:
    for call in (
        client.files.retrieve("file-none"),
        client.files.content("file-none"),
        client.files.delete("file-none"),
        client.batches.retrieve("batch_none"),
        client.batches.cancel("batch_none"),
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            await call


async def test_another_tenants_things_are_not_there(headrace: Headrace, client: AsyncOpenAI) -> None:
    async with aiohttp.ClientSession(headrace.url, headers=AUTHORIZED) as session:
        key = (await (await session.post("/key/generate", json={})).json())["key"]
    file = await client.files.create(file=("lines.jsonl", json_lines(line("a"))), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

    async with AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=key, max_retries=0) as stranger:
        for call in (
            stranger.files.content(file.id),
            stranger.batches.retrieve(batch.id),
            stranger.batches.cancel(batch.id),
            stranger.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h"),
        ):
            with pytest.raises(openai.NotFoundError, match=r"No such File object|No batch found"):
                await call
        own = await finished(stranger, (await submit(stranger, json_lines(line("mine")))).id)
        listed = [each.id async for each in stranger.batches.list()]
        output = await rows(stranger, own.output_file_id)

    assert listed == [own.id]
    assert [row["custom_id"] for row in output] == ["mine"]


async def test_files_are_paged_through_by_the_client(client: AsyncOpenAI) -> None:
    made = [await client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants") for n in range(5)]

    found = [file.id async for file in client.files.list(purpose="assistants", limit=2)]
    for file in made:
        assert (await client.files.delete(file.id)).deleted

    assert found == [file.id for file in reversed(made)]
    assert [file.id async for file in client.files.list(purpose="assistants")] == []


async def test_an_upload_that_is_cut_off_leaves_nothing(headrace: Headrace, client: AsyncOpenAI) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", headrace.ports[0])
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MASTER_KEY}\r\nContent-Length: 9999999\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="half.png"\r\n\r\n'
    )
    writer.write(head.encode() + b"x" * 2_000_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert [file.id async for file in client.files.list(purpose="vision")] == []


async def test_inline_requests_run_and_are_followed_live(headrace: Headrace) -> None:
    order = {"endpoint": CHAT, "completion_window": "1h", "requests": [line(f"{n}") for n in range(10)]}
    names, last = [], {}

    async with aiohttp.ClientSession(headrace.url, headers=AUTHORIZED) as session:
        batch = await (await session.post("/v1/batches", json=order)).json()
        async with session.get(f"/v1/batches/{batch['id']}/events") as events:
            async for text in events.content:
                name, _, value = text.decode().strip().partition(": ")
                names += [value] if name == "event" else []
                last = json.loads(value) if name == "data" else last
        output = (await (await session.get(f"/v1/batches/{batch['id']}/output")).text()).splitlines()

    assert names[-1] == "done" and set(names[:-1]) <= {"progress"}
    assert last["status"] == "completed" and last["progress"]["errors"] == 0
    assert [json.loads(each)["custom_id"] for each in output] == [str(number) for number in range(10)]


@dataclass(frozen=True)
class Ended:
    code: int | None
    output: str
    errors: str


async def run(headrace: Headrace, *arguments: str, base_url: str | None = None) -> Ended:
    """`headrace batch ...`, as a person with the key in the environment calls it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api.cli", "batch", *arguments, cwd=headrace.folder,
        env={**headrace.environment, "HEADRACE_BASE_URL": base_url or f"{headrace.url}/v1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 100)
    return Ended(process.returncode, output.decode(), errors.decode())


async def test_a_batch_on_the_command_line(headrace: Headrace, tmp_path: Path) -> None:
    prompts, answers = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("What is a headrace?\n\nAnd a tailrace?\n")

    submitted = await run(
        headrace, "submit", str(prompts), "--model", "gpt", "--priority", "5", "--metadata", "k=v", "--watch"
    )
    batch_id = submitted.output.strip()
    status = await run(headrace, "status", batch_id)
    results = await run(headrace, "results", batch_id, "-o", str(answers))
    errors = await run(headrace, "results", batch_id, "--errors")
    listed = await run(headrace, "list", "--json")

    assert submitted.code == 0 and "completed: 2 of 2 done, 0 failed" in submitted.errors
    assert "2 done, 0 failed, 2 in all" in status.output and "metadata.k" in status.output
    rows = [json.loads(each) for each in answers.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["line-1", "line-3"]
    assert (results.code, errors.code, errors.output) == (0, 0, "")
    assert json.loads(listed.output)["data"][0]["id"] == batch_id
    assert sorted(tmp_path.iterdir()) == [answers, prompts]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "batch_none"], "No batch found with id 'batch_none'."),
        (["watch", "batch_none"], "No batch found"),
        (["results", "batch_none"], "No batch found"),
        (["submit", "missing.jsonl"], "missing.jsonl: No such file"),
        (["submit", "prompts.txt"], "add --model"),
        (["submit", "empty.txt", "--model", "gpt"], "no prompt"),
        (["submit", "latin.txt", "--model", "gpt"], "not UTF-8"),
        (["submit", "lines.jsonl", "--model", "gpt"], "name their models"),
        (["submit", "lines.csv"], "Must be .jsonl"),
        (["submit", "lines.jsonl", "--window", "1y"], "'24h'"),
        (["submit", "lines.jsonl", "--deadline", "soon"], "Expected a time"),
    ],
)
async def test_what_the_command_line_cannot_do_it_says_in_a_line(
    headrace: Headrace, arguments: Sequence[str], words: str
) -> None:
    files = {"prompts.txt": b"Hi\n", "empty.txt": b"\n", "latin.txt": b"\xe9t\xe9\n", "lines.jsonl": b"{}\n"}
    for name, content in {**files, "lines.csv": b"{}\n"}.items():
        (headrace.folder / name).write_bytes(content)

    ended = await run(headrace, *arguments)

    assert ended.code == 1 and ended.output == ""
    assert ended.errors.startswith("headrace: ") and ended.errors.count("\n") == 1
    assert words in ended.errors


async def test_a_server_that_is_not_there_is_asked_about(headrace: Headrace) -> None:
    ended = await run(headrace, "list", base_url=f"http://127.0.0.1:{free_port()}")

    assert (ended.code, ended.output) == (1, "")
    assert "connection refused. Is the server running?" in ended.errors


async def test_a_watch_of_a_failed_batch_says_so_with_its_exit_code(headrace: Headrace) -> None:
    (headrace.folder / "broken.jsonl").write_bytes(b"{\n")

    ended = await run(headrace, "submit", "broken.jsonl", "--watch")

    assert ended.code == 1 and "failed: 0 of" in ended.errors
