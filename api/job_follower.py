"""Follows a durable job by its log, and by its row in the store where the log is silent or gone."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Self

from api import sse
from broker.interfaces import EventLog, Follower
from broker.records import JobRecord
from broker.store_interfaces import Store
from shared.errors import AppError, NotFound, Unavailable
from shared.events import Event, Kind
from shared.jobs import Ending

_LOOK = 5.0  # seconds of silence until the store is asked (again) whether the job is over


class JobFollower:
    """A `Follower` that ends with the job, however it ends: in a worker's hands, cancelled in the queue, or past its
    deadline; and however long ago: events whose log is gone come from the answer that the store keeps."""

    def __init__(self, log: EventLog, store: Store, record: JobRecord, live: Follower | None = None) -> None:
        """`record` has its bodies if the job is over. `live` follows the job already, and ends with this one."""
        self._store = store
        self._job = record.job
        self._frames = 0  # delivered so far
        self._look_at = asyncio.get_running_loop().time() + _LOOK
        self._tail = live or (log.tail(record.job.id) if record.ending is None else None)
        self._stored = self._rest(record.ending) if record.ending is not None else iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.next()

    async def next(self, timeout: float | None = None) -> Event:  # noqa: ASYNC109  # the Protocol's signature
        now = asyncio.get_running_loop().time
        until = float("inf") if timeout is None else now() + timeout
        while self._tail is not None:
            try:
                event = await self._tail.next(max(min(until, self._look_at) - now(), 0.0))
            except TimeoutError:
                if now() < self._look_at:
                    raise
                await self._look(self._tail)
            except Unavailable:
                await self._look(self._tail)
                if self._tail is not None:
                    raise
            else:
                self._frames += sse.count(event)
                self._look_at = now() + _LOOK
                return event
        for event in self._stored:
            return event
        raise StopAsyncIteration

    def fail(self, error: AppError) -> None:
        if self._tail is not None:  # what is stored needs no waiting for
            self._tail.fail(error)

    def close(self) -> None:
        if self._tail is not None:
            self._tail.close()

    async def _look(self, tail: Follower) -> None:
        """Is the job over, and the log silent about it?"""
        self._look_at = asyncio.get_running_loop().time() + _LOOK
        with suppress(Unavailable):  # the log may go on all the same
            record = await self._store.jobs.get(self._job.id)
            if record is not None and record.state.final:
                record = await self._store.jobs.get(self._job.id, bodies=True)
            if record is None:
                tail.fail(NotFound(f"The result of job {self._job.id} has expired."))
            elif record.ending is not None:
                self._stored = self._rest(record.ending)
                self._tail = None
                tail.close()

    def _rest(self, ending: Ending) -> Iterator[Event]:
        return events_of(ending, stream=self._job.stream, seen=self._frames)


def events_of(ending: Ending, *, stream: bool, seen: int = 0) -> Iterator[Event]:
    """The job's events as its answer tells them, without the first `seen` frames; numbered anew, one frame each."""
    meta = ending.served or {}
    seq = 0
    if stream:
        for seq, frame in islice(enumerate(sse.stored_chunks(ending.answer), 1), seen, None):
            yield Event(ending.job_id, seq, Kind.CHUNK, frame, meta)
    if ending.error is not None:
        yield Event(ending.job_id, seq + 1, Kind.FAILED, meta={**meta, "error": ending.error})
    elif not stream or sse.is_done(ending.answer):
        yield Event(ending.job_id, seq + 1, Kind.COMPLETED, b"" if stream else ending.answer, meta)
