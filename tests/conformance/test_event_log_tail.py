"""What every EventLog promises to who follows a job that another process accepted, from any point on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import redis.asyncio

from broker.events import memory
from broker.events import redis as redis_events
from broker.events.redis import RedisEventLog
from broker.interfaces import EventLog, Follower
from shared.errors import Unavailable
from shared.events import Event, Kind
from tests.servers import Redis

JOB = "0192f0c1-2d3e-7abc-8def-000000000001"
OTHER = "0192f0c1-2d3e-7abc-8def-000000000002"
PATIENCE = 60.0  # seconds
AT_ONCE = 1.5  # seconds; less than the two after which the connection looks by itself
Connect = Callable[[], memory.MemoryEventLog | RedisEventLog]


@pytest.fixture
def connect(backend: str, namespace: str) -> Connect:
    """Opens the log of another process; with memory there is only one."""
    if backend == "memory://":
        log = memory.connect()
        return lambda: log
    return lambda: redis_events.connect(backend, namespace=namespace)


@pytest.fixture
async def viewer(connect: Connect) -> AsyncIterator[EventLog]:
    """The log of an api process that accepted none of the jobs."""
    async with connect() as log:
        yield log


@pytest.fixture
async def worker(connect: Connect, viewer: EventLog) -> AsyncIterator[EventLog]:
    """The log of the process that writes."""
    async with AsyncExitStack() as stack:
        log = connect()
        yield log if log is viewer else await stack.enter_async_context(log)


def chunks(first: int, last: int, job_id: str = JOB) -> list[Event]:
    return [Event(job_id, seq, Kind.CHUNK, b"data: %d\n\n" % seq) for seq in range(first, last + 1)]


def completed(seq: int, job_id: str = JOB) -> Event:
    return Event(job_id, seq, Kind.COMPLETED, meta={"usage": {"output": 3}})


def note(kind: Kind = Kind.ACCEPTED) -> Event:
    return Event(JOB, 0, kind, meta={"key": "k", "attempt": 1})


async def rest_of(follower: Follower) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [event.seq async for event in follower]


async def write(
    log: EventLog, last: int, job_id: str = JOB, at_once: int = 3, *, first: int = 1, until: int | None = None
) -> None:
    """Events `first` to `until`, some at a time. The event `last` is the job's end."""
    events = [*chunks(1, last - 1, job_id), completed(last, job_id)][first - 1 : until]
    for at in range(0, len(events), at_once):
        await log.emit("the accepting api, which is gone", events[at : at + at_once])


async def test_a_finished_log_is_replayed_and_ends(viewer: EventLog, worker: EventLog) -> None:
    await worker.emit("", [*chunks(1, 3), completed(4)])

    async with asyncio.timeout(PATIENCE):
        events = [event async for event in viewer.tail(JOB)]

    assert events == [*chunks(1, 3), completed(4)]


async def test_a_job_is_replayed_and_then_followed_live(viewer: EventLog, worker: EventLog) -> None:
    await worker.emit("", chunks(1, 2))
    tail = viewer.tail(JOB)
    assert [(await tail.next(PATIENCE)).seq for _ in range(2)] == [1, 2]

    await worker.emit("", chunks(3, 3))
    assert (await tail.next(PATIENCE)).seq == 3
    await worker.emit("", [completed(4)])

    assert await rest_of(tail) == [4]


async def test_news_are_told_at_once(viewer: EventLog, worker: EventLog) -> None:
    waiting = []
    for job_id in (JOB, OTHER, "a-third"):
        tail = viewer.tail(job_id)  # while the connection waits for those before it
        with pytest.raises(TimeoutError):
            await tail.next(0.1)
        waiting.append((tail, job_id))

    for tail, job_id in reversed(waiting):
        await worker.emit("", [completed(1, job_id)])
        assert (await tail.next(timeout=AT_ONCE)).seq == 1


@pytest.mark.parametrize("after", [0, 1, 2, 40, 299, 300])
async def test_nothing_is_missing_and_nothing_comes_twice_while_events_keep_coming(
    viewer: EventLog, worker: EventLog, after: int
) -> None:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        early = group.create_task(rest_of(viewer.tail(JOB, after)))
        writing = group.create_task(write(worker, 300))
        late: list[asyncio.Task[list[int]]] = []
        while not writing.done() and len(late) < 100:  # on a slow machine more of them would slow each other down
            late.append(group.create_task(rest_of(viewer.tail(JOB, after))))
            await asyncio.sleep(0.005)

    expected = list(range(after + 1, 301))
    assert early.result() == expected
    assert [task.result() for task in late] == [expected] * len(late)


async def test_a_log_that_does_not_exist_is_waited_for(viewer: EventLog, worker: EventLog) -> None:
    tail = viewer.tail(JOB)
    with pytest.raises(TimeoutError):
        await tail.next(0.05)

    await worker.emit("", [completed(1)])

    assert await rest_of(tail) == [1]


async def test_events_before_the_asked_number_are_passed_over_even_when_they_are_still_to_come(
    viewer: EventLog, worker: EventLog
) -> None:
    await worker.emit("", chunks(1, 2))
    tail = viewer.tail(JOB, after=4)
    with pytest.raises(TimeoutError):
        await tail.next(0.05)

    for event in [*chunks(3, 5), completed(6)]:
        await worker.emit("", [event])

    assert await rest_of(tail) == [5, 6]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_job_that_ends_before_the_asked_number_has_no_events_left(
    viewer: EventLog, worker: EventLog, when: str
) -> None:
    if when == "before":
        await worker.emit("", [*chunks(1, 1), completed(2)])
    tail = viewer.tail(JOB, after=7)
    if when == "after":
        with pytest.raises(TimeoutError):
            await tail.next(0.05)
        await worker.emit("", [*chunks(1, 1), completed(2)])

    assert await rest_of(tail) == []


