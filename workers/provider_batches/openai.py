"""OpenAI's batches: a file of JSON lines, a batch of it, and files with results and errors.

https://platform.openai.com/docs/api-reference/batch
"""

import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson

from shared.errors import UpstreamBroken
from workers.provider_batches.base import NOT_RUN, Limits, Remote, Result
from workers.provider_batches.http import LONG, ProviderHttp
from workers.provider_batches.spool import JSON_LINES, Spool
from workers.providers.base import UpstreamRequest
from workers.upstream import Transfer

_LIVE_PATH = "/chat/completions"
_URL = "/v1/chat/completions"
_NAME = "headrace_batch"
_LIFETIME = 7 * 86_400  # seconds after which OpenAI deletes files that a crash left there
_FINISHED = frozenset({"completed", "failed", "expired", "cancelled"})
_OURS = ("input", "output", "error")
_NEWEST = 100  # batches of the account among which one is looked for


class OpenAIBatches:
    """A `BatchApi`."""

    limits = Limits(lines=50_000, bytes=200 * 1000 * 1000)
    frame = JSON_LINES
    findable = True

    def __init__(self, http: ProviderHttp) -> None:
        self._http = http
        self._base = http.live.url.removesuffix(_LIVE_PATH)

    def line(self, custom_id: str, request: UpstreamRequest) -> bytes:
        row = {"custom_id": custom_id, "method": "POST", "url": _URL, "body": orjson.Fragment(request.body)}
        return orjson.dumps(row)

    async def upload(self, name: str, content: Spool) -> Mapping[str, str]:
        boundary = uuid.uuid4().hex
        before, after = _form(boundary, f"{name}.jsonl")
        headers = self._http.headers(f"multipart/form-data; boundary={boundary}")
        headers["Content-Length"] = str(len(before) + content.size + len(after))
        body = content.read(before, after)
        file = await self._http.json(Transfer("POST", f"{self._base}/files", headers, body), limit=LONG)
        return {"input": _id(file)}

    async def create(self, name: str, files: Mapping[str, str], content: Spool) -> str:
        wanted = {
            "input_file_id": files["input"],
            "endpoint": _URL,
            "completion_window": "24h",
            "metadata": {_NAME: name},
            "output_expires_after": {"anchor": "created_at", "seconds": _LIFETIME},
        }
        request = Transfer("POST", f"{self._base}/batches", self._http.headers(), orjson.dumps(wanted))
        return _id(await self._http.json(request))

    async def find(self, name: str) -> str | None:
        page = await self._http.json(self._get(f"/batches?limit={_NEWEST}"))
        for batch in page.get("data") or ():
            if isinstance(batch, dict) and (batch.get("metadata") or {}).get(_NAME) == name:
                return _id(batch)
        return None

    async def poll(self, remote_id: str) -> Remote:
        batch = await self._http.json(self._get(f"/batches/{remote_id}"))
        word = str(batch.get("status"))
        files = {role: str(id) for role in _OURS if (id := batch.get(f"{role}_file_id"))}
        return Remote(word in _FINISHED, word, _reason(batch), files)

    async def results(self, remote_id: str, files: Mapping[str, str]) -> AsyncGenerator[Result, None]:
        for role in ("output", "error"):
            if role in files:
                async for row in self._http.lines(self._get(f"/files/{files[role]}/content")):
                    yield _result(row)

    async def cancel(self, remote_id: str) -> None:
        await self._http.json(Transfer("POST", f"{self._base}/batches/{remote_id}/cancel", self._http.headers()))

    async def clean_up(self, remote_id: str, files: Mapping[str, str]) -> None:
        for role in _OURS:
            if role in files:
                url = f"{self._base}/files/{files[role]}"
                await self._http.json(Transfer("DELETE", url, self._http.headers()))

    def _get(self, path: str) -> Transfer:
        return Transfer("GET", self._base + path, self._http.headers())


def _form(boundary: str, filename: str) -> tuple[bytes, bytes]:
    """What stands before and after the file's content."""
    fields = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": str(_LIFETIME)}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _id(thing: Mapping[str, Any]) -> str:
    if not isinstance(thing.get("id"), str) or not thing["id"]:
        raise UpstreamBroken("The answer about a batch has no id: check api_base.")
    return str(thing["id"])


def _reason(batch: Mapping[str, Any]) -> str:
    errors = (batch.get("errors") or {}).get("data") or []
    return "; ".join(str(each.get("message")) for each in errors[:3] if isinstance(each, dict))


def _result(row: Mapping[str, Any]) -> Result:
    custom_id, response = str(row.get("custom_id")), row.get("response")
    if row.get("error") or not isinstance(response, dict) or not isinstance(response.get("status_code"), int):
        return Result(custom_id, NOT_RUN)  # `batch_expired`, `batch_cancelled`, `request_timeout`
    return Result(custom_id, response["status_code"], orjson.dumps(response.get("body")))
