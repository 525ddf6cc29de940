"""Progress as a stream: on change only, with a rate that means something, through an absent store, and no longer than
the process lives."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import orjson
import pytest

from api import batch_progress
from api.batch_progress import Pace, progress
from broker.records import BatchRecord, BatchStatus
from shared.errors import Unavailable
from tests.fakes.clock import FakeClock

STARTED = 1_767_268_800.0  # FakeClock's noon


def batch(done: int = 0, status: BatchStatus = BatchStatus.IN_PROGRESS) -> BatchRecord:
    stamps = {BatchStatus.IN_PROGRESS: STARTED}
    return BatchRecord(
        "batch_1", "", "", "/v1/chat/completions", "file-1", "24h", STARTED, STARTED + 86_400, status,
        total=100, completed=done, stamps=stamps,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "rate"),
    [
        ([(0.0, 0)], 0.0),
        ([(20.0, 50)], 2.5),  # just come to watch: since the batch's start
        ([(0.0, 0), (1.0, 10)], 10.0),
        ([(5.0, 50), (6.0, 70), (7.0, 80)], 15.0),
        ([(float(second), min(second, 10) * 10) for second in range(31)], 0.0),  # it stood still for the last ten
    ],
)
def test_the_rate_is_that_of_the_last_ten_seconds(seen: Sequence[tuple[float, int]], rate: float) -> None:
    pace = Pace()

    rates = [pace.observe(batch(done), STARTED + after) for after, done in seen]

    assert rates[-1] == pytest.approx(rate)


def test_the_rate_of_a_batch_that_is_over_is_that_of_its_whole_run() -> None:
    over = batch(50, BatchStatus.COMPLETED)
    over = replace(over, stamps={**over.stamps, BatchStatus.COMPLETED: STARTED + 10})

    assert Pace().observe(over, STARTED + 9_000) == 5.0


def test_a_long_watch_keeps_few_observations() -> None:
    pace = Pace()

    for step in range(10_000):
        pace.observe(batch(step // 100), STARTED + step / 2)

    assert len(pace._seen) <= 25


def test_the_time_to_go_is_known_while_lines_get_done() -> None:
    assert progress(batch(60), 10.0)["progress"]["eta_seconds"] == 4.0
    assert progress(batch(60), 0.0)["progress"]["eta_seconds"] is None
    assert progress(batch(60, BatchStatus.CANCELLING), 10.0)["progress"]["eta_seconds"] is None


class Script:
    """A store that answers what it is told to, one look after the other, the last one for ever."""

    def __init__(self, clock: FakeClock, *answers: BatchRecord | type[Unavailable] | None) -> None:
        self._clock = clock
        self._answers = list(answers)
        self.looks = 0

    async def read(self) -> BatchRecord | None:
        self.looks += 1
        self._clock.advance(1.0)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, type):
            raise answer("the fake store is away")
        return answer


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_progress, "_PERIOD", 0.0)


def stream(
    script: Script, clock: FakeClock, stopping: asyncio.Event, keep_alive: float = 100.0
) -> AsyncIterator[bytes]:
    return batch_progress.events(script.read, clock, stopping, keep_alive)


def told(frames: Sequence[bytes]) -> list[tuple[str, int]]:
    """Name of each event and lines done by then; comments by themselves."""
    found = []
    for frame in frames:
        name, _, rest = frame.decode().partition("\n")
        data = rest.partition("data: ")[2]
        found.append((name, orjson.loads(data)["request_counts"]["completed"] if data else -1))
    return found


async def test_only_changes_are_told_and_the_end_is_the_end() -> None:
    clock = FakeClock()
    end = batch(5, BatchStatus.COMPLETED)
    script = Script(clock, batch(), batch(), batch(5), batch(5), end)

    frames = [frame async for frame in stream(script, clock, asyncio.Event())]

    assert told(frames) == [("event: progress", 0), ("event: progress", 5), ("event: done", 5)]


async def test_silence_is_filled_and_a_store_that_is_away_waited_for() -> None:
    clock = FakeClock()
    away = Unavailable
    script = Script(clock, batch(), away, away, away, away, batch(7, BatchStatus.CANCELLED))

    frames = [frame async for frame in stream(script, clock, asyncio.Event(), keep_alive=2.0)]

    assert told(frames) == [
        ("event: progress", 0),
        (": keep-alive", -1),
        (": keep-alive", -1),
        ("event: done", 7),
    ]


async def test_the_stream_of_a_batch_that_is_gone_ends() -> None:
    clock = FakeClock()

    frames = [frame async for frame in stream(Script(clock, batch(), None), clock, asyncio.Event())]

    assert told(frames) == [("event: progress", 0)]


async def test_the_stream_does_not_keep_a_process_that_stops() -> None:
    clock, stopping = FakeClock(), asyncio.Event()
    script = Script(clock, batch())

    async for _ in stream(script, clock, stopping):
        stopping.set()

    assert script.looks == 1
