"""Values that are looked up without waiting, and read anew in the background for as long as somebody looks."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

import structlog

from shared.errors import Unavailable

_PERIOD = 1.0  # seconds between two readings
_IDLE = 10  # readings without anybody looking after which a value is let go
_TOGETHER = 0.02  # seconds in which new keys come together

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

log = structlog.get_logger(__name__)


class _Entry(Generic[V]):
    __slots__ = ("idle", "read", "value", "wanted")

    def __init__(self, value: V) -> None:
        self.value = value
        self.wanted = True
        self.idle = 0
        self.read = asyncio.Event()


class Watch(Generic[K, V]):
    """One task reads, about once a second, what was looked up within the last ten; it ends when there is nothing."""

    def __init__(
        self, read: Callable[[Collection[K]], Awaitable[Mapping[K, V]]], *, unknown: V, most: int, name: str
    ) -> None:
        """`read` may leave keys out and raise `Unavailable`: they are `unknown` then, as are those beyond `most`."""
        self._ask = read
        self._unknown = unknown
        self._most = most
        self._name = name
        self._entries: dict[K, _Entry[V]] = {}
        self._new: list[K] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop for good: everything is unknown then."""
        self._most = 0
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self, key: K) -> V:
        """The value as it was about a second ago at most; the unknown one until it has been read."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._begin(key)
        entry.wanted = True
        return entry.value

    async def wait(self, key: K, seconds: float) -> V:
        """As `look`, with so much patience for the first reading."""
        self.look(key)
        entry = self._entries.get(key)
        if entry is not None and not entry.read.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await entry.read.wait()
            except TimeoutError:
                pass
        return self.look(key)

    def _begin(self, key: K) -> _Entry[V]:
        entry = _Entry(self._unknown)
        if len(self._entries) >= self._most:
            return entry
        self._entries[key] = entry
        self._new.append(key)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=self._name)
        return entry

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        due = now()
        try:
            while self._entries:
                if now() >= due:
                    due = now() + _PERIOD
                    self._let_go()
                    keys = list(self._entries)
                else:
                    keys = self._new
                self._new = []
                self._news.clear()
                if keys:
                    await self._read(keys)
                await self._pause(due)
        finally:
            self._entries.clear()  # nobody would read them again

    async def _pause(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
                await asyncio.sleep(_TOGETHER)
        except TimeoutError:
            pass

    async def _read(self, keys: Collection[K]) -> None:
        found: Mapping[K, V] = {}
        try:
            found = await self._ask(keys)
        except Unavailable:
            pass  # as said: unknown
        except Exception:
            log.exception("a reading failed", of=self._name)
        for key in keys:
            if (entry := self._entries.get(key)) is not None:
                entry.value = found.get(key, self._unknown)
                entry.read.set()

    def _let_go(self) -> None:
        for key, entry in list(self._entries.items()):
            entry.idle = 0 if entry.wanted else entry.idle + 1
            entry.wanted = False
            if entry.idle >= _IDLE:
                del self._entries[key]
