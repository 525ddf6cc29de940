"""Requests about batches: each with a limit on its time, and errors in the words of the provider's adapter."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from shared.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from workers.json_lines import LineCutter
from workers.providers.base import Adapter, UpstreamRequest
from workers.upstream import Response, Transfer, Upstream

SHORT = 60.0  # seconds, for requests that only ask
LONG = 900.0  # seconds, for those that carry lines
_SILENCE = 120.0  # seconds without a byte of the results
_LONGEST_LINE = 64 * 1024 * 1024  # bytes, as the answer of a live call
_LONGEST_ERROR = 64 * 1024  # bytes of an error that are looked at


class Unsent(UpstreamUnreachable):
    """There was no connection, so the provider knows nothing of the request."""


@dataclass(frozen=True, slots=True)
class ProviderHttp:
    """Towards one provider with one key. `live` is a live call of the deployment: it knows address and headers."""

    upstream: Upstream
    adapter: Adapter
    live: UpstreamRequest

    def headers(self, content_type: str = "application/json") -> dict[str, str]:
        """Those of a live call, for content of this type."""
        kept = {name: value for name, value in self.live.headers.items() if name.lower() != "content-type"}
        return kept | {"Content-Type": content_type}

    async def json(self, transfer: Transfer, *, limit: float = SHORT) -> dict[str, Any]:
        """The object that it is answered with, an empty one for an empty answer."""
        body = (await self.exchange(transfer, limit=limit))[1]
        try:
            answer = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as exc:
            raise UpstreamBroken("The answer about a batch is not JSON: check api_base.") from exc
        if not isinstance(answer, dict):
            raise UpstreamBroken("The answer about a batch is not a JSON object: check api_base.")
        return answer

    async def exchange(self, transfer: Transfer, *, limit: float = SHORT) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of the answer."""
        sending = asyncio.Event()
        try:
            async with asyncio.timeout(limit), self.upstream.transfer(transfer, sending.set) as response:
                await self._check(response)
                return response.headers, await response.read()
        except TimeoutError as exc:
            raise UpstreamTimeout(f"No answer about a batch within {limit:g} s.") from exc
        except (UpstreamUnreachable, UpstreamTimeout) as error:
            if error.status is None and not sending.is_set():
                raise Unsent(error.message) from error
            raise

    async def lines(self, transfer: Transfer) -> AsyncGenerator[dict[str, Any], None]:
        """The objects of an answer in JSON lines, as they come. Lines that are none are left out: whatever they were
        about is treated as not run."""
        cutter = LineCutter(_LONGEST_LINE)
        async with aclosing(self._pieces(transfer)) as pieces:
            async for piece in pieces:
                for line in cutter.feed(piece):
                    if (row := _object(line.text)) is not None:
                        yield row
        last = cutter.close()
        if last is not None and (row := _object(last.text)) is not None:
            yield row

    async def _pieces(self, transfer: Transfer) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(SHORT):
                    response = await stack.enter_async_context(self.upstream.transfer(transfer))
                    await self._check(response)
            except TimeoutError as exc:
                raise UpstreamTimeout(f"No results of a batch within {SHORT:g} s.") from exc
            pieces = response.iter_bytes()
            while True:
                try:
                    async with asyncio.timeout(_SILENCE):
                        piece = await anext(pieces, None)
                except TimeoutError as exc:
                    raise UpstreamTimeout(f"The results of a batch stalled for {_SILENCE:g} s.") from exc
                if piece is None:
                    return
                yield piece

    async def _check(self, response: Response) -> None:
        if response.status >= 400:
            body = await response.read()
            raise self.adapter.error(response.status, response.headers, body[:_LONGEST_ERROR])
        if response.status >= 300:
            raise UpstreamBroken(f"The provider answered with a redirect ({response.status}).", status=response.status)


def _object(text: bytes | None) -> dict[str, Any] | None:
    try:
        row = orjson.loads(text or b"null")
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None
