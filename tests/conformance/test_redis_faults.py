"""What the event log and the limiter keep when Redis breaks: cut connections, a frozen, killed or flushed server."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import redis.asyncio

from broker.events.redis import RedisEventLog, connect
from broker.interfaces import Candidate, Grant, Limits
from broker.limits import redis as limits
from broker.redis_pipe import TIMEOUT, Pipe
from shared.errors import Unavailable
from shared.events import Event, Kind
from tests.servers import Redis

ROOT = Path(__file__).parents[2]
JOB = "0192f0c1-2d3e-7abc-8def-000000000001"
_PATIENCE = 60.0  # seconds


@pytest.fixture
async def server() -> AsyncIterator[Redis]:
    """A server of the test's own, to do with as it likes."""
    async with Redis() as server:
        yield server


@pytest.fixture
async def admin(server: Redis) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.from_url(server.url) as client:
        yield client


@pytest.fixture
async def log(server: Redis) -> AsyncIterator[RedisEventLog]:
    async with connect(server.url) as log:
        yield log


def chunk(seq: int) -> Event:
    return Event(JOB, seq, Kind.CHUNK, b"%d" % seq)


async def eventually(act: Awaitable[object]) -> None:
    async with asyncio.timeout(_PATIENCE):
        await act


async def until_it_works(log: RedisEventLog) -> None:
    while True:
        try:
            return await log.ping()
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_a_follower_gets_what_was_emitted_while_its_subscription_was_cut(
    log: RedisEventLog, admin: "redis.asyncio.Redis"
) -> None:
    follower = log.follow(JOB)
    await log.emit(log.reply_channel, [chunk(1)])

    await admin.client_kill_filter(_type="pubsub")
    await log.emit(log.reply_channel, [chunk(2)])
    await log.emit(log.reply_channel, [chunk(3), Event(JOB, 4, Kind.COMPLETED)])

    async with asyncio.timeout(_PATIENCE):
        assert [event.seq async for event in follower] == [1, 2, 3, 4]


async def test_a_job_cancelled_while_the_subscription_was_cut_is_stopped(
    log: RedisEventLog, admin: "redis.asyncio.Redis"
) -> None:
    heard = asyncio.Event()

    with log.on_cancel(JOB, heard.set):
        await admin.set(f"headrace:cancel:{{{JOB}}}", 1)  # as another process does it, its message lost
        await admin.client_kill_filter(_type="pubsub")

        await eventually(heard.wait())


async def test_commands_without_an_answer_fail_with_their_connection_and_later_ones_wait_for_the_next(
    server: Redis, admin: "redis.asyncio.Redis"
) -> None:
    async with Pipe(server.url) as pipe:
        await pipe.call("PING")
        unanswered = pipe.submit(("BLPOP", "nothing", 0))
        pipe.flush()
        await admin.client_kill_filter(_type="normal", skipme=True)

        with pytest.raises(Unavailable, match="lost before the answer"):
            await unanswered
        assert await pipe.call("ECHO", "again") == b"again"


async def test_a_frozen_server_costs_two_seconds_and_not_more(log: RedisEventLog, admin: "redis.asyncio.Redis") -> None:
    pid = (await admin.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        results = await asyncio.gather(*(log.emit("", [chunk(seq)]) for seq in range(1, 50)), return_exceptions=True)
        elapsed = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)

    assert all(isinstance(result, Unavailable) for result in results)
    assert elapsed < 2 * TIMEOUT  # nobody waited for it after somebody else had
    await eventually(until_it_works(log))


async def test_a_dead_server_fails_requests_fast_and_is_used_again_when_it_is_back(server: Redis) -> None:
    only = Candidate("deployment", "bucket", "key", Limits(rpm=600), 0)
    async with limits.connect(server.url) as limiter:
        await limiter.take("job/1", [only])
        await server.kill()

        with pytest.raises(Unavailable):
            await limiter.take("job/2", [only])
        async with asyncio.timeout(_PATIENCE):
            while True:
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await limiter.take("job/3", [only])
                if time.monotonic() - began < 0.1:
                    break  # no longer waiting for the connection to come back

        await server.start()
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    grant = await limiter.take("job/4", [only])  # its scripts are gone with the server
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
        assert isinstance(grant, Grant)


