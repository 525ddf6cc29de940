"""The recorder's promises: acked after the commit, nothing lost while the store is away, one bad row harms no other."""

import asyncio

import pytest
from structlog.testing import capture_logs

from shared.jobs import Ending, JobState
from tests.fakes.recording import Batch, Queue, Store, an_outcome, running, until
from workers import recorder


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def store(queue: Queue) -> Store:
    return Store(queue)


async def test_batches_are_acked_after_their_commit(queue: Queue, store: Store) -> None:
    queue.put("ab", "c")

    async with running(queue, store):
        await until(lambda: len(queue.acked) == 2)

    assert store.calls == ["abc"]
    assert store.acked_before == [[]]
    assert queue.acked == ["ab", "c"]


async def test_outcomes_that_come_together_are_written_together(queue: Queue, store: Store) -> None:
    async with running(queue, store, linger=3600.0, prefetch=3):
        queue.put("a")
        await until(lambda: queue.unacked == 1)
        queue.put("b", "c")
        await until(lambda: len(queue.acked) == 3)

    assert store.calls == ["abc"]


async def test_a_full_transaction_does_not_linger(queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MAX_ITEMS", 3)
    queue.put("ab", "cd", "ef")

    async with running(queue, store, linger=3600.0):
        await until(lambda: store.rows == list("abcd"))

    assert store.calls == ["abcd", "ef"]


async def test_it_does_not_linger_when_it_holds_all_it_may(queue: Queue, store: Store) -> None:
    queue.put("a", "b", "c")

    async with running(queue, store, linger=3600.0, prefetch=2):
        await until(lambda: queue.acked == ["a", "b"])


async def test_nothing_is_lost_while_the_store_is_away(queue: Queue, store: Store) -> None:
    store.away = True
    queue.put("a", "b")

    async with running(queue, store):
        await until(lambda: len(store.calls) == 2)
        acked_while_away = list(queue.acked)
        store.away = False
        await until(lambda: len(queue.acked) == 2)

    assert acked_while_away == []
    assert store.rows == ["a", "b"]


async def test_no_more_than_the_prefetch_is_held_while_the_store_is_away(queue: Queue, store: Store) -> None:
    store.away = True
    queue.put(*"abcdef")

    async with running(queue, store, prefetch=4):
        await until(lambda: len(store.calls) == 2)

        assert (queue.unacked, queue.waiting.qsize()) == (4, 2)


async def test_it_is_said_once_that_the_store_went_and_once_that_it_came_back(queue: Queue, store: Store) -> None:
    store.away = True
    queue.put("a")

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: len(store.calls) == 3)
            store.away = False
            await until(lambda: queue.acked)

    assert [(each["event"], each["log_level"]) for each in logs] == [
        ("store_unavailable", "warning"),
        ("store_available", "info"),
    ]


async def test_a_row_that_the_store_refuses_harms_no_other(queue: Queue, store: Store) -> None:
    store.poison = "dx"
    queue.put("abc", "def", "x", "ghi")

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: len(queue.acked) == 4)

    assert store.rows == list("abcefghi")
    assert [(each["event"], each["outcome"]["job_id"], each["error"]) for each in logs] == [
        ("outcome_refused", "d", "no such number"),
        ("outcome_refused", "x", "no such number"),
    ]


