"""HTTP towards the providers: the only file that knows the HTTP client.

Every wait has a limit: connect here, the first byte and the whole attempt in the pipeline, which cancels. Redirects are
not followed, so that a key never reaches another host.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from shared.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from workers import simulated
from workers.providers.base import UpstreamRequest

CONNECT_TIMEOUT = 5.0  # seconds for name, TCP and TLS together
KEEPALIVE_TIMEOUT = 15.0  # seconds; large providers were measured to close idle connections after 15 s
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy"})  # what aiohttp reads
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Transfer:
    """A request that calls no model: any method, and a body that may be too large for memory."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterator[bytes] = b""
    """One that is iterated over needs a `Content-Length` among the headers."""


class Response(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive or lower-case names."""
        ...

    async def read(self) -> bytes:
        """The whole body, at most `MAX_ANSWER_BYTES`."""
        ...

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it arrives."""
        ...


class Upstream:
    """A pool of connections. `limit` bounds the connections open at a time."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        pool = _Pool(limit=self._limit, keepalive_timeout=KEEPALIVE_TIMEOUT)
        self._session = await self._stack.enter_async_context(_session(pool))
        # When one pooled connection turns out to be dead, its neighbours probably are, too.
        no_pool = aiohttp.TCPConnector(limit=self._limit, force_close=True)
        self._fresh_session = await self._stack.enter_async_context(_session(no_pool, _telling_of_bytes()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def send(self, request: UpstreamRequest, sending: Callable[[], None] = lambda: None) -> "_Exchange":
        """Send `request` and enter when the answer's head is there. Leaving closes the connection unless the body was
        read to its end, so a cancelled task hangs up at once. `sending` is called once, when the connection is there
        and the request's first byte is next.

        Raises `UpstreamUnreachable`, `UpstreamTimeout` (while connecting) and `UpstreamBroken`.
        """
        return _Exchange(self, request, sending)

    @asynccontextmanager
    async def transfer(self, transfer: Transfer, sending: Callable[[], None] = lambda: None) -> AsyncIterator[Response]:
        """As `send`, over a connection of its own, so that nothing is ever sent twice."""
        try:
            async with await self._fresh_session.request(
                transfer.method,
                transfer.url,
                data=transfer.body or None,
                headers=transfer.headers,
                allow_redirects=False,
                trace_request_ctx=SimpleNamespace(sending=sending),
            ) as response:
                yield _HttpResponse(response)
        except aiohttp.ClientError as exc:
            raise _fault(exc) from exc

    async def post(self, request: UpstreamRequest, sending: Callable[[], None]) -> aiohttp.ClientResponse:
        """One request; a second one at once, over a new connection, when a pooled one turned out to be dead before any
        byte came."""
        body = _Body(request.body, sending)
        try:
            return await self._session.post(request.url, data=body, headers=request.headers, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if body.first_on_connection:
                raise
        return await self._fresh_session.post(
            request.url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            trace_request_ctx=SimpleNamespace(sending=_nothing),
        )


class _Exchange:
    """A request and its answer, as a context: a generator would cost a hundredth of the whole job."""

    __slots__ = ("_request", "_response", "_sending", "_upstream")

    def __init__(self, upstream: Upstream, request: UpstreamRequest, sending: Callable[[], None]) -> None:
        self._upstream = upstream
        self._request = request
        self._sending = sending
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> Response:
        if self._request.url.startswith(simulated.SCHEME):
            self._sending()
            return await simulated.respond(self._request)
        try:
            self._response = await self._upstream.post(self._request, self._sending)
        except aiohttp.ClientError as exc:
            raise _fault(exc) from exc
        return _HttpResponse(self._response)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._response is not None:
            await self._response.__aexit__(kind, error, trace)
        if isinstance(error, aiohttp.ClientError):
            raise _fault(error) from error


class _Body(aiohttp.BytesPayload):
    """A request's body, that tells when it is about to be written. aiohttp's tracing would tell, too, for eight calls a
    request."""

    first_on_connection = False
    """The connection was made for this request."""

    def __init__(self, body: bytes, sending: Callable[[], None]) -> None:
        super().__init__(body)
        self._sending = sending

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._sending()  # the head waits for the body, and both are written next
        await super().write_with_length(writer, content_length)


class _Pool(aiohttp.TCPConnector):
    """Tells a `_Body` that its connection is a new one."""

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> ResponseHandler:
        if isinstance(req.body, _Body):
            req.body.first_on_connection = True
        return await super()._create_connection(req, traces, timeout)


def _session(connector: aiohttp.TCPConnector, *traces: aiohttp.TraceConfig) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept"),
        headers={"User-Agent": "headrace"},
        max_field_size=MAX_HEADER_BYTES,
        # Looking for proxies costs time on every request, so it happens only where one is configured.
        trust_env=any(name.lower() in _PROXIES for name in os.environ),
        trace_configs=list(traces),
    )


def _telling_of_bytes() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note_sending)  # in fact right before head and body are written
    return trace


class _HttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := await self._next():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamBroken(f"The provider's answer is over {MAX_ANSWER_BYTES} bytes.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        while part := await self._next():
            yield part

    async def _next(self) -> bytes:
        """What has arrived since the last one; empty at the body's end."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as exc:
            raise UpstreamBroken("The provider's answer ended in the middle.") from exc


async def _note_sending(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    progress = context.trace_request_ctx
    progress.sending()
    progress.sending = _nothing  # a large body goes out in several pieces


def _nothing() -> None:
    pass


def _fault(exc: aiohttp.ClientError) -> UpstreamError:
    match exc:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return _unreachable(exc)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return UpstreamUnreachable(f"Connection error: the provider closed the connection ({_name(exc)}).")
        case aiohttp.InvalidURL():
            return UpstreamUnreachable("Connection error: the provider's address is no URL: check its api_base.")
        case _:
            return UpstreamBroken(f"The provider's answer breaks HTTP ({_name(exc)}).")


def _unreachable(exc: aiohttp.ClientError | asyncio.TimeoutError) -> UpstreamUnreachable | UpstreamTimeout:
    match exc:
        case aiohttp.ConnectionTimeoutError():
            return UpstreamTimeout(f"Connection error: no connection within {CONNECT_TIMEOUT:g} s.")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return UpstreamUnreachable(f"Connection error: TLS failed ({_name(exc)}).")
        case aiohttp.ClientConnectorDNSError():
            return UpstreamUnreachable("Connection error: the provider's host name does not resolve.")
        case _:
            return UpstreamUnreachable(f"Connection error: cannot connect to the provider ({_name(exc)}).")


def _name(exc: BaseException) -> str:
    return type(exc).__name__
