"""What a connection to Redis does about a peer that does not read, breaks off, or says what nobody asked for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from broker import redis_pipe, redis_subscription
from broker.redis_pipe import Pipe
from broker.redis_subscription import Subscription
from shared.errors import Unavailable
from tests.conformance.redis_proxy import RedisProxy, proxy_before
from tests.servers import Redis

LARGE = b"x" * 64_000_000
"""More than the sockets between a client and a server that does not read can take."""


@pytest.fixture
async def proxy() -> AsyncIterator[RedisProxy]:
    async with Redis() as server, proxy_before(server.port) as proxy:
        yield proxy


class Listener:
    """What a subscription to `channel` told."""

    def __init__(self) -> None:
        self.heard = asyncio.Queue[bytes]()
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    def on_down(self) -> None:
        self.up.clear()
        self.down.set()


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    listener = Listener()
    handlers = {"channel": listener.heard.put_nowait}
    async with Subscription(url, handlers, on_up=listener.up.set, on_down=listener.on_down):
        yield listener


async def eventually(act: Awaitable[object]) -> None:
    async with asyncio.timeout(10):
        await act


@pytest.mark.parametrize("how", [RedisProxy.cut, RedisProxy.end])
async def test_commands_behind_a_congestion_outlive_the_connection_that_breaks_in_it(
    proxy: RedisProxy, how: Callable[[RedisProxy], None]
) -> None:
    async with Pipe(proxy.url, timeout=3000) as pipe:
        await pipe.call("PING")
        proxy.listening.clear()
        written = pipe.submit(("SET", "large", LARGE))
        pipe.flush()
        behind = pipe.submit(("ECHO", "behind"))
        pipe.flush()

        how(proxy)

        with pytest.raises(Unavailable, match="lost before the answer"):
            await written
        proxy.listening.set()
        assert await behind == [b"behind"]


async def test_a_congested_connection_without_answers_is_dropped_with_what_it_has_not_sent(proxy: RedisProxy) -> None:
    async with Pipe(proxy.url) as pipe:
        await pipe.call("PING")
        proxy.listening.clear()
        unanswered = pipe.submit(("SET", "large", LARGE))

        with pytest.raises(Unavailable, match="lost before the answer"):
            await unanswered
        proxy.listening.set()

        assert await pipe.call("EXISTS", "large") == 0


async def test_no_more_than_a_bound_waits_behind_a_congestion(
    proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pipe, "_MAX_UNSENT", 65_000_000)
    async with Pipe(proxy.url, timeout=300) as pipe:
        await pipe.call("PING")
        proxy.listening.clear()
        written = pipe.submit(("SET", "large", LARGE))
        pipe.flush()
        behind = pipe.submit(("STRLEN", "large"), ("SET", "large", LARGE))
        pipe.flush()

        with pytest.raises(Unavailable, match="does not keep up"):
            await pipe.submit(("SET", "large", LARGE[:1_500_000]))
        proxy.listening.set()
        assert await written == [b"OK"]
        assert await behind == [len(LARGE), b"OK"]


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"+OK\r\n", "nobody asked for"),
        (b"-ERR what?\r\n", "nobody asked for"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error"),
    ],
)
async def test_a_server_out_of_step_is_hung_up_on(
    proxy: RedisProxy, said: bytes, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Pipe(proxy.url) as pipe:
        await pipe.call("PING")
        await eventually(proxy.accepted.acquire())

        proxy.say(said)

        await eventually(proxy.accepted.acquire())
        assert await pipe.call("ECHO", "again") == b"again"
    assert [complaint in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-LOADING Redis is loading the dataset in memory\r\n", b"-NOAUTH who?\r\n"],
)
async def test_what_is_no_answer_ends_the_connection_and_not_one_command(proxy: RedisProxy, said: bytes) -> None:
    async with Pipe(proxy.url) as pipe:
        await pipe.call("PING")
        asked = pipe.submit(("BLPOP", "nothing", 0))
        pipe.flush()

        proxy.say(said)

        with pytest.raises(Unavailable, match="lost before the answer"):
            await asked
        assert await pipe.call("ECHO", "again") == b"again"


async def test_a_server_that_says_too_much_in_the_handshake_is_unavailable() -> None:
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"LIB-VER")
        writer.write(b"+OK\r\n+OK\r\n+OK\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()

        with pytest.raises(Unavailable, match="nobody asked for"):
            async with Pipe(f"redis://{host}:{port}"):
                pass
        await eventually(left.wait())


@pytest.mark.parametrize("said", [b"+OK\r\n", b"-NOPERM no\r\n", b"*2\r\n$3\r\nnew\r\n:1\r\n", b"?"])
async def test_a_subscription_out_of_step_is_made_again(proxy: RedisProxy, said: bytes) -> None:
    async with listening(proxy.url) as listener, redis.asyncio.from_url(proxy.url) as other:
        proxy.say(said)

        await eventually(listener.down.wait())
        await eventually(listener.up.wait())
        await other.publish("channel", "news")
        assert await asyncio.wait_for(listener.heard.get(), 10) == b"news"


async def test_a_silent_subscription_is_made_again(proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_subscription, "_HEARTBEAT", 0.2)
    async with listening(proxy.url) as listener:
        proxy.listening.clear()

        await eventually(listener.down.wait())
        proxy.listening.set()
        await eventually(listener.up.wait())
