"""Follows one job: live events from the doorbell while they come without a gap, the log whenever they do not."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self

from shared.errors import AppError, Unavailable
from shared.events import Event

BUFFER = 256  # events that wait for a slow reader; after that it reads the log, at its own pace


class Page(NamedTuple):
    """A stretch of a job's log."""

    events: list[Event]
    """In the order of the log, STARTED events included."""
    cursor: str
    """Where the next page begins; empty is the log's beginning."""
    more: bool
    """False when this page reached the end of the log."""


ReadLog = Callable[[str, str], Awaitable[Page]]
"""(job id, cursor) -> the page there. Raises `Unavailable` when the entry at the cursor is gone."""


class LogFollower:
    """The `Follower` of both backends. One task reads it; `ring` and `distrust` may be called at any time."""

    __slots__ = ("_after", "_arrivals", "_behind", "_buffer", "_closed", "_cursor", "_failure", "_heard", "_logged",
                 "_on_close", "_read", "_tail", "_wake", "job_id")  # fmt: skip

    def __init__(self, job_id: str, read: ReadLog, on_close: "Callable[[LogFollower], None]", after: int = 0) -> None:
        """Events up to number `after` are passed over, whether they are there already or still to come."""
        self.job_id = job_id
        self._after = after
        self._read = read
        self._on_close = on_close
        self._buffer: deque[Event] = deque()
        self._tail = after  # the sequence of the newest event that was passed over, delivered or is in the buffer
        self._heard = 0  # the newest one that the doorbell announced
        self._logged = 0  # the newest one that the log has shown
        self._cursor = ""
        self._behind = False  # the log must be read before the doorbell is believed again
        self._arrivals: list[Event] | None = None  # what the doorbell brought while the log is being read
        self._wake: asyncio.Future[None] | None = None
        self._closed = False
        self._failure: AppError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.next()

    async def next(self, timeout: float | None = None) -> Event:  # noqa: ASYNC109  # the Protocol's signature
        """The next event; `StopAsyncIteration` after the last one or `close`."""
        if self._buffer:
            return self._deliver()
        if timeout is None:
            return await self._next()
        async with asyncio.timeout(timeout):
            return await self._next()

    def fail(self, error: AppError) -> None:
        """`next` raises `error` after what came before it, and takes no notice of what comes later."""
        if self._failure is None:
            self._failure = error
            self._rouse()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._buffer.clear()
            self._rouse()
            self._on_close(self)

    def ring(self, event: Event) -> None:
        """The doorbell: an event was appended to the log just now."""
        if self._failure is not None:
            return
        self._heard = max(self._heard, event.seq)
        if self._arrivals is None:
            self._accept(event)
        elif len(self._arrivals) < BUFFER:
            self._arrivals.append(event)
        self._rouse()

    def distrust(self) -> None:
        """Doorbells may have been missed."""
        self._behind = True
        self._rouse()

    async def _next(self) -> Event:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._behind:
                try:
                    await self._catch_up()
                except Unavailable:
                    if not self._closed:  # the log was closed with its connection, in the middle of the read
                        raise
                continue
            if self._failure is not None:
                raise self._failure
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        return self._deliver()

    def _deliver(self) -> Event:
        event = self._buffer.popleft()
        if event.last:
            self.close()
        return event

    def _accept(self, event: Event) -> None:
        if event.seq <= self._tail:
            self._end_before_after(event)
            return
        if self._behind or event.seq != self._tail + 1 or len(self._buffer) >= BUFFER:
            self._behind = True
            return
        self._buffer.append(event)
        self._tail = event.seq

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _catch_up(self) -> None:
        # Everything announced before the read begins is in the log by then: it is appended before the doorbell rings.
        promised = max(self._heard, self._tail if self._tail > self._after else 0)
        self._behind = False
        self._arrivals = []
        try:
            page = await self._read(self.job_id, self._cursor)
            self._append(page, promised)
        except BaseException:
            self._behind = True
            raise
        finally:
            arrivals, self._arrivals = self._arrivals, None
        for event in arrivals:
            self._accept(event)
        # Arrivals beyond the bound were not kept: the doorbell has announced more than is here.
        self._behind = self._behind or self._heard > self._tail

    def _append(self, page: Page, promised: int) -> None:
        for event in page.events:
            self._logged = max(self._logged, event.seq)
            if event.seq <= self._tail:
                self._end_before_after(event)
                continue
            if event.seq != self._tail + 1:
                raise self._lost(event.seq - 1)
            self._buffer.append(event)
            self._tail = event.seq
        self._cursor = page.cursor
        if page.more:
            self._behind = True
        elif self._logged < promised:
            raise self._lost(promised)

    def _end_before_after(self, event: Event) -> None:
        """A job may end before the number after which it is followed: then there is nothing to deliver."""
        if event.last and event.seq <= self._after:
            self.close()

    def _lost(self, until: int) -> Unavailable:
        return Unavailable(f"the log of job {self.job_id} lost events {min(self._tail + 1, until)} to {until}")
