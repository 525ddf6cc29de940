"""The undertaker: brings dead letters from the queue to the store, where operators find them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog

from broker.interfaces import DeadDelivery, JobQueue
from broker.records import DeadLetter, SpendQuery
from broker.store_interfaces import Store
from shared.clock import Clock
from shared.errors import InvalidRequest, Quarantined, Unavailable
from shared.jobs import Ending, JobState
from workers.checkout import Checkout

_PREFETCH = 50  # letters that may be unacked; each may have a request of 1 MiB
_FIRST_RETRY = 0.2  # seconds, doubled up to the last
_LAST_RETRY = 5.0

log = structlog.get_logger(__name__)


class Undertaker:
    """Acks a letter when the store has it. Any number of undertakers may run: a letter that comes twice is one row.

    A job that the queue gave up by itself ends here, as no worker has ended it: its accounts hear of it, and of a
    durable one the store. `workers.purge` deletes the letters when they are old.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        clock: Clock,
        *,
        checkout: Checkout | None = None,
        prefetch: int = _PREFETCH,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._store = store
        self._clock = clock
        self._checkout = checkout
        self._prefetch = prefetch
        self._sleep = sleep

    async def run(self) -> None:
        """Until cancelled; may be run again. While the store is away, letters stay on the queue. Raises `Unavailable`
        when the queue cannot be reached at the start."""
        async with self._queue.dead_letters(self._prefetch) as letters:
            async for dead in letters:
                await self._keep(dead)

    async def _keep(self, dead: DeadDelivery) -> None:
        delay = _FIRST_RETRY
        while not await self._kept(dead):
            await self._sleep(delay)
            delay = min(delay * 2, _LAST_RETRY)

    async def _kept(self, dead: DeadDelivery) -> bool:
        """Whether there is nothing more to do for it; false while the store is away."""
        letter = dead.letter
        try:
            if dead.abandoned:
                await self._end(letter)
            await self._store.dead_letters.add([letter])
        except Unavailable as error:
            log.warning("dead_letter_waits", job=letter.job_id, reason=error.message)
            return False
        except InvalidRequest as error:  # it stays on the queue; trying again does not help
            log.error("dead_letter_refused", job=letter.job_id, provider=letter.provider, error=error.message)
            return True
        log.warning("job_dead", job=letter.job_id, provider=letter.provider, reason=letter.reason)
        await dead.ack()
        return True

    async def _end(self, letter: DeadLetter) -> None:
        meta = _headers(letter)
        if meta.get("durable") is True:
            await self._record_end(letter)
        if self._checkout is not None:
            await self._checkout.abandoned(letter.job_id, _accounts(meta))

    async def _record_end(self, letter: DeadLetter) -> None:
        rows = await self._store.spend(SpendQuery(request_id=letter.job_id))
        error = Quarantined(f"The job was set aside: {letter.reason}.", provider=letter.provider)
        ending = Ending(
            job_id=letter.job_id,
            state=JobState.FAILED,
            finished_at=self._clock.now(),
            attempts=len([row for row in rows if row.job_id == letter.job_id]),
            error=error.to_wire(),
        )
        await self._store.record((), [ending])


def _headers(letter: DeadLetter) -> dict[str, Any]:
    """What the job's headers say, as far as they can be read: they may be of a newer version."""
    try:
        meta = orjson.loads(letter.headers)
    except orjson.JSONDecodeError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _accounts(meta: dict[str, Any]) -> tuple[str, ...]:
    named = meta.get("accounts")
    return tuple(each for each in named if isinstance(each, str)) if isinstance(named, list) else ()