async def test_notes_are_logged_and_never_told(viewer: EventLog, worker: EventLog) -> None:
    accepted = viewer.tail(JOB)
    follower = viewer.follow(JOB)

    await worker.mark_started(note())
    await worker.emit(viewer.reply_channel, [note(Kind.STARTED), *chunks(1, 1), note(Kind.STARTED), completed(2)])

    assert await rest_of(accepted) == [1, 2]
    assert await rest_of(follower) == [1, 2]
    kinds = [event.kind for event in await viewer.replay(JOB, after=2)]
    assert kinds == [Kind.ACCEPTED, Kind.STARTED, Kind.STARTED]


async def test_a_slow_viewer_misses_nothing_and_holds_nobody_up(viewer: EventLog, worker: EventLog) -> None:
    slow, quick = viewer.tail(JOB), viewer.tail(JOB)
    assert await asyncio.gather(write(worker, 1500, at_once=100), rest_of(quick)) == [None, list(range(1, 1501))]

    assert await rest_of(slow) == list(range(1, 1501))


async def test_a_viewer_that_leaves_takes_nothing_from_the_others(viewer: EventLog, worker: EventLog) -> None:
    leaving, staying = viewer.tail(JOB), viewer.tail(JOB)
    await worker.emit("", chunks(1, 1))
    assert [(await leaving.next(PATIENCE)).seq, (await staying.next(PATIENCE)).seq] == [1, 1]

    leaving.close()
    leaving.close()
    await worker.emit("", [completed(2)])

    assert await rest_of(leaving) == []
    assert await rest_of(staying) == [2]


async def test_one_can_begin_again_when_the_last_viewer_has_left(viewer: EventLog, worker: EventLog) -> None:
    for seq in range(1, 20):
        tail = viewer.tail(JOB, after=seq - 1)
        await asyncio.gather(worker.emit("", chunks(seq, seq)), asyncio.sleep(0.001 * (seq % 5)))
        assert (await tail.next(PATIENCE)).seq == seq
        tail.close()
        await asyncio.sleep(0.001 * (seq % 3))  # the connection is in all states of its end


async def test_lanes_stay_paused_for_every_process_until_they_go_on(viewer: EventLog, worker: EventLog) -> None:
    assert await viewer.paused_lanes() == frozenset()

    await viewer.pause_lane("openai.batch", True)
    await viewer.pause_lane("openai.batch", True)
    await viewer.pause_lane("groq.interactive", True)
    await worker.pause_lane("groq.interactive", False)
    await worker.pause_lane("never.paused", False)

    assert await worker.paused_lanes() == await viewer.paused_lanes() == {"openai.batch"}


# --- Redis alone: what only a server and its connections can do -------------------------------------------------------


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
    async with redis_events.connect(server.url) as log:
        yield log


async def blocked(admin: "redis.asyncio.Redis", count: int) -> None:
    """Wait until so many connections wait in a blocking command."""
    async with asyncio.timeout(PATIENCE):
        while (await admin.info("clients"))["blocked_clients"] != count:
            await asyncio.sleep(0.01)


async def test_a_cut_connection_costs_no_event(server: Redis, log: RedisEventLog, admin: "redis.asyncio.Redis") -> None:
    tails = [log.tail(JOB), log.tail(OTHER)]
    await blocked(admin, 1)

    async def cut() -> None:
        cuts = 0
        while not cuts:
            for client in await admin.client_list():
                if client["cmd"].startswith("xread"):
                    cuts += await admin.client_kill_filter(_id=client["id"])

    async with redis_events.connect(server.url) as worker, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        seen = [group.create_task(rest_of(tail)) for tail in tails]
        for part in range(4):  # cut while events come, and before the end there is always one more cut to survive
            writing = [
                group.create_task(write(worker, 1000, job_id, at_once=2, first=part * 250 + 1, until=part * 250 + 250))
                for job_id in (JOB, OTHER)
            ]
            if part < 3:
                await cut()
            await asyncio.gather(*writing)

    assert [task.result() for task in seen] == [list(range(1, 1001))] * 2


async def test_all_tails_share_one_connection_that_goes_with_the_last(
    log: RedisEventLog, admin: "redis.asyncio.Redis"
) -> None:
    before = (await admin.info("clients"))["connected_clients"]

    tails = [log.tail(f"job-{number % 10}") for number in range(30)]
    await blocked(admin, 1)
    during = (await admin.info("clients"))["connected_clients"]
    await log.emit("", chunks(1, 3, "job-1"))
    assert [(await tails[1].next(PATIENCE)).seq for _ in range(3)] == [1, 2, 3]
    await blocked(admin, 1)  # waits for news again, and does not ask for the old
    for tail in tails:
        tail.close()
    await blocked(admin, 0)

    assert during == before + 1
    async with asyncio.timeout(PATIENCE):
        while (await admin.info("clients"))["connected_clients"] != before:
            await asyncio.sleep(0.01)


async def test_a_viewer_of_a_flushed_log_fails_instead_of_hanging(server: Redis, log: RedisEventLog) -> None:
    tail = log.tail(JOB)
    await log.emit("", chunks(1, 2))
    assert [(await tail.next(PATIENCE)).seq, (await tail.next(PATIENCE)).seq] == [1, 2]

    await server.kill()
    await server.start()

    with pytest.raises(Unavailable):
        await tail.next(timeout=PATIENCE)


async def test_closing_the_log_ends_its_tails(server: Redis) -> None:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group, redis_events.connect(server.url) as log:
        reading = group.create_task(rest_of(log.tail(JOB)))
        await asyncio.sleep(0)

    assert reading.result() == []
