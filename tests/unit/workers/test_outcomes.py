"""Outcomes of concurrent jobs share messages, and every writer learns the fate of its own."""

import asyncio

import pytest

from shared.errors import Unavailable
from shared.jobs import Ending, JobState, Outcome, Status
from tests.fakes.seams import NotedQueue
from workers import outcomes
from workers.outcomes import OutcomeWriter


def an_outcome(job_id: str) -> Outcome:
    return Outcome(job_id, 1, 0.0, "chat.completions", "m", "m", "d", "openai", "m", Status.SUCCESS)


def an_ending(job_id: str, answer: bytes = b"{}") -> Ending:
    return Ending(job_id, JobState.COMPLETED, finished_at=1.0, attempts=1, answer=answer)


async def test_outcomes_of_one_moment_travel_in_one_message() -> None:
    queue = NotedQueue([])
    writer = OutcomeWriter(queue)

    await asyncio.gather(*(writer.record(an_outcome(name)) for name in "abc"))

    assert queue.journal == ["record"]
    assert [each.job_id for each in queue.outcomes_recorded] == ["a", "b", "c"]


async def test_a_message_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_LARGEST", 2)
    queue = NotedQueue([])
    writer = OutcomeWriter(queue)

    await asyncio.gather(*(writer.record(an_outcome(name)) for name in "abc"))

    assert queue.journal == ["record", "record"]


async def test_nobody_is_told_that_its_outcome_is_safe_before_it_is() -> None:
    queue = NotedQueue([])
    queue.recording.hold()
    recording = asyncio.create_task(OutcomeWriter(queue).record(an_outcome("a")))
    await queue.recording.reached.wait()

    assert not recording.done()

    queue.recording.open()
    await recording


async def test_outcomes_are_kept_for_a_queue_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_RETRY", 0.001)
    queue = NotedQueue([])
    queue.recording.fail(3)

    await OutcomeWriter(queue).record(an_outcome("a"), an_outcome("b"))

    assert [each.job_id for each in queue.outcomes_recorded] == ["a", "b"]


async def test_a_queue_that_stays_away_is_everybodys_error_and_the_next_message_goes_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcomes, "_PATIENCE", 0.0)
    queue = NotedQueue([])
    queue.recording.fail(1)
    writer = OutcomeWriter(queue)

    results = await asyncio.gather(*(writer.record(an_outcome(name)) for name in "ab"), return_exceptions=True)
    await writer.record(an_outcome("c"))

    assert [type(each) for each in results] == [Unavailable, Unavailable]
    assert [each.job_id for each in queue.outcomes_recorded] == ["c"]


async def test_a_writer_that_leaves_takes_nobodys_outcome_with_it() -> None:
    queue = NotedQueue([])
    writer = OutcomeWriter(queue)
    leaving = asyncio.create_task(writer.record(an_outcome("a")))
    await asyncio.sleep(0)

    leaving.cancel()
    await writer.record(an_outcome("b"))

    assert [each.job_id for each in queue.outcomes_recorded] == ["a", "b"]


async def test_without_a_ledger_nothing_is_sent() -> None:
    queue = NotedQueue([])

    await OutcomeWriter(queue, keep=False).record(an_outcome("a"))

    assert queue.journal == []


async def test_without_a_ledger_jobs_still_end() -> None:
    queue = NotedQueue([])

    await OutcomeWriter(queue, keep=False).record(an_outcome("a"), ending=an_ending("a"))

    assert queue.messages == [([], [an_ending("a")])]


async def test_an_outcome_and_its_ending_travel_in_one_message_with_others() -> None:
    queue = NotedQueue([])
    writer = OutcomeWriter(queue)

    await asyncio.gather(
        writer.record(an_outcome("a"), ending=an_ending("a")),
        writer.record(an_outcome("b")),
        writer.record(ending=an_ending("c")),
    )

    assert queue.messages == [([an_outcome("a"), an_outcome("b")], [an_ending("a"), an_ending("c")])]


async def test_answers_in_one_message_have_a_bound_unless_one_alone_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_LARGEST_BYTES", 100)
    queue = NotedQueue([])
    writer = OutcomeWriter(queue)

    await asyncio.gather(
        *(writer.record(ending=an_ending(str(size), b"x" * size)) for size in (60, 30, 20, 500, 80, 20, 10))
    )

    sizes = [[len(ending.answer) for ending in endings] for _, endings in queue.messages]
    assert sizes == [[60, 30], [20], [500], [80, 20], [10]]
