"""HTTP to a provider that behaves as badly as real ones do, on a real socket."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from shared.errors import UpstreamBroken, UpstreamUnreachable
from tests.fakes.wire import Exchange, Server
from workers import upstream as module
from workers.providers.base import UpstreamRequest
from workers.upstream import Upstream

Handler = Callable[[Exchange], Awaitable[None]]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as it:
        yield it


class Provider:
    """Answers with `handle` and counts what arrived."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self.seen: list[Exchange] = []
        self.hung_up = asyncio.Event()
        self.url = ""

    async def answer(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        try:
            await self._handle(exchange)
        except asyncio.CancelledError:
            self.hung_up.set()
            raise


@asynccontextmanager
async def provider(handle: Handler) -> AsyncIterator[Provider]:
    it = Provider(handle)
    server = Server(it.answer)
    it.url = f"http://127.0.0.1:{await server.start()}/v1"
    try:
        yield it
    finally:
        await server.stop()


async def read(upstream: Upstream, url: str) -> tuple[int, bytes]:
    async with upstream.send(UpstreamRequest(url, {"authorization": "Bearer k"}, b"{}")) as response:
        return response.status, await response.read()


async def fine(exchange: Exchange) -> None:
    await exchange.answer(200, b"fine", {})


async def test_a_connection_serves_many_requests(upstream: Upstream) -> None:
    async with provider(fine) as it:
        answers = [await read(upstream, it.url) for _ in range(3)]

    assert answers == [(200, b"fine")] * 3
    assert [each.request.connection for each in it.seen] == [1, 1, 1]


async def test_an_error_status_is_an_answer(upstream: Upstream) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(429, b"slow down", {"Retry-After": "3"})

    async with provider(refuse) as it, upstream.send(UpstreamRequest(it.url, {}, b"{}")) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "3")


async def test_a_pooled_connection_that_died_is_replaced_at_once_and_only_once(upstream: Upstream) -> None:
    async def die_on_the_second(exchange: Exchange) -> None:
        if exchange.request.ordinal == 1:
            await fine(exchange)
        else:
            exchange.reset()

    async with provider(die_on_the_second) as it:
        answers = [await read(upstream, it.url) for _ in range(2)]

    assert answers == [(200, b"fine")] * 2
    assert [(each.request.connection, each.request.ordinal) for each in it.seen] == [(1, 1), (1, 2), (2, 1)]


async def test_a_fresh_connection_that_dies_is_not_tried_again(upstream: Upstream) -> None:
    async def die(exchange: Exchange) -> None:
        exchange.reset()

    async with provider(die) as it:
        with pytest.raises(UpstreamUnreachable):
            await read(upstream, it.url)

    assert len(it.seen) == 1


async def test_a_pooled_connection_that_dies_after_the_head_is_not_replaced(upstream: Upstream) -> None:
    """A byte came: the provider has begun to work, and may bill."""

    async def half_on_the_second(exchange: Exchange) -> None:
        if exchange.request.ordinal == 1:
            await fine(exchange)
        else:
            await exchange.head(200, {"Content-Length": "100"}, b"half")
            exchange.close()

    async with provider(half_on_the_second) as it:
        await read(upstream, it.url)
        with pytest.raises(UpstreamBroken):
            await read(upstream, it.url)

    assert len(it.seen) == 2


@pytest.mark.parametrize("how", ["length", "chunks", "reset", "bad chunk", "no gzip"])
async def test_a_cut_body_is_broken_whatever_its_status(upstream: Upstream, how: str) -> None:
    async def cut(exchange: Exchange) -> None:
        match how:
            case "length":
                await exchange.head(200, {"Content-Length": "100"}, b"half")
            case "chunks":
                await exchange.stream_head()
                await exchange.chunk(b"half")
            case "reset":
                await exchange.head(200, {"Content-Length": "100"}, b"half")
                exchange.reset()
                return
            case "bad chunk":
                await exchange.stream_head()
                await exchange.raw(b"zz\r\nhalf")
            case _:
                await exchange.answer(200, b"plain", {"Content-Encoding": "gzip"})
        exchange.close()

    async with provider(cut) as it:
        with pytest.raises(UpstreamBroken):
            await read(upstream, it.url)