async def test_a_row_that_the_store_refuses_is_found_in_few_steps(queue: Queue, store: Store) -> None:
    store.poison = "z"
    queue.put("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

    async with running(queue, store):
        await until(lambda: queue.acked)

    assert len(store.calls) < 15


async def test_a_commit_in_progress_is_finished_and_acked_when_cancelled(queue: Queue, store: Store) -> None:
    store.let_go.clear()
    queue.put("a")

    async with running(queue, store) as task:
        await store.called.wait()
        task.cancel()
        await asyncio.sleep(0)
        store.let_go.set()
        await asyncio.gather(task, return_exceptions=True)

        assert task.cancelled()

    assert store.rows == ["a"]
    assert queue.acked == ["a"]


async def test_what_was_received_is_written_when_cancelled(queue: Queue, store: Store) -> None:
    queue.put("a", "b")

    async with running(queue, store, linger=3600.0):
        await until(lambda: queue.unacked == 2)

    assert store.rows == ["a", "b"]
    assert queue.acked == ["a", "b"]


async def test_cancelled_while_the_store_is_away_it_ends_at_once_and_acks_nothing(
    queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_FIRST_RETRY", 3600.0)
    store.away = True
    queue.put("a")

    async with running(queue, store) as task:
        await store.called.wait()
        task.cancel()
        async with asyncio.timeout(60):  # less than the first retry
            await asyncio.gather(task, return_exceptions=True)

    assert queue.acked == []


async def test_a_lost_ack_does_not_end_the_recorder(queue: Queue, store: Store) -> None:
    queue.away = True
    queue.put("a")

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: logs)
            queue.away = False
            queue.put("a", "b")
            await until(lambda: len(queue.acked) == 2)

    assert [each["event"] for each in logs] == ["outcomes_not_acked"]
    assert store.rows == ["a", "b"]


def an_ending(job_id: str, answer: bytes = b"{}") -> Ending:
    return Ending(job_id, JobState.COMPLETED, finished_at=1.0, attempts=2, answer=answer, served={"deployment": "d"})


async def test_endings_are_committed_with_their_outcomes(queue: Queue, store: Store) -> None:
    endings = [an_ending("a"), an_ending("b")]
    queue.waiting.put_nowait(Batch(queue, [an_outcome("a")], endings[:1]))
    queue.waiting.put_nowait(Batch(queue, [an_outcome("b")], endings[1:]))

    async with running(queue, store):
        await until(lambda: len(queue.acked) == 2)

    assert (store.calls, store.endings) == (["ab"], endings)


async def test_an_ending_without_an_outcome_is_committed(queue: Queue, store: Store) -> None:
    queue.waiting.put_nowait(Batch(queue, [], [an_ending("a")]))

    async with running(queue, store):
        await until(lambda: queue.acked)

    assert store.endings == [an_ending("a")]


async def test_large_answers_do_not_wait_for_more_of_them(
    queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MAX_BYTES", 10)
    for name in "abc":
        queue.waiting.put_nowait(Batch(queue, [an_outcome(name)], [an_ending(name, b"x" * 5)]))

    async with running(queue, store, linger=3600.0):
        await until(lambda: len(queue.acked) == 2)

    assert store.calls == ["ab", "c"]


async def test_a_job_whose_ending_the_store_refuses_ends_as_a_failure_and_harms_no_other(
    queue: Queue, store: Store
) -> None:
    refused = an_ending("b", store.poisoned_answer)
    queue.waiting.put_nowait(Batch(queue, [an_outcome(name) for name in "abc"], [an_ending("a"), refused]))

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: queue.acked)

    assert sorted(store.rows) == ["a", "b", "c"]
    assert [(each.job_id, each.state, each.attempts, each.answer) for each in store.endings] == [
        ("a", JobState.COMPLETED, 2, b"{}"),
        ("b", JobState.FAILED, 2, b""),
    ]
    assert [(each["event"], each["job"]) for each in logs] == [("ending_refused", "b")]
    assert store.poisoned_answer.decode() not in str(logs)


async def test_an_ending_that_the_store_refuses_in_any_form_does_not_hold_up_the_others(
    queue: Queue, store: Store
) -> None:
    store.poisoned_answer = b""
    queue.waiting.put_nowait(Batch(queue, [], [an_ending("a", b""), an_ending("b")]))

    with capture_logs() as logs:
        async with running(queue, store):
            await until(lambda: queue.acked)

    assert store.endings == [an_ending("b")]
    assert [each["event"] for each in logs] == ["ending_refused", "ending_refused"]


async def test_what_was_new_is_reported_with_the_time_that_it_took(queue: Queue, store: Store) -> None:
    store.rows = ["a"]
    reports: list[tuple[int, float]] = []
    queue.put("abc")

    async with running(queue, store, on_recorded=lambda new, seconds: reports.append((new, seconds))):
        await until(lambda: queue.acked)

    ((new, seconds),) = reports
    assert new == 2
    assert 0 <= seconds < 10