async def test_a_follower_of_a_flushed_log_fails_instead_of_hanging(server: Redis, log: RedisEventLog) -> None:
    follower = log.follow(JOB)
    await log.emit(log.reply_channel, [chunk(1), chunk(2)])
    assert [(await follower.next(_PATIENCE)).seq, (await follower.next(_PATIENCE)).seq] == [1, 2]

    await server.kill()
    await server.start()

    with pytest.raises(Unavailable):
        await follower.next(timeout=_PATIENCE)


async def test_an_unreachable_server_is_unavailable_at_once(server: Redis) -> None:
    await server.kill()

    for backend in (connect(server.url), limits.connect(server.url)):
        with pytest.raises(Unavailable):
            async with backend:
                pass


async def test_a_wrong_password_is_unavailable_and_not_shown(server: Redis) -> None:
    url = server.url.replace("//", "//:hunter2@")
    async with redis.asyncio.from_url(server.url) as admin:
        await admin.config_set("requirepass", "secret")

    with pytest.raises(Unavailable) as caught:
        async with connect(url):
            pass

    assert "hunter2" not in str(caught.value)


async def test_a_refusal_by_the_server_is_unavailable_and_the_pipe_goes_on(
    server: Redis, admin: "redis.asyncio.Redis"
) -> None:
    async with Pipe(server.url) as pipe:
        await pipe.call("SET", "text", "x")

        refused, fine = pipe.submit(("LPUSH", "text", "y"), ("PING",)), pipe.submit(("GET", "text"))

        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await refused
        assert await fine == [b"x"]


async def test_commands_from_before_the_connection_get_the_whole_timeout_once_it_is_there(
    server: Redis, admin: "redis.asyncio.Redis"
) -> None:
    pid = (await admin.info("server"))["process_id"]
    async with Pipe(server.url, timeout=20) as pipe:
        early = pipe.submit(("PING",))  # the link has not had a turn yet
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(early), 1.5)  # longer than the grace for a connection
        finally:
            os.kill(pid, signal.SIGCONT)

        assert await early == [b"PONG"]


async def test_a_congested_socket_delays_commands_and_loses_none(server: Redis) -> None:
    value = b"x" * 4_000_000
    async with Pipe(server.url, timeout=20) as pipe:
        futures = []
        for number in range(8):
            futures.append(pipe.submit(("SET", f"large-{number}", value), ("STRLEN", f"large-{number}")))
            pipe.flush()

        assert [(await future)[1] for future in futures] == [len(value)] * 8


async def test_cancelling_a_caller_leaves_the_answers_of_others_in_place(server: Redis) -> None:
    async with Pipe(server.url) as pipe:
        given_up = pipe.submit(("ECHO", "one"))
        kept = pipe.submit(("ECHO", "two"))
        given_up.cancel()

        assert await kept == [b"two"]


_KILLED_RIGHT_AFTER = """
import asyncio, os, signal, sys
from broker.events.redis import connect
from shared.events import Event, Kind

async def main():
    async with connect(sys.argv[1], namespace=sys.argv[2]) as log:
        await log.ping()
        for number in range(20):
            log.mark_started(Event(f"job-{number}", 0, Kind.STARTED, meta={"attempt": 1}))
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_started_mark_outlives_the_process_that_left_it(redis_url: str, namespace: str, loop: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED_RIGHT_AFTER, redis_url, namespace, loop, cwd=ROOT
    )
    assert await process.wait() == -signal.SIGKILL

    async with connect(redis_url, namespace=namespace) as log:
        for number in range(20):
            assert len(await log.replay(f"job-{number}")) == 1
