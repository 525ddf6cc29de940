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
        pool = aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=KEEPALIVE_TIMEOUT)
        self._session = await self._stack.enter_async_context(_session(pool))
        # When one pooled connection turns out to be dead, its neighbours probably are, too.
        no_pool = aiohttp.TCPConnector(limit=self._limit, force_close=True)
        self._fresh_session = await self._stack.enter_async_context(_session(no_pool))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def send(
        self, request: UpstreamRequest, sending: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Response]:
        """Send `request` and enter when the answer's head is there. Leaving closes the connection unless the body was
        read to its end, so a cancelled task hangs up at once. `sending` is called once, when the connection is there
        and the request's first byte is next.

        Raises `UpstreamUnreachable`, `UpstreamTimeout` (while connecting) and `UpstreamBroken`.
        """
        if request.url.startswith(simulated.SCHEME):
            sending()
            yield await simulated.respond(request)
            return
        try:
            async with await self._post(request, sending) as response:
                yield _HttpResponse(response)
        except aiohttp.ClientError as exc:
            raise _fault(exc) from exc

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
                trace_request_ctx=SimpleNamespace(reused=False, sending=sending),
            ) as response:
                yield _HttpResponse(response)
        except aiohttp.ClientError as exc:
            raise _fault(exc) from exc

    async def _post(self, request: UpstreamRequest, sending: Callable[[], None]) -> aiohttp.ClientResponse:
        """One request; a second one at once, over a new connection, when a pooled one turned out to be dead before any
        byte came."""
        progress = SimpleNamespace(reused=False, sending=sending)
        try:
            return await _attempt(self._session, request, progress)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorError) or not progress.reused:
                raise
            return await _attempt(self._fresh_session, request, SimpleNamespace(reused=False, sending=_nothing))


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    trace.on_request_chunk_sent.append(_note_sending)  # in fact right before head and body are written
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept"),
        headers={"User-Agent": "headrace"},
        max_field_size=MAX_HEADER_BYTES,
        # Looking for proxies costs time on every request, so it happens only where one is configured.
        trust_env=any(name.lower() in _PROXIES for name in os.environ),
        trace_configs=[trace],
    )


async def _attempt(
    session: aiohttp.ClientSession, request: UpstreamRequest, progress: SimpleNamespace
) -> aiohttp.ClientResponse:
    return await session.post(
        request.url,
        data=request.body,
        headers=request.headers,
        allow_redirects=False,
        trace_request_ctx=progress,
    )


class _HttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in self.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamBroken(f"The provider's answer is over {MAX_ANSWER_BYTES} bytes.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.content.iter_any():
                yield part
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as exc:
            raise UpstreamBroken("The provider's answer ended in the middle.") from exc


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.reused = True


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
