"""The store hears of dispatched jobs late, in bulk, and even after it was away."""

import asyncio
from collections.abc import Sequence

import pytest

from api import dispatch_notes
from api.dispatch_notes import DispatchNotes
from shared.errors import Unavailable
from shared.jobs import JobState
from tests.fakes.clock import FakeClock
from tests.fakes.seams import until


class Jobs:
    def __init__(self) -> None:
        self.moves: list[list[str]] = []
        self.away = 0

    async def move(
        self, job_ids: Sequence[str], state: JobState, now: float, *, expected: JobState | None = None
    ) -> list[str]:
        assert (state, expected) == (JobState.DISPATCHED, JobState.DISPATCHING)
        if self.away:
            self.away -= 1
            raise Unavailable("the database is away")
        self.moves.append(list(job_ids))
        return list(job_ids)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def notes(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> DispatchNotes:
    monkeypatch.setattr(dispatch_notes, "_PAUSE_WHEN_AWAY", 0.01)
    return DispatchNotes(jobs, FakeClock())  # type: ignore[arg-type]  # it moves, and no more


async def test_jobs_that_come_together_are_noted_together(jobs: Jobs, notes: DispatchNotes) -> None:
    for name in "abc":
        notes.add(name)

    await until(lambda: bool(jobs.moves))

    assert jobs.moves == [["a", "b", "c"]]


async def test_a_job_that_comes_after_a_silence_is_noted_too(jobs: Jobs, notes: DispatchNotes) -> None:
    notes.add("a")
    await until(lambda: bool(jobs.moves))
    await asyncio.sleep(0)

    notes.add("b")
    await until(lambda: len(jobs.moves) == 2)

    assert jobs.moves == [["a"], ["b"]]


async def test_a_store_that_was_away_is_told_again(jobs: Jobs, notes: DispatchNotes) -> None:
    jobs.away = 2
    notes.add("a")

    await until(lambda: bool(jobs.moves))

    assert jobs.moves == [["a"]]


async def test_closing_tells_at_once_what_is_left(jobs: Jobs, notes: DispatchNotes) -> None:
    notes.add("a")

    await notes.close()

    assert jobs.moves == [["a"]]


async def test_closing_does_not_wait_for_a_store_that_is_away(jobs: Jobs, notes: DispatchNotes) -> None:
    jobs.away = 1000
    notes.add("a")

    async with asyncio.timeout(10):
        await notes.close()

    assert jobs.moves == []


async def test_closing_when_nothing_happened_is_easy(jobs: Jobs, notes: DispatchNotes) -> None:
    await notes.close()

    assert jobs.moves == []
