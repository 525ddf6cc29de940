"""Who in this process wants to hear of changes to keys, users, models and the like."""

from collections.abc import Callable


class Changes:
    def __init__(self) -> None:
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, callback: Callable[[str], None]) -> None:
        """`callback` hears of every change from now on, for the life of the process."""
        self._watchers.append(callback)

    def tell(self, subject: str) -> None:
        """Something about `subject` changed; empty: anything may have."""
        for callback in self._watchers:
            callback(subject)
