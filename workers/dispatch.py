"""From rows of the store to messages on their lanes, in bulk: moved, published, confirmed, moved again."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from broker.interfaces import JobQueue
from broker.records import JobRecord
from broker.store_interfaces import Store
from shared.accounts import charged
from shared.clock import Clock
from shared.errors import AppError, QueueFull, Unavailable
from shared.jobs import JobState
from shared.values import value

_TURN = 50  # jobs after which the event loop has its turn: a client's stream may be waiting for it
_CONFIRM_PATIENCE = 30.0  # seconds; a message without its confirm by then is the reaper's business

log = structlog.get_logger(__name__)


@value(frozen=True, slots=True)
class Dispatched:
    """What became of jobs that were to be put on their lanes."""

    confirmed: int
    refused: frozenset[str]
    """Ids of those that are back in the state `queued`: their lane was full, or the queue did not answer."""


class Dispatch:
    """Puts durable jobs on their lanes. A process that dies in the middle leaves rows that are `dispatching`, which the
    reaper publishes again."""

    def __init__(self, store: Store, queue: JobQueue, clock: Clock) -> None:
        self._store = store
        self._jobs = store.jobs
        self._queue = queue
        self._clock = clock

    async def take(self, records: Sequence[JobRecord], expected: JobState) -> list[JobRecord]:
        """Move those that are still in the state `expected` to `dispatching`; from then on they are this process's."""
        if not records:
            return []
        ids = [record.job.id for record in records]
        taken = set(await self._jobs.move(ids, JobState.DISPATCHING, self._clock.now(), expected=expected))
        return [record for record in records if record.job.id in taken]

    async def publish(self, records: Sequence[JobRecord], *, suspect: bool = False) -> Dispatched:
        """Publish what `take` gave, all at once, and note what the queue said. A job that was on a lane before, or all
        if `suspect`, are marked so that they do not run twice. Raises `Unavailable` when the store is away."""
        before = [record.job.id for record in records if suspect or record.dispatches > 0]
        # The log knows better, but it may be gone: with a memory queue's process, or with Redis.
        last = await self._store.last_attempts(before) if before else {}
        again = frozenset(before)
        confirms: dict[str, asyncio.Future[None]] = {}
        for count, record in enumerate(records, 1):
            if count % _TURN == 0:
                await asyncio.sleep(0)
            job = replace(
                record.job,
                published_at=self._clock.now(),
                durable=True,
                suspect=record.job.id in again,
                attempt=max(record.job.attempt, last.get(record.job.id, 0) + 1),
            )
            if suspect and not job.accounts:  # who released it knew them, and the row does not: its end asks all
                job = replace(job, accounts=tuple(charged(job)))
            confirms[job.id] = self._queue.publish(job.without_large_body())
        confirmed, refused = await self._confirmed(confirms)
        await self._move(confirmed, JobState.DISPATCHED)
        await self._move(refused, JobState.QUEUED)
        return Dispatched(len(confirmed), frozenset(refused))

    async def _confirmed(self, confirms: dict[str, "asyncio.Future[None]"]) -> tuple[list[str], list[str]]:
        """The ids that the queue has, and those that it refused. What it says nothing of is in neither."""
        if confirms:
            await asyncio.wait(confirms.values(), timeout=_CONFIRM_PATIENCE)
        confirmed, refused = [], []
        reasons: dict[str, AppError] = {}
        for job_id, confirm in confirms.items():
            if not confirm.done() or confirm.cancelled():
                continue
            match confirm.exception():
                case None:
                    confirmed.append(job_id)
                case (QueueFull() | Unavailable()) as error:
                    refused.append(job_id)
                    reasons[error.code] = error
                case error:
                    log.error("job_not_dispatched", job=job_id, reason=repr(error))
        for error in reasons.values():
            log.warning("jobs_not_dispatched", jobs=len(refused), code=error.code, reason=error.message)
        return confirmed, refused

    async def _move(self, job_ids: list[str], state: JobState) -> None:
        if job_ids:
            await self._jobs.move(job_ids, state, self._clock.now(), expected=JobState.DISPATCHING)
