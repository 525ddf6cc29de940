"""A follower between the doorbell and the log, with a log that the test holds in its hands."""

import asyncio

import pytest

from broker.events.follower import BUFFER, LogFollower, Page
from shared.errors import QueueFull, Unavailable
from shared.events import Event, Kind

PAGE = 4


def chunk(seq: int) -> Event:
    return Event("job", seq, Kind.CHUNK)


class Log:
    """Pages of four events; a read can be held up or fail."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.open = asyncio.Event()
        self.open.set()
        self.reading = asyncio.Event()
        self.failures = 0

    async def read(self, job_id: str, cursor: str) -> Page:
        begin = int(cursor or 0)
        events = self.events[begin : begin + PAGE]
        self.reading.set()
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("no connection")
        return Page(events, str(begin + len(events)), more=len(events) == PAGE)


class World:
    def __init__(self) -> None:
        self.log = Log()
        self.closed: list[LogFollower] = []
        self.follower = LogFollower("job", self.log.read, self.closed.append)

    def emit(self, *sequences: int, ring: bool = True) -> None:
        for seq in sequences:
            self.log.events.append(chunk(seq))
            if ring:
                self.follower.ring(chunk(seq))

    async def read(self, count: int) -> list[int]:
        return [(await self.follower.next(timeout=60)).seq for _ in range(count)]


async def test_events_of_the_doorbell_need_no_log() -> None:
    world = World()
    world.emit(1, 2)

    assert await world.read(2) == [1, 2]
    assert not world.log.reading.is_set()


async def test_a_gap_is_filled_page_by_page() -> None:
    world = World()
    world.emit(1)
    world.emit(*range(2, 12), ring=False)
    world.emit(12)

    assert await world.read(12) == list(range(1, 13))


async def test_events_that_arrive_while_the_log_is_read_are_neither_lost_nor_doubled() -> None:
    world = World()
    world.emit(1, 2, ring=False)
    world.emit(3)
    world.log.open.clear()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(world.read(6))
        await world.log.reading.wait()
        world.follower.ring(chunk(3))
        world.emit(4, 5, 6)
        world.log.open.set()

    assert reading.result() == [1, 2, 3, 4, 5, 6]


async def test_more_arrivals_than_the_buffer_holds_are_read_from_the_log() -> None:
    world = World()
    last = BUFFER + 50
    world.emit(1, ring=False)
    world.emit(2)
    world.log.open.clear()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(world.read(last))
        await world.log.reading.wait()
        world.emit(*range(3, last + 1))
        world.log.open.set()

    assert reading.result() == list(range(1, last + 1))


async def test_a_read_that_times_out_is_taken_up_again() -> None:
    world = World()
    world.emit(1, ring=False)
    world.emit(2)
    world.log.open.clear()

    with pytest.raises(TimeoutError):
        await world.follower.next(timeout=0.01)
    world.log.open.set()

    assert await world.read(2) == [1, 2]


async def test_a_read_that_fails_is_taken_up_again() -> None:
    world = World()
    world.log.failures = 1
    world.emit(1, ring=False)
    world.emit(2)

    with pytest.raises(Unavailable):
        await world.follower.next(timeout=60)

    assert await world.read(2) == [1, 2]


async def test_a_read_that_fails_because_all_is_closed_is_the_end_and_no_error() -> None:
    world = World()
    world.log.failures = 1
    world.log.open.clear()
    world.follower.distrust()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(ended(world.follower))
        await world.log.reading.wait()
        world.follower.close()
        world.log.open.set()

    assert reading.result()


async def ended(follower: LogFollower) -> bool:
    with pytest.raises(StopAsyncIteration):
        await follower.next(timeout=60)
    return True


async def test_distrust_without_news_goes_on_waiting() -> None:
    world = World()
    world.emit(1)
    world.follower.distrust()
    assert await world.read(1) == [1]

    with pytest.raises(TimeoutError):
        await world.follower.next(timeout=0.01)
    world.emit(2)

    assert await world.read(1) == [2]


async def test_distrust_before_the_first_event_goes_on_waiting() -> None:
    world = World()
    world.follower.distrust()

    with pytest.raises(TimeoutError):
        await world.follower.next(timeout=0.01)
    world.emit(1)

    assert await world.read(1) == [1]


async def test_a_log_that_is_shorter_than_what_was_delivered_is_lost() -> None:
    world = World()
    world.emit(1, 2)
    assert await world.read(2) == [1, 2]

    world.log.events.clear()
    world.follower.distrust()

    with pytest.raises(Unavailable, match="lost events"):
        await world.follower.next(timeout=60)


async def test_a_failure_waits_for_what_came_before_it_and_hides_what_comes_later() -> None:
    world = World()
    world.emit(1, 2, ring=False)
    world.emit(3)

    world.follower.fail(QueueFull("the lane is full"))
    world.follower.fail(Unavailable("a second failure does not count"))
    world.follower.ring(chunk(4))

    assert await world.read(3) == [1, 2, 3]
    with pytest.raises(QueueFull):
        await world.follower.next(timeout=60)


async def test_the_last_event_closes_it_once() -> None:
    world = World()
    world.follower.ring(Event("job", 1, Kind.COMPLETED))

    assert [event.seq async for event in world.follower] == [1]
    world.follower.close()

    assert world.closed == [world.follower]
