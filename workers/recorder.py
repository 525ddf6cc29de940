"""The recorder: takes outcomes from the queue and writes them to the ledger in bulk, losing none and doubling none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

import structlog

from broker.interfaces import JobQueue, OutcomeBatch, Store
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import Outcome

log = structlog.get_logger(__name__)

_MAX_OUTCOMES = 2_000  # in one transaction
_LINGER = 0.1  # seconds that outcomes wait for company
_PREFETCH = 2_000  # messages that may be unacked; they bound what is held while the store is away
_FIRST_RETRY = 0.2  # seconds
_LAST_RETRY = 5.0  # seconds


class Recorder:
    """Writes what `queue.outcomes` delivers and acks it after the commit.

    Any number of recorders may run: the ledger keeps one row for each attempt, whoever writes it. While the store is
    away the recorder holds at most `prefetch` messages and tries again. An outcome that the store refuses is logged
    whole, at error level, and does not hold up the others.

    `on_recorded` is called after every commit with the number of new rows and the seconds that it took.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        *,
        prefetch: int = _PREFETCH,
        linger: float = _LINGER,
        on_recorded: Callable[[int, float], None] | None = None,
    ) -> None:
        self._queue = queue
        self._store = store
        self._prefetch = prefetch
        self._linger = linger
        self._on_recorded = on_recorded
        self._inbox: asyncio.Queue[OutcomeBatch] = asyncio.Queue(maxsize=prefetch)
        self._held: list[OutcomeBatch] = []
        self._stopping = asyncio.Event()
        self._away_since: float | None = None

    async def run(self) -> None:
        """Record until cancelled; may be run once. What was delivered by then is committed and acked before it returns,
        unless the store is away: then it goes back to the queue."""
        async with self._queue.outcomes(self._prefetch) as batches, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(batches))
            tasks.create_task(self._record())

    async def _receive(self, batches: AsyncIterator[OutcomeBatch]) -> None:
        async for batch in batches:
            await self._inbox.put(batch)

    async def _record(self) -> None:
        try:
            while True:
                await self._gather()
                await self._settle_in_peace()
        finally:
            self._stopping.set()
            while not self._inbox.empty():
                self._held.append(self._inbox.get_nowait())
            await self._settle()

    async def _gather(self) -> None:
        """Hold `_MAX_OUTCOMES` outcomes, or those that came within `linger` seconds of the first."""
        await self._hold_next()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger):
                while len(self._held) < self._prefetch and _count(self._held) < _MAX_OUTCOMES:
                    await self._hold_next()

    async def _hold_next(self) -> None:
        self._held.append(await self._inbox.get())

    async def _settle_in_peace(self) -> None:
        """A cancellation waits for the commit in progress and its acks; it only ends the retries."""
        settling = asyncio.create_task(self._settle())
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:
            self._stopping.set()
            await settling
            raise

    async def _settle(self) -> None:
        batches, self._held = self._held, []
        if await self._commit([outcome for batch in batches for outcome in batch.outcomes]):
            for batch in batches:
                await _ack(batch)

    async def _commit(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether the outcomes are safe; false when the store was away to the end."""
        delay = _FIRST_RETRY
        while True:
            try:
                await self._add(outcomes)
            except Unavailable as error:
                self._note_away(error)
            else:
                self._note_back()
                return True
            if await self._stopped_within(delay):
                return False
            delay = min(delay * 2, _LAST_RETRY)

    async def _add(self, outcomes: Sequence[Outcome]) -> None:
        """Add the rows; halve a batch that the store refuses until what it refuses is alone."""
        if not outcomes:
            return
        started = _now()
        try:
            new = await self._store.record(outcomes)
        except InvalidRequest as error:
            if len(outcomes) == 1:
                log.error("outcome_refused", error=error.message, outcome=asdict(outcomes[0]))
                return
            middle = len(outcomes) // 2
            await self._add(outcomes[:middle])
            await self._add(outcomes[middle:])
            return
        if self._on_recorded is not None:
            self._on_recorded(new, _now() - started)

    async def _stopped_within(self, delay: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                return await self._stopping.wait()
        return False

    def _note_away(self, error: Unavailable) -> None:
        if self._away_since is None:
            self._away_since = _now()
            log.warning("store_unavailable", error=error.message)

    def _note_back(self) -> None:
        if self._away_since is not None:
            log.info("store_available", away_seconds=round(_now() - self._away_since, 3))
            self._away_since = None


async def _ack(batch: OutcomeBatch) -> None:
    try:
        await batch.ack()
    except Unavailable as error:  # the queue delivers it again, and the ledger has it already
        log.warning("outcomes_not_acked", error=error.message)


def _count(batches: Sequence[OutcomeBatch]) -> int:
    return sum(len(batch.outcomes) for batch in batches)


def _now() -> float:
    return asyncio.get_running_loop().time()
