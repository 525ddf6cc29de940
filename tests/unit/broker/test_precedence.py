"""The order of a lane in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.queues.precedence import PrecedenceQueue
from shared.jobs import FIRST


def queue_of(*precedences: int) -> PrecedenceQueue[tuple[int, int]]:
    """Items know their precedence and when they came."""
    queue: PrecedenceQueue[tuple[int, int]] = PrecedenceQueue()
    for number, precedence in enumerate(precedences):
        queue.append((precedence, number), precedence)
    return queue


@given(st.lists(st.integers(0, FIRST)))
def test_the_highest_goes_first_and_equals_in_their_order(precedences: list[int]) -> None:
    queue = queue_of(*precedences)
    items = list(zip(precedences, range(len(precedences)), strict=True))

    heads, popped = [], []
    while queue:
        heads.append(queue.head())
        popped.append(queue.pop())

    assert popped == sorted(items, key=lambda item: (-item[0], item[1]))
    assert heads == [precedence for precedence, _ in popped]


def test_what_is_put_back_comes_next_among_its_equals() -> None:
    queue = queue_of(1, 2, 2)
    taken = queue.pop()

    queue.append_left(taken, 2)

    assert [queue.pop() for _ in range(3)] == [(2, 1), (2, 2), (1, 0)]


def test_an_empty_queue_has_no_head_and_nothing_to_take() -> None:
    queue = queue_of(0)
    queue.clear()

    assert (queue.head(), len(queue), bool(queue), list(queue.levels())) == (None, 0, False, [])
    with pytest.raises(IndexError):
        queue.pop()
