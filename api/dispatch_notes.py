"""Telling the store that jobs are on their lanes: some milliseconds later, many at once, by one task."""

import asyncio

import structlog

from broker.store_interfaces import Jobs
from shared.clock import Clock
from shared.errors import Unavailable
from shared.jobs import JobState

_PAUSE = 0.05  # seconds in which notes come together
_PAUSE_WHEN_AWAY = 1.0  # seconds until a store that was away is told again
_MOST = 10_000  # jobs that are remembered; what the store never hears of, the reaper publishes once more

log = structlog.get_logger(__name__)


class DispatchNotes:
    def __init__(self, jobs: Jobs, clock: Clock) -> None:
        self._jobs = jobs
        self._clock = clock
        self._ids: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, job_id: str) -> None:
        """The job is on its lane."""
        if len(self._ids) < _MOST:
            self._ids.append(job_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="dispatch notes")

    async def close(self) -> None:
        """Tell the store what it has not heard yet, and stop."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        """Ends when there is nothing more to tell: a process that accepts no durable jobs has no task for them."""
        pause = _PAUSE
        while self._ids:
            try:
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            except TimeoutError:
                pass
            told = len(self._ids)
            try:
                await self._jobs.move(
                    self._ids[:told], JobState.DISPATCHED, self._clock.now(), expected=JobState.DISPATCHING
                )
            except Unavailable as error:
                if self._closing.is_set():
                    log.warning("dispatched_jobs_not_noted", jobs=told, reason=error.message)
                    return
                pause = _PAUSE_WHEN_AWAY
                continue
            del self._ids[:told]
            pause = _PAUSE
