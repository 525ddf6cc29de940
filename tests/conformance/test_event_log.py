"""What every EventLog promises. `api` and `worker` are two processes' logs; in the embedded profile they are one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from broker.events import memory, redis
from broker.interfaces import EventLog, Follower
from shared.errors import AppError, QueueFull, Unavailable
from shared.events import Event, Kind

JOB = "0192f0c1-2d3e-7abc-8def-000000000001"
PATIENCE = 60.0  # seconds
TTL = 0.3  # seconds, of logs that are to be forgotten
Connect = Callable[[], memory.MemoryEventLog | redis.RedisEventLog]


@pytest.fixture
def ttl() -> float:
    """Seconds after which a log is forgotten: more than any test takes, if it does not say otherwise."""
    return 600.0


@pytest.fixture(params=["memory", "redis"])
def connect(request: pytest.FixtureRequest, namespace: str, ttl: float) -> Connect:
    """Opens the log of another process."""
    if request.param == "memory":
        log = memory.MemoryEventLog(ttl=ttl)
        return lambda: log
    url = request.getfixturevalue("redis_url")
    return lambda: redis.connect(url, namespace=namespace, ttl=ttl)


@pytest.fixture
async def api(connect: Connect) -> AsyncIterator[EventLog]:
    async with connect() as log:
        yield log


@pytest.fixture
async def worker(connect: Connect, api: EventLog) -> AsyncIterator[EventLog]:
    async with AsyncExitStack() as stack:
        log = connect()
        yield log if log is api else await stack.enter_async_context(log)


def chunk(seq: int, job_id: str = JOB, data: bytes = b"data: {}\n\n") -> Event:
    return Event(job_id, seq, Kind.CHUNK, data)


def completed(seq: int, job_id: str = JOB) -> Event:
    return Event(job_id, seq, Kind.COMPLETED, b"{}", {"usage": {"output": 3}})


def started(job_id: str = JOB, attempt: int = 1) -> Event:
    return Event(job_id, 0, Kind.STARTED, meta={"attempt": attempt})


async def rest_of(follower: Follower) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in follower]


async def eventually(claim: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await claim():
            await asyncio.sleep(0.01)


async def test_a_follower_gets_every_event_in_order_and_ends_after_the_last(api: EventLog, worker: EventLog) -> None:
    events = [chunk(1), chunk(2, data=b"\x00\xff"), chunk(3), completed(4)]
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, events[:1])
    await worker.emit(api.reply_channel, events[1:])

    assert await rest_of(follower) == events


async def test_a_failed_event_is_a_last_event(api: EventLog, worker: EventLog) -> None:
    failed = Event(JOB, 1, Kind.FAILED, meta={"error": {"code": "unavailable"}})
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [failed])

    assert await rest_of(follower) == [failed]
    with pytest.raises(StopAsyncIteration):
        await follower.next()


async def test_started_events_are_logged_and_not_delivered(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [started(), chunk(1), started(attempt=2), completed(2)])

    assert await rest_of(follower) == [chunk(1), completed(2)]
    assert await api.replay(JOB) == [started(), chunk(1), started(attempt=2), completed(2)]


async def test_an_attempt_is_claimed_once_until_the_claim_runs_out(api: EventLog, worker: EventLog) -> None:
    claims = await asyncio.gather(api.claim(JOB, 1, 60), worker.claim(JOB, 1, 60), api.claim(JOB, 1, 60))
    others = [await worker.claim(JOB, 2, 0.05), await worker.claim("other", 1, 60)]

    assert sorted(claims) == [False, False, True]
    assert others == [True, True]
    await eventually(lambda: api.claim(JOB, 2, 60))


async def test_followers_of_different_jobs_get_only_their_own(api: EventLog, worker: EventLog) -> None:
    one, other = api.follow("one"), api.follow("other")

    await worker.emit(api.reply_channel, [chunk(1, "one"), chunk(1, "other"), completed(2, "other")])
    await worker.emit(api.reply_channel, [completed(2, "one")])

    assert await rest_of(one) == [chunk(1, "one"), completed(2, "one")]
    assert await rest_of(other) == [chunk(1, "other"), completed(2, "other")]


async def test_a_wait_that_times_out_loses_nothing(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    with pytest.raises(TimeoutError):
        await follower.next(timeout=0.02)
    await worker.emit(api.reply_channel, [chunk(1), completed(2)])

    assert await follower.next(timeout=PATIENCE) == chunk(1)
    assert await rest_of(follower) == [completed(2)]


async def test_a_waiting_follower_is_woken_by_an_event(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        waiting = group.create_task(follower.next())
        await asyncio.sleep(0)
        await worker.emit(api.reply_channel, [chunk(1)])

    assert waiting.result() == chunk(1)


async def test_a_doorbell_that_never_rang_is_made_good_from_the_log(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [chunk(1)])
    await worker.emit("somebody-else", [chunk(2), started(attempt=2), chunk(3)])
    await worker.emit(api.reply_channel, [chunk(4), completed(5)])

    assert await rest_of(follower) == [chunk(1), chunk(2), chunk(3), chunk(4), completed(5)]


async def test_a_follower_that_missed_the_beginning_reads_it_from_the_log(api: EventLog, worker: EventLog) -> None:
    await worker.emit("", [chunk(1), chunk(2)])
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [completed(3)])

    assert await rest_of(follower) == [chunk(1), chunk(2), completed(3)]


async def test_an_event_that_is_delivered_twice_is_seen_once(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [chunk(1), chunk(2)])
    await worker.emit(api.reply_channel, [chunk(2), completed(3)])

    assert await rest_of(follower) == [chunk(1), chunk(2), completed(3)]


async def test_a_slow_follower_misses_nothing_and_holds_nobody_up(api: EventLog, worker: EventLog) -> None:
    events = [*(chunk(seq, data=b"%d" % seq) for seq in range(1, 1500)), completed(1500)]
    slow, quick = api.follow(JOB), api.follow("quick")

    for at in range(0, len(events), 100):
        await worker.emit(api.reply_channel, events[at : at + 100])
    await worker.emit(api.reply_channel, [completed(1, "quick")])

    assert await rest_of(quick) == [completed(1, "quick")]
    assert await rest_of(slow) == events


async def test_a_slow_follower_goes_on_while_events_keep_coming(api: EventLog, worker: EventLog) -> None:
    events = [*(chunk(seq) for seq in range(1, 1200)), completed(1200)]
    follower = api.follow(JOB)

    async def produce() -> None:
        for at in range(0, len(events), 7):
            await worker.emit(api.reply_channel, events[at : at + 7])

    async def read() -> list[int]:
        seen = []
        async for event in follower:
            seen.append(event.seq)
            if event.seq % 100 == 0:
                await asyncio.sleep(0.01)
        return seen

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        group.create_task(produce())

    assert reading.result() == list(range(1, 1201))


async def test_a_log_that_lost_events_is_an_error_and_not_a_hang(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)

    await worker.emit(api.reply_channel, [chunk(1)])
    await worker.emit(api.reply_channel, [chunk(3)])

    assert await follower.next(timeout=PATIENCE) == chunk(1)
    with pytest.raises(Unavailable, match="lost events 2 to 2"):
        await follower.next(timeout=PATIENCE)


async def test_closing_ends_the_iteration_even_of_a_waiting_reader(api: EventLog) -> None:
    follower = api.follow(JOB)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        reading = group.create_task(rest_of(follower))
        await asyncio.sleep(0)
        follower.close()
        follower.close()

    assert reading.result() == []


async def test_a_follower_whose_job_will_not_run_raises_why(api: EventLog, worker: EventLog) -> None:
    follower = api.follow(JOB)
    await worker.emit(api.reply_channel, [chunk(1)])
    assert await follower.next(timeout=PATIENCE) == chunk(1)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        reading = group.create_task(error_of(follower))
        await asyncio.sleep(0)
        follower.fail(QueueFull("the lane is full", retry_after=3.0))

    assert isinstance(reading.result(), QueueFull)
    assert isinstance(await error_of(follower), QueueFull)


async def error_of(follower: Follower) -> AppError:
    with pytest.raises(AppError) as caught:
        await follower.next()
    return caught.value


async def test_a_worker_is_present_until_its_announcement_ends(api: EventLog, worker: EventLog) -> None:
    await worker.announce("one", 60)
    await worker.announce("two", 60)
    assert [await api.present(name) for name in ("one", "two", "unknown")] == [True, True, False]
    await worker.announce("one", 0.1)

    async def gone() -> bool:
        return not await api.present("one")

    await eventually(gone)
    assert await api.present("two")
    await worker.announce("two", 0)
    assert not await api.present("two")


async def test_replay_returns_what_follows_and_every_started_event(api: EventLog, worker: EventLog) -> None:
    await worker.emit("", [started(), chunk(1), chunk(2), started(attempt=2), completed(3)])

    assert await api.replay(JOB, after=2) == [started(), started(attempt=2), completed(3)]
    assert await api.replay("unknown") == []


async def test_replay_returns_logs_of_any_length(api: EventLog, worker: EventLog) -> None:
    await worker.emit("", [chunk(seq) for seq in range(1, 2501)])

    assert [event.seq for event in await api.replay(JOB)] == list(range(1, 2501))


@pytest.mark.parametrize("ttl", [TTL])
@pytest.mark.parametrize("event", [chunk(1), completed(1), started()])
async def test_a_log_is_forgotten_some_time_after_its_newest_event(
    api: EventLog, worker: EventLog, event: Event
) -> None:
    began = time.monotonic()
    await worker.emit(api.reply_channel, [event])
    assert await api.replay(JOB) == [event] or time.monotonic() - began > TTL

    async def forgotten() -> bool:
        return await api.replay(JOB) == []

    await eventually(forgotten)


async def test_a_started_mark_is_in_the_log_for_the_next_worker(api: EventLog, worker: EventLog) -> None:
    await worker.mark_started(started())

    assert await api.replay(JOB) == [started()]


async def test_a_cancellation_reaches_whoever_listens(api: EventLog, worker: EventLog) -> None:
    heard, other = asyncio.Event(), asyncio.Event()

    with worker.on_cancel(JOB, heard.set), worker.on_cancel("other", other.set):
        await api.cancel(JOB)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()

    assert not other.is_set()
    assert await worker.is_cancelled(JOB, time.time())
    assert not await worker.is_cancelled("other", time.time())


async def test_a_cancellation_from_before_is_known_at_once(api: EventLog, worker: EventLog, connect: Connect) -> None:
    heard = asyncio.Event()
    await api.cancel(JOB)

    assert await worker.is_cancelled(JOB, time.time() - 60)
    with api.on_cancel(JOB, heard.set):
        assert heard.is_set()


async def test_a_worker_that_starts_after_the_cancellation_asks_for_it(api: EventLog, connect: Connect) -> None:
    await api.cancel(JOB)

    async with connect() as late:
        assert await late.is_cancelled(JOB, since=time.time() - 1)
        assert not await late.is_cancelled("other", since=time.time() - 1)


async def test_nobody_is_told_after_leaving(api: EventLog) -> None:
    left = asyncio.Event()
    with api.on_cancel(JOB, left.set):
        pass

    await api.cancel(JOB)

    assert not left.is_set()


async def test_a_large_body_waits_for_its_worker(api: EventLog, worker: EventLog) -> None:
    body = bytes(range(256)) * 8192

    await api.put_body(JOB, body, ttl=60)

    assert await worker.get_body(JOB) == body
    assert await worker.get_body("unknown") is None


async def test_a_large_body_is_forgotten_after_its_time(api: EventLog) -> None:
    await api.put_body(JOB, b"{}", ttl=0.05)

    async def forgotten() -> bool:
        return await api.get_body(JOB) is None

    await eventually(forgotten)


async def test_it_answers_a_ping(api: EventLog) -> None:
    await api.ping()


async def test_each_process_has_a_channel_of_its_own(namespace: str, redis_url: str) -> None:
    channels = {
        memory.connect().reply_channel,
        memory.connect().reply_channel,
        redis.connect(redis_url, namespace=namespace).reply_channel,
        redis.connect(redis_url, namespace=namespace).reply_channel,
    }

    assert len(channels) == 4
