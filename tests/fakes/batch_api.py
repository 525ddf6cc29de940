"""The batch APIs of OpenAI, Anthropic and Google on loopback, in their own wire formats, with faults to order."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.wire import Exchange, Request, Server

KEY = "sk-the-providers-key"
INPUT_TOKENS, OUTPUT_TOKENS = 1000, 100  # of every answer

Ending = Literal["completed", "failed", "expired", "cancelled"]


@dataclass
class RemoteBatch:
    id: str
    name: str
    """As the client named it; empty where the API has no names."""
    lines: dict[str, dict[str, Any]]
    """Requests by custom id."""
    asked: dict[str, Any]
    """The body that created it."""
    input_file: str = ""
    ending: Ending | None = None
    cancelled: bool = False
    answered: int = 0
    """So many lines, the first ones, were run before it ended."""
    deleted: bool = False

    def rows(self) -> list[tuple[int, str, dict[str, Any]]]:
        return [(number, custom_id, body) for number, (custom_id, body) in enumerate(self.lines.items())]


@dataclass
class BatchApiServer:
    """One address for all three; `faults` apply to whoever comes next."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, RemoteBatch] = field(default_factory=dict)
    errors: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Lines, counted from 0, that the provider refuses: status and message."""
    failing: dict[str, int] = field(default_factory=dict)
    """How many of the next requests whose method and path contain this text get a 500."""
    refusing: dict[str, int] = field(default_factory=dict)
    """Status of every request whose method and path contain this text."""
    loses_creation: bool = False
    """The next batch is made, and the connection is cut instead of an answer."""
    overridden_results: bytes | None = None
    """What results are instead."""
    cut_results: int | None = None
    """The next results break off after so many bytes."""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def only(self) -> RemoteBatch:
        (batch,) = self.batches.values()
        return batch

    def finish(self, ending: Ending = "completed", answered: int | None = None) -> None:
        """All batches end now, after so many lines of each; all of them if not told otherwise."""
        for batch in self.batches.values():
            if batch.ending is None:
                batch.ending = ending
                batch.answered = len(batch.lines) if answered is None else answered

    def asked(self, method: str, part: str) -> int:
        """How often something with `part` in its path was asked for."""
        return sum(request.method == method and part in request.target for request in self.requests)

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        self.requests.append(request)
        what = f"{request.method} {request.target}"
        if fault := next((part for part, left in self.failing.items() if left and part in what), None):
            self.failing[fault] -= 1
            await exchange.json(500, {"error": {"message": "the provider is upset", "type": "api_error"}})
        elif fault := next((part for part in self.refusing if part in what), None):
            await exchange.json(self.refusing[fault], {"error": {"message": "no", "type": "invalid_request_error"}})
        elif not self._authenticated(request):
            await exchange.json(401, {"error": {"message": "no key", "type": "authentication_error"}})
        else:
            await self._dialect(request)(exchange)

    def _authenticated(self, request: Request) -> bool:
        if request.path.startswith("/upload/session/"):
            assert KEY not in str(request.headers), "the address is the permission"
            return True
        names = ("authorization", "x-api-key", "x-goog-api-key")
        return any(request.headers.get(name, "").removeprefix("Bearer ") == KEY for name in names)

    def _dialect(self, request: Request) -> Callable[[Exchange], Awaitable[None]]:
        if request.path.startswith("/v1/messages"):
            return Anthropic(self).handle
        return OpenAI(self).handle if request.path.startswith("/v1/") else Gemini(self).handle

    def create(self, batch: RemoteBatch) -> RemoteBatch:
        assert all(batch.lines), "every line has an id"
        self.batches[batch.id] = batch
        return batch

    async def created(self, exchange: Exchange, answer: Mapping[str, Any]) -> None:
        if self.loses_creation:
            self.loses_creation = False
            exchange.reset()
        else:
            await exchange.json(200, answer)

    async def send_results(self, exchange: Exchange, content: bytes) -> None:
        if self.overridden_results is not None:
            content = self.overridden_results
        if self.cut_results is None:
            await exchange.answer(200, content, {"Content-Type": "application/binary"})
            return
        cut, self.cut_results = content[: self.cut_results], None
        await exchange.head(200, {"Content-Length": str(len(content))}, cut)
        exchange.close()


def said(content: Any) -> str:
    """The text of the last message, whatever the dialect."""
    text = content[-1].get("content") or content[-1]["parts"]
    return text if isinstance(text, str) else str(text[0]["text"])


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class OpenAI:
    def __init__(self, api: BatchApiServer) -> None:
        self.api = api

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        match request.method, request.path.removeprefix("/v1/").split("/"):
            case "POST", ["files"]:
                file_id = f"file-{len(self.api.files)}"
                self.api.files[file_id] = upload(request)
                await exchange.json(200, {"id": file_id, "object": "file", "purpose": "batch"})
            case "POST", ["batches"]:
                await self.api.created(exchange, self.batch(self.create(json.loads(request.body))))
            case "GET", ["batches"]:
                newest = [self.batch(each) for each in reversed(self.api.batches.values())]
                await exchange.json(200, {"object": "list", "data": newest, "has_more": False})
            case "GET", ["batches", batch_id]:
                await exchange.json(200, self.batch(self.api.batches[batch_id]))
            case "POST", ["batches", batch_id, "cancel"]:
                batch = self.api.batches[batch_id]
                batch.cancelled = True
                await exchange.json(409 if batch.ending else 200, self.batch(batch))
            case "GET", ["files", file_id, "content"]:
                _, role, batch_id = file_id.split(":")
                await self.api.send_results(exchange, self.content(self.api.batches[batch_id], role))
            case "DELETE", ["files", file_id]:
                self.api.files.pop(file_id, None)
                await exchange.json(200, {"id": file_id, "object": "file", "deleted": True})
            case _:
                await exchange.json(404, {"error": {"message": "no such path"}})

    def create(self, asked: dict[str, Any]) -> RemoteBatch:
        rows = [json.loads(line) for line in self.api.files[asked["input_file_id"]].splitlines()]
        assert all(row["method"] == "POST" and row["url"] == asked["endpoint"] for row in rows)
        return self.api.create(
            RemoteBatch(
                id=f"batch_{len(self.api.batches)}",
                name=(asked.get("metadata") or {}).get("headrace_batch", ""),
                lines={row["custom_id"]: row["body"] for row in rows},
                asked=asked,
                input_file=asked["input_file_id"],
            )
        )

    def batch(self, batch: RemoteBatch) -> dict[str, Any]:
        running = "cancelling" if batch.cancelled else "in_progress"
        ran = batch.ending not in (None, "failed")
        bad = ran and (batch.answered < len(batch.lines) or bool(self.api.errors))
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.asked["endpoint"],
            "input_file_id": batch.input_file,
            "completion_window": "24h",
            "created_at": 1_767_268_800,
            "status": batch.ending or running,
            "metadata": batch.asked.get("metadata"),
            "output_file_id": f"file:output:{batch.id}" if ran and batch.answered else None,
            "error_file_id": f"file:error:{batch.id}" if bad else None,
            "errors": {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "too many tokens"}]}
            if batch.ending == "failed" else None,
        }  # fmt: skip

    def content(self, batch: RemoteBatch, role: str) -> bytes:
        rows: list[dict[str, Any]] = []
        for number, custom_id, body in reversed(batch.rows()):  # results may come in any order
            row = {"id": f"batch_req_{number}", "custom_id": custom_id, "response": None, "error": None}
            refused = self.api.errors.get(number)
            if number >= batch.answered:
                row["error"] = {"code": f"batch_{batch.ending}", "message": "This request could not be executed."}
            elif refused:
                message = {"message": refused[1], "type": "invalid_request_error", "param": None, "code": None}
                row["response"] = {"status_code": refused[0], "request_id": "r", "body": {"error": message}}
            else:
                row["response"] = {"status_code": 200, "request_id": "r", "body": self.answer(number, body)}
            if (role == "output") == (number < batch.answered and not refused):
                rows.append(row)
        return json_lines(rows)

    def answer(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": said(body["messages"]), "refusal": None}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_767_268_800,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": INPUT_TOKENS,
                "completion_tokens": OUTPUT_TOKENS,
                "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
            },
        }


def upload(request: Request) -> bytes:
    """The file of a form that must have the purpose `batch`."""
    boundary = b"--" + request.headers["content-type"].partition("boundary=")[2].encode()
    parts = {}
    for part in request.body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        parts[head.partition(b'name="')[2].partition(b'"')[0]] = content
    assert parts[b"purpose"] == b"batch"
    return parts[b"file"]


class Anthropic:
    def __init__(self, api: BatchApiServer) -> None:
        self.api = api

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        match request.method, request.path.removeprefix("/v1/messages/").split("/"):
            case "POST", ["batches"]:
                asked = json.loads(request.body)
                lines = {each["custom_id"]: each["params"] for each in asked["requests"]}
                batch = self.api.create(RemoteBatch(f"msgbatch_{len(self.api.batches)}", "", lines, asked))
                await self.api.created(exchange, self.batch(batch))
            case "GET", ["batches", batch_id]:
                await exchange.json(200, self.batch(self.api.batches[batch_id]))
            case "POST", ["batches", batch_id, "cancel"]:
                self.api.batches[batch_id].cancelled = True
                await exchange.json(200, self.batch(self.api.batches[batch_id]))
            case "GET", ["batches", batch_id, "results"]:
                await self.api.send_results(exchange, self.content(self.api.batches[batch_id]))
            case "DELETE", ["batches", batch_id]:
                self.api.batches[batch_id].deleted = True
                await exchange.json(200, {"id": batch_id, "type": "message_batch_deleted"})
            case _:
                await exchange.json(404, {"type": "error", "error": {"type": "not_found_error", "message": "no"}})

    def batch(self, batch: RemoteBatch) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if batch.ending else "canceling" if batch.cancelled else "in_progress",
            "request_counts": counts | {"processing": len(batch.lines)},
            "created_at": "2026-01-01T12:00:00Z",
            "expires_at": "2026-01-02T12:00:00Z",
            "ended_at": None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{self.api.base}/v1/messages/batches/{batch.id}/results" if batch.ending else None,
        }

    def content(self, batch: RemoteBatch) -> bytes:
        rows = [
            {"custom_id": custom_id, "result": self.result(batch, number, body)}
            for number, custom_id, body in reversed(batch.rows())
        ]
        return json_lines(rows)

    def result(self, batch: RemoteBatch, number: int, body: dict[str, Any]) -> dict[str, Any]:
        if number >= batch.answered:
            return {"type": "canceled" if batch.cancelled else "expired"}
        if number in self.api.errors:
            status, why = self.api.errors[number]
            kind = {400: "invalid_request_error", 529: "overloaded_error"}.get(status, "api_error")
            error = {"type": "error", "error": {"type": kind, "message": why}, "request_id": "req"}
            return {"type": "errored", "error": error}
        message = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": said(body["messages"])}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        }
        return {"type": "succeeded", "message": message}


class Gemini:
    def __init__(self, api: BatchApiServer) -> None:
        self.api = api

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        match request.method, request.path.split("/")[1:]:
            case "POST", ["upload", "v1beta", "files"]:
                assert request.headers["x-goog-upload-command"] == "start"
                where = f"{self.api.base}/upload/session/{len(self.api.files)}"
                await exchange.answer(200, b"", {"X-Goog-Upload-URL": where})
            case "POST", ["upload", "session", number]:
                assert request.headers["x-goog-upload-command"] == "upload, finalize"
                self.api.files[f"files/in{number}"] = request.body
                await exchange.json(200, {"file": {"name": f"files/in{number}", "state": "ACTIVE"}})
            case "POST", ["v1beta", "models", call] if call.endswith(":batchGenerateContent"):
                batch = self.create(json.loads(request.body)["batch"], call.partition(":")[0])
                await self.api.created(exchange, self.operation(batch))
            case "GET", ["v1beta", "batches"]:
                newest = [self.operation(each) for each in reversed(self.api.batches.values())]
                await exchange.json(200, {"operations": newest})
            case "GET", ["v1beta", "batches", number]:
                await exchange.json(200, self.operation(self.api.batches[f"batches/{number}"]))
            case "POST", ["v1beta", "batches", call] if call.endswith(":cancel"):
                self.api.batches[f"batches/{call.removesuffix(':cancel')}"].cancelled = True
                await exchange.json(200, {})
            case "GET", ["v1beta", "files", call] if call.endswith(":download"):
                batch = self.api.batches[f"batches/{call.removesuffix(':download').removeprefix('out')}"]
                await self.api.send_results(exchange, self.content(batch))
            case "DELETE", ["v1beta", kind, name]:
                self.api.files.pop(f"{kind}/{name}", None)
                if kind == "batches":
                    self.api.batches[f"{kind}/{name}"].deleted = True
                await exchange.json(200, {})
            case _:
                await exchange.json(404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "no such path"}})

    def create(self, asked: dict[str, Any], model: str) -> RemoteBatch:
        file = asked["inputConfig"]["fileName"]
        rows = [json.loads(line) for line in self.api.files[file].splitlines()]
        lines = {row["key"]: row["request"] for row in rows}
        number = len(self.api.batches)
        batch = RemoteBatch(f"batches/b{number}", asked["displayName"], lines, asked | {"model": model}, file)
        return self.api.create(batch)

    def operation(self, batch: RemoteBatch) -> dict[str, Any]:
        word = {"completed": "SUCCEEDED", None: "RUNNING"}.get(batch.ending, str(batch.ending).upper())
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": batch.id,
            "model": f"models/{batch.asked['model']}",
            "displayName": batch.name,
            "createTime": "2026-01-01T12:00:00Z",
            "state": f"BATCH_STATE_{word}",
        }
        if batch.answered:
            metadata["output"] = {"responsesFile": f"files/out{batch.id.removeprefix('batches/')}"}
        return {"name": batch.id, "metadata": metadata} | ({"done": True} if batch.ending else {})

    def content(self, batch: RemoteBatch) -> bytes:
        return json_lines(
            [{"key": key, **self.result(number, body)} for number, key, body in batch.rows() if number < batch.answered]
        )

    def result(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        if number in self.api.errors:
            status, message = self.api.errors[number]
            return {"error": {"code": {400: 3, 503: 14}.get(status, 13), "message": message}}
        content = {"role": "model", "parts": [{"text": said(body["contents"])}]}
        usage = {"promptTokenCount": INPUT_TOKENS, "candidatesTokenCount": OUTPUT_TOKENS, "totalTokenCount": 1100}
        candidate = {"content": content, "finishReason": "STOP", "index": 0}
        return {"response": {"candidates": [candidate], "usageMetadata": usage, "responseId": f"r{number}"}}


@asynccontextmanager
async def batch_api() -> AsyncIterator[BatchApiServer]:
    api = BatchApiServer()
    server = Server(api.handle)
    api.port = await server.start()
    try:
        yield api
    finally:
        await server.stop()
