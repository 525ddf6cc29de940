"""Follows the logs of any jobs on Redis, live, on one connection for all of them, which lives while somebody follows.

The connection waits in one blocking XREAD over the streams of all jobs that are followed. When a job is added, an entry
in a stream that is this process's own wakes it, and it asks again, with the new job among the others.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from broker.events.follower import LogFollower, ReadLog
from broker.events.followers import Followers
from broker.redis_link import TIMEOUT, backoff
from broker.redis_pipe import Pipe
from shared.errors import Unavailable
from shared.events import Event

_BLOCK_MS = 2000  # that the server waits for news before it says that there are none, which is a sign of life
_COUNT = 64  # entries of one job that a reply has at most
_COST = 20e-6  # seconds of rest for each job before asking again: with thousands, asking must not take all the time
_SHORTEST_REST = 0.001  # seconds
_WAKE_TTL_MS = 60_000
_BEGINNING = b"0-0"
_WAKE = ""  # stands for the wake-up stream where others stand for a job

_log = logging.getLogger(__name__)

_Cursors = dict[str, bytes]
"""Job id -> the newest entry of its stream that was seen."""


class Tailer:
    def __init__(self, url: str, pipe: Pipe, read: ReadLog, key: Callable[[str], str], wake_key: str) -> None:
        """`read` reads a job's log by pages, `key` names its stream; `wake_key` is a stream that nobody else has."""
        self._url = url
        self._pipe = pipe
        self._key = key
        self._wake_key = wake_key
        self._unused = asyncio.Event()
        self._followers = Followers(read, on_idle=self._unused.set)
        self._task: asyncio.Task[None] | None = None

    def tail(self, job_id: str, after: int) -> LogFollower:
        follower = self._followers.tail(job_id, after)
        self._unused.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="redis tailer")
        else:
            self._wake()
        return follower

    async def close(self) -> None:
        """End all tails, and the connection."""
        self._followers.close()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _wake(self) -> None:
        # Should it fail, the server's answer after `_BLOCK_MS` wakes the connection as well.
        self._pipe.submit(
            ("XADD", self._wake_key, "MAXLEN", 1, "*", b"w", b""), ("PEXPIRE", self._wake_key, _WAKE_TTL_MS)
        )

    async def _run(self) -> None:
        while self._followers.jobs:
            telling = asyncio.create_task(self._tell(), name="redis tailer's connection")
            try:
                await self._unused.wait()
            finally:
                telling.cancel()
                await asyncio.wait([telling])

    async def _tell(self) -> None:
        delays = backoff()
        while True:
            with suppress(Unavailable):  # cannot connect yet
                async with Pipe(self._url, timeout=_BLOCK_MS / 1000 + TIMEOUT) as pipe:
                    delays = backoff()
                    await self._serve(pipe)
            await asyncio.sleep(next(delays))

    async def _serve(self, pipe: Pipe) -> None:
        cursors: _Cursors = {_WAKE: _BEGINNING}
        try:
            while True:
                await self._take_on(pipe, cursors)
                self._drop(cursors)
                self._ring(await self._news(pipe, cursors), cursors)
                rest = _COST * len(cursors)
                if rest >= _SHORTEST_REST:
                    await asyncio.sleep(rest)
        except Unavailable as exc:
            _log.warning("live logs of jobs are interrupted: %s", exc)

    async def _take_on(self, pipe: Pipe, cursors: _Cursors) -> None:
        """Find out where the streams of new jobs end; after a reconnect all jobs are new. What comes after that point
        is this connection's to tell, what comes before is for the followers to read from the log."""
        new = [job_id for job_id in self._followers.jobs if job_id not in cursors]
        if not new:
            return
        newest = await pipe.submit(*[("XREVRANGE", self._key(job_id), "+", "-", "COUNT", 1) for job_id in new])
        for job_id, entries in zip(new, newest, strict=True):
            cursors[job_id] = entries[0][0] if entries else _BEGINNING
            self._followers.distrust(job_id)

    def _drop(self, cursors: _Cursors) -> None:
        followed = self._followers.jobs
        for job_id in [job_id for job_id in cursors if job_id not in followed and job_id != _WAKE]:
            del cursors[job_id]

    async def _news(self, pipe: Pipe, cursors: _Cursors) -> Any:
        """What was appended behind the cursors: Redis's `[[key, [[id, fields], ...]], ...]`, None when nothing was."""
        keys = [self._key(job_id) if job_id != _WAKE else self._wake_key for job_id in cursors]
        return await pipe.call("XREAD", "COUNT", _COUNT, "BLOCK", _BLOCK_MS, "STREAMS", *keys, *cursors.values())

    def _ring(self, news: Any, cursors: _Cursors) -> None:
        for key, entries in news or ():
            newest = entries[-1][0]
            if key.decode() == self._wake_key:
                cursors[_WAKE] = newest
                continue
            events = [Event.from_wire(fields[1]) for _, fields in entries]
            cursors[events[-1].job_id] = newest
            for event in events:
                if event.seq:
                    self._followers.ring(event)