async def test_an_answer_that_is_not_http_is_broken(upstream: Upstream) -> None:
    async def mumble(exchange: Exchange) -> None:
        await exchange.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        exchange.close()

    async with provider(mumble) as it:
        with pytest.raises(UpstreamBroken):
            await read(upstream, it.url)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_the_key_stays_here(upstream: Upstream, status: int) -> None:
    async with provider(fine) as elsewhere:

        async def redirect(exchange: Exchange) -> None:
            await exchange.answer(status, b"", {"Location": elsewhere.url})

        async with provider(redirect) as it:
            assert (await read(upstream, it.url))[0] == status

    assert elsewhere.seen == []


async def test_a_refused_connection_is_unreachable_within_a_moment(upstream: Upstream) -> None:
    async with provider(fine) as it:
        closed = it.url
    begun = time.monotonic()

    with pytest.raises(UpstreamUnreachable, match="cannot connect"):
        await read(upstream, closed)

    assert time.monotonic() - begun < 5


async def test_a_name_that_does_not_resolve_is_unreachable_and_says_so(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnreachable, match="does not resolve"):
        await read(upstream, "http://no-such-host.invalid/v1")


async def test_an_address_that_is_none_is_told_as_such(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnreachable, match="address"):
        await read(upstream, "not-an-address")


async def test_tls_with_a_server_that_speaks_none_is_unreachable(upstream: Upstream) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamUnreachable, match="TLS"):
            await read(upstream, f"https://127.0.0.1:{port}/v1")


async def test_a_body_over_the_limit_is_broken(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)

    async def flood(exchange: Exchange) -> None:
        await exchange.stream_head()
        while True:
            await exchange.chunk(b"x" * 600)

    async with provider(flood) as it:
        with pytest.raises(UpstreamBroken, match="over 1000 bytes"):
            await read(upstream, it.url)


async def test_a_bomb_that_unpacks_over_the_limit_is_broken(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)

    async def bomb(exchange: Exchange) -> None:
        await exchange.answer(200, gzip.compress(b"\0" * 100_000), {"Content-Encoding": "gzip"})

    async with provider(bomb) as it:
        with pytest.raises(UpstreamBroken, match="over 1000 bytes"):
            await read(upstream, it.url)


async def test_gzip_is_unpacked(upstream: Upstream) -> None:
    async def packed(exchange: Exchange) -> None:
        await exchange.answer(200, gzip.compress(b"plain"), {"Content-Encoding": "gzip"})

    async with provider(packed) as it:
        assert await read(upstream, it.url) == (200, b"plain")


async def test_a_body_arrives_piece_by_piece(upstream: Upstream) -> None:
    more = asyncio.Event()

    async def pieces(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(b"one")
        await more.wait()
        await exchange.chunk(b"two")
        await exchange.end_chunks()

    async with provider(pieces) as it:
        got = []
        async with upstream.send(UpstreamRequest(it.url, {}, b"{}")) as response:
            async for piece in response.iter_bytes():
                got.append(piece)
                more.set()

    assert got == [b"one", b"two"]


async def test_a_task_that_is_cancelled_hangs_up(upstream: Upstream) -> None:
    async with provider(lambda exchange: asyncio.sleep(60)) as it:
        waiting = asyncio.create_task(read(upstream, it.url))
        while not it.seen:
            await asyncio.sleep(0.001)

        waiting.cancel()

        async with asyncio.timeout(30):
            await it.hung_up.wait()


async def test_leaving_in_the_middle_of_a_body_hangs_up(upstream: Upstream) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(b"begin")
        await asyncio.sleep(60)

    async with provider(endless) as it:
        async with upstream.send(UpstreamRequest(it.url, {}, b"{}")) as response:
            async for _ in response.iter_bytes():
                break

        async with asyncio.timeout(30):
            await it.hung_up.wait()


async def test_no_cookie_comes_back(upstream: Upstream) -> None:
    async def crumble(exchange: Exchange) -> None:
        await exchange.answer(200, b"", {"Set-Cookie": "session=1; Path=/"})

    async with provider(crumble) as it:
        await read(upstream, it.url)
        await read(upstream, it.url)

    assert all("cookie" not in each.request.headers for each in it.seen)
