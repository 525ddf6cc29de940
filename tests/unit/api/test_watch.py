"""Values that nobody waits for: read at first sight, then each second while somebody looks, and then no more."""

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest

from api import watch
from api.watch import Watch
from shared.errors import Unavailable


class Source:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.away: type[Exception] | None = None
        self._read = asyncio.Condition()

    async def __call__(self, keys: Collection[str]) -> dict[str, int]:
        self.asked.append(sorted(keys))
        async with self._read:
            self._read.notify_all()
        await self.answer.wait()
        if self.away:
            raise self.away("the server is away")
        return {key: len(self.asked) for key in keys if key != "missing"}

    async def readings(self, number: int) -> None:
        async with asyncio.timeout(60), self._read:
            await self._read.wait_for(lambda: len(self.asked) >= number)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def it(source: Source) -> AsyncIterator[Watch[str, int]]:
    made = Watch(source, unknown=-1, most=3, name="test")
    yield made
    await made.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PERIOD", 0.001)


async def test_the_first_look_sees_nothing_and_the_next_what_was_read(it: Watch[str, int], source: Source) -> None:
    first = it.look("a")

    assert (first, await it.wait("a", 5), it.look("a")) == (-1, 1, 1)
    assert source.asked == [["a"]]


async def test_many_who_look_cause_one_reading(it: Watch[str, int], source: Source) -> None:
    assert await asyncio.gather(*(it.wait("a", 5) for _ in range(10))) == [1] * 10
    assert source.asked == [["a"]]


async def test_what_is_looked_at_is_read_again_and_again(it: Watch[str, int], source: Source, quick: None) -> None:
    it.look("a")
    await source.readings(5)

    assert it.look("a") >= 4


async def test_what_nobody_looks_at_is_let_go(it: Watch[str, int], source: Source, quick: None) -> None:
    it.look("a")

    async with asyncio.timeout(60):
        while it._entries:
            await asyncio.sleep(0.001)

    assert len(source.asked) == watch._IDLE
    assert it.look("a") == -1


async def test_a_newcomer_is_read_at_once_and_alone(it: Watch[str, int], source: Source) -> None:
    await it.wait("a", 5)

    assert await it.wait("b", 0.5) == 2
    assert source.asked == [["a"], ["b"]]


async def test_what_is_beyond_the_bound_stays_unknown(it: Watch[str, int], source: Source) -> None:
    known = [await it.wait(key, 5) for key in "abcd"]

    assert known == [1, 2, 3, -1]


@pytest.mark.parametrize("problem", [Unavailable, RuntimeError])
async def test_while_the_server_is_away_nothing_is_known_and_later_it_is(
    it: Watch[str, int], source: Source, quick: None, problem: type[Exception]
) -> None:
    source.away = problem
    during = await it.wait("a", 5)
    source.away = None
    await source.readings(len(source.asked) + 2)

    assert during == -1
    assert it.look("a") > 0


async def test_what_the_source_does_not_know_is_unknown(it: Watch[str, int]) -> None:
    assert await it.wait("missing", 5) == -1


async def test_a_slow_source_holds_nobody_up(it: Watch[str, int], source: Source) -> None:
    source.answer.clear()

    assert await it.wait("a", 0.01) == -1


async def test_after_the_end_nothing_is_read(it: Watch[str, int], source: Source) -> None:
    await it.close()

    assert await it.wait("a", 0.01) == -1
    assert source.asked == []
