"""The order within a lane: the highest precedence first, and what came first within each."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from shared.jobs import FIRST

Item = TypeVar("Item")


def extra_places(bound: int) -> int:
    """Jobs of the highest precedence that an interactive lane takes beyond its bound, so that it is not full for those
    who did not fill it."""
    return bound // 8


class PrecedenceQueue(Generic[Item]):
    def __init__(self) -> None:
        self._levels: tuple[deque[Item], ...] = tuple(deque() for _ in range(FIRST + 1))
        self._highest_first = self._levels[::-1]

    def append(self, item: Item, precedence: int) -> None:
        self._levels[precedence].append(item)

    def append_left(self, item: Item, precedence: int) -> None:
        """Put back what was taken last."""
        self._levels[precedence].appendleft(item)

    def head(self) -> int | None:
        """The precedence of the next one; None when there is none."""
        for precedence in range(FIRST, -1, -1):
            if self._levels[precedence]:
                return precedence
        return None

    def pop(self) -> Item:
        """Take the next one. Raises `IndexError` when there is none."""
        for level in self._highest_first:
            if level:
                return level.popleft()
        raise IndexError("pop from an empty queue")

    def waiting(self, precedence: int) -> int:
        return len(self._levels[precedence])

    def levels(self) -> Iterator[deque[Item]]:
        """Those of each precedence, the highest first; empty ones are left out."""
        return (level for level in self._highest_first if level)

    def clear(self) -> None:
        for level in self._levels:
            level.clear()

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __bool__(self) -> bool:
        return any(self._levels)
