"""Anthropic's Message Batches: all requests in the body that creates the batch, results as JSON lines.

https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from shared.errors import UpstreamBroken
from workers.provider_batches.base import NOT_RUN, Limits, Remote, Result
from workers.provider_batches.http import LONG, ProviderHttp
from workers.provider_batches.spool import Frame, Spool
from workers.providers.anthropic.errors import from_error_object
from workers.providers.base import UpstreamRequest
from workers.upstream import Transfer

_BETA = "anthropic-beta"


class AnthropicBatches:
    """A `BatchApi`. Its batches have no name of ours, so one whose creation was not answered cannot be found again."""

    limits = Limits(lines=100_000, bytes=256 * 1000 * 1000)
    frame = Frame(b'{"requests":[', b",", b"]}")
    findable = False

    def __init__(self, http: ProviderHttp) -> None:
        self._http = http
        self._batches = f"{http.live.url}/batches"
        self._betas: dict[str, None] = {}

    def line(self, custom_id: str, request: UpstreamRequest) -> bytes:
        # Betas are asked for in a header, which the whole batch shares.
        self._betas |= dict.fromkeys(each for each in request.headers.get(_BETA, "").split(",") if each)
        return orjson.dumps({"custom_id": custom_id, "params": orjson.Fragment(request.body)})

    async def upload(self, name: str, content: Spool) -> Mapping[str, str]:
        return {}

    async def create(self, name: str, files: Mapping[str, str], content: Spool) -> str:
        headers = self._http.headers() | {"Content-Length": str(content.size)}
        if self._betas:
            headers[_BETA] = ",".join(self._betas)
        batch = await self._http.json(Transfer("POST", self._batches, headers, content.read()), limit=LONG)
        if not isinstance(batch.get("id"), str):
            raise UpstreamBroken("The answer about a batch has no id: check api_base.")
        return str(batch["id"])

    async def find(self, name: str) -> str | None:
        return None

    async def poll(self, remote_id: str) -> Remote:
        batch = await self._http.json(self._request("GET", remote_id))
        word = str(batch.get("processing_status"))
        results = batch.get("results_url")
        return Remote(word == "ended", word, files={"output": results} if isinstance(results, str) else {})

    async def results(self, remote_id: str, files: Mapping[str, str]) -> AsyncGenerator[Result, None]:
        request = self._request("GET", remote_id, "/results")
        # The vendor says that the address may change; the key goes to no other host than the configured one for it.
        if urlsplit(files.get("output", ""))[:2] == urlsplit(self._batches)[:2]:
            request = Transfer("GET", files["output"], self._http.headers())
        async for row in self._http.lines(request):
            yield _result(row)

    async def cancel(self, remote_id: str) -> None:
        await self._http.json(self._request("POST", remote_id, "/cancel"))

    async def clean_up(self, remote_id: str, files: Mapping[str, str]) -> None:
        if remote_id:
            await self._http.json(self._request("DELETE", remote_id))

    def _request(self, method: str, remote_id: str, path: str = "") -> Transfer:
        return Transfer(method, f"{self._batches}/{remote_id}{path}", self._http.headers())


def _result(row: Mapping[str, Any]) -> Result:
    custom_id = str(row.get("custom_id"))
    match row.get("result"):
        case {"type": "succeeded", "message": message}:
            return Result(custom_id, 200, orjson.dumps(message))
        case {"type": "errored", "error": {"error": error} as answer}:
            return Result(custom_id, from_error_object(error).status or 500, orjson.dumps(answer))
        case _:  # canceled, expired
            return Result(custom_id, NOT_RUN)
