"""Which jobs were cancelled lately, and who is waiting to hear of it: one process's knowledge."""

import asyncio
from collections.abc import Callable

CANCEL_TTL = 600.0  # seconds that a cancellation is remembered
_MAX_REMEMBERED = 100_000  # jobs; the oldest are forgotten first


class Cancellations:
    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # in the order they were added, so the first one ends first
        self._watchers: dict[str, list[Callable[[], None]]] = {}

    def __contains__(self, job_id: str) -> bool:
        until = self._until.get(job_id)
        return until is not None and until > asyncio.get_running_loop().time()

    @property
    def watched(self) -> list[str]:
        return list(self._watchers)

    def add(self, job_id: str) -> None:
        now = asyncio.get_running_loop().time()
        self._until.pop(job_id, None)
        self._until[job_id] = now + CANCEL_TTL
        while len(self._until) > _MAX_REMEMBERED or next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        for callback in list(self._watchers.get(job_id, ())):
            callback()

    def watch(self, job_id: str, callback: Callable[[], None]) -> "_Watch":
        """While inside, `callback` is called once the job is cancelled; at once if it is already."""
        return _Watch(self, job_id, callback)

    def begin(self, job_id: str, callback: Callable[[], None]) -> None:
        self._watchers.setdefault(job_id, []).append(callback)
        if job_id in self:
            callback()

    def end(self, job_id: str, callback: Callable[[], None]) -> None:
        watchers = self._watchers[job_id]
        watchers.remove(callback)
        if not watchers:
            del self._watchers[job_id]


class _Watch:
    """A context without a generator: every job has one."""

    __slots__ = ("_callback", "_cancellations", "_job_id")

    def __init__(self, cancellations: Cancellations, job_id: str, callback: Callable[[], None]) -> None:
        self._cancellations = cancellations
        self._job_id = job_id
        self._callback = callback

    def __enter__(self) -> None:
        self._cancellations.begin(self._job_id, self._callback)

    def __exit__(self, *exc_info: object) -> None:
        self._cancellations.end(self._job_id, self._callback)
