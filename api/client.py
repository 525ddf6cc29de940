"""A client of a running Headrace, for the commands that ask one. What goes wrong becomes one line.

Commands use it through `api.remote`, and import it when they run: aiohttp is slow to load.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import aiohttp
import orjson

from api.remote import ClientError, Refused, Unreachable

_CONNECT_TIMEOUT = 5.0  # seconds
_SILENCE_TIMEOUT = 60.0  # seconds without a byte; a stream of events has a comment every few seconds
_UPLOAD_TIMEOUT = 3600.0  # seconds for the whole file: while it goes up nothing comes back
_LONGEST_EVENT = 1024 * 1024  # bytes
_LONGEST_ERROR = 64 * 1024  # bytes
_LONGEST_REASON = 300  # characters of an answer that is not ours


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event."""

    name: str
    data: bytes
    """Of one line, which is all that Headrace sends."""


class ApiClient:
    """Use it as an async context manager. Every method raises `Unreachable` and `Refused`."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        """Without the `/v1` that OpenAI's clients want there: paths are given whole."""
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=_SILENCE_TIMEOUT)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, read_bufsize=_LONGEST_EVENT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> Any:
        """The answer's JSON. Parameters that are None are left out."""
        body = {} if json is None else {"data": orjson.dumps(json), "headers": {"content-type": "application/json"}}
        async with self._call(method, path, params=_given(params), **body) as response:
            return _json(await response.read())

    async def upload(
        self, path: str, content: BinaryIO | AsyncIterator[bytes], filename: str, fields: Mapping[str, str]
    ) -> Any:
        """Send a form of `fields` and a `file`, which is read as it is sent; the answer's JSON."""
        form = aiohttp.FormData(fields)
        form.add_field("file", content, filename=filename, content_type="application/octet-stream")
        timeout = aiohttp.ClientTimeout(total=_UPLOAD_TIMEOUT, sock_connect=_CONNECT_TIMEOUT)
        async with self._call("POST", path, data=form, timeout=timeout) as response:
            return _json(await response.read())

    async def download(self, path: str, params: Mapping[str, object] | None = None) -> AsyncIterator[bytes]:
        """The answer's body, in pieces as they come."""
        async with self._call("GET", path, params=_given(params)) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def events(self, path: str) -> AsyncIterator[ServerEvent]:
        """Server-sent events until the server ends the stream; comments are left out."""
        async with self._call("GET", path, headers={"accept": "text/event-stream"}) as response:
            fields: dict[str, bytes] = {}
            async for raw in response.content:
                line = raw.rstrip(b"\r\n")
                if line and not line.startswith(b":"):
                    field, _, value = line.partition(b":")
                    fields[field.decode("latin-1")] = value.removeprefix(b" ")
                elif not line and "data" in fields:
                    yield ServerEvent(fields.get("event", b"message").decode("latin-1"), fields["data"])
                    fields = {}

    def _call(self, method: str, path: str, **arguments: Any) -> "_Call":
        assert self._session is not None, "an ApiClient is used as a context manager"
        return _Call(self.base_url, self._session.request(method, self.base_url + path, **arguments))


class _Call:
    """One request, whose failures are ours, wherever within they happen."""

    def __init__(self, base_url: str, request: Any) -> None:
        self._base_url = base_url
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._request.__aenter__()
            if response.status >= 400:
                async with response:
                    raise Refused(_reason(response.status, await _beginning(response)), response.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise self._unreachable(exc) from exc
        return response

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._request.__aexit__(kind, error, trace)
        if isinstance(error, aiohttp.ClientError | TimeoutError):
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> ClientError:
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return ClientError(f"{self._base_url!r} is no address of a server: expected e.g. http://127.0.0.1:4000")
        if isinstance(error, aiohttp.ClientConnectorError):
            return Unreachable(f"cannot connect to {self._base_url}: {_cause(error.os_error)}. Is the server running?")
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self._base_url} did not answer in time")
        return Unreachable(f"the connection to {self._base_url} broke: {str(error) or type(error).__name__}")


def _given(params: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (params or {}).items() if value is not None}


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ClientError("the answer is not JSON: is it a Headrace that answers at this address?") from exc


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readexactly(_LONGEST_ERROR)
    except asyncio.IncompleteReadError as whole:
        return whole.partial


def _reason(status: int, body: bytes) -> str:
    """What the error says, in one line."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = body.decode("utf-8", "replace")[:_LONGEST_REASON]
    words = " ".join(str(message).split())
    return words or f"the server answered {status} without saying why"


def _cause(error: OSError) -> str:
    """`Connect call failed ('127.0.0.1', 4000)` tells nobody anything that the address does not."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
