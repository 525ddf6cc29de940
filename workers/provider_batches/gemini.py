"""Gemini's batches: a file of JSON lines, an operation on it, and a file of results.

Requests may also stand in the call that creates the batch, up to 20 MB; but then each poll of a finished batch carries
all answers in one piece, and a file can be read line by line. https://ai.google.dev/gemini-api/docs/batch-api
"""

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson

from shared.errors import UpstreamBroken
from workers.provider_batches.base import NOT_RUN, Limits, Remote, Result
from workers.provider_batches.http import LONG, ProviderHttp
from workers.provider_batches.spool import JSON_LINES, Spool
from workers.providers.base import UpstreamRequest
from workers.upstream import Transfer

_LIVE_URL = re.compile(r"(?P<host>.*)/(?P<version>v\d+[a-z0-9]*)/(?P<model>[^:]+):generateContent")
_FINISHED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})
_FILE = re.compile(r"files/[\w.-]+")
_NEWEST = 100  # batches of the account among which one is looked for
# google.rpc.Code, which the errors of single lines carry, as the status of a live call
_STATUS = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503,
    15: 500, 16: 401,
}  # fmt: skip


class GeminiBatches:
    """A `BatchApi`."""

    limits = Limits(lines=100_000, bytes=2 * 1000 * 1000 * 1000)  # the vendor names none for lines; this is ours
    frame = JSON_LINES
    findable = True

    def __init__(self, http: ProviderHttp) -> None:
        self._http = http
        found = _LIVE_URL.fullmatch(http.live.url)
        if found is None:
            raise UpstreamBroken("The address of the Gemini API has no version: check api_base.")
        self._host, self._version, self._model = found["host"], found["version"], found["model"]
        self._base = f"{self._host}/{self._version}"

    def line(self, custom_id: str, request: UpstreamRequest) -> bytes:
        return orjson.dumps({"key": custom_id, "request": orjson.Fragment(request.body)})

    async def upload(self, name: str, content: Spool) -> Mapping[str, str]:
        start = self._http.headers() | {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(content.size),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        url = f"{self._host}/upload/{self._version}/files"
        described = orjson.dumps({"file": {"display_name": name}})
        headers, _ = await self._http.exchange(Transfer("POST", url, start, described))
        place = {header.lower(): value for header, value in headers.items()}.get("x-goog-upload-url")
        if place is None:
            raise UpstreamBroken("Gemini took an upload without saying where to send it.")
        # The address is the permission: the key does not go there.
        send = {
            "Content-Length": str(content.size),
            "X-Goog-Upload-Offset": "0",
            "X-Goog-Upload-Command": "upload, finalize",
        }
        answer = await self._http.json(Transfer("POST", place, send, content.read()), limit=LONG)
        return {"input": _name(answer.get("file"))}

    async def create(self, name: str, files: Mapping[str, str], content: Spool) -> str:
        wanted = {"batch": {"displayName": name, "inputConfig": {"fileName": files["input"]}}}
        url = f"{self._base}/{self._model}:batchGenerateContent"
        return _name(await self._http.json(Transfer("POST", url, self._http.headers(), orjson.dumps(wanted))))

    async def find(self, name: str) -> str | None:
        page = await self._http.json(self._request("GET", f"batches?pageSize={_NEWEST}"))
        for operation in page.get("operations") or ():
            if isinstance(operation, dict) and (operation.get("metadata") or {}).get("displayName") == name:
                return _name(operation)
        return None

    async def poll(self, remote_id: str) -> Remote:
        operation = await self._http.json(self._request("GET", remote_id))
        metadata = operation.get("metadata") or {}
        word = str(metadata.get("state")).removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
        error = operation.get("error") or {}
        output = metadata.get("output") or operation.get("response") or {}
        file = output.get("responsesFile")
        files = {"output": file} if isinstance(file, str) and _FILE.fullmatch(file) else {}
        return Remote(word in _FINISHED or bool(error), word, str(error.get("message") or ""), files)

    async def results(self, remote_id: str, files: Mapping[str, str]) -> AsyncGenerator[Result, None]:
        if "output" in files:
            async for row in self._http.lines(self._request("GET", f"{files['output']}:download?alt=media")):
                yield _result(row)

    async def cancel(self, remote_id: str) -> None:
        await self._http.json(self._request("POST", f"{remote_id}:cancel"))

    async def clean_up(self, remote_id: str, files: Mapping[str, str]) -> None:
        # The file of results is the batch's, and goes with it.
        for path in (files.get("input"), remote_id):
            if path:
                await self._http.json(self._request("DELETE", path))

    def _request(self, method: str, path: str) -> Transfer:
        return Transfer(method, f"{self._base}/{path}", self._http.headers())


def _name(thing: Any) -> str:
    name = thing.get("name") if isinstance(thing, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"(?:files|batches)/[\w.-]+", name):
        raise UpstreamBroken("Gemini's answer about a batch has no name.")
    return name


def _result(row: Mapping[str, Any]) -> Result:
    key, error = str(row.get("key")), row.get("error")
    if isinstance(row.get("response"), dict):
        return Result(key, 200, orjson.dumps(row["response"]))
    if not isinstance(error, dict):
        return Result(key, NOT_RUN)
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else _STATUS.get(code or 2, 500)
    return Result(key, status, orjson.dumps({"error": error | {"code": status}}))
