"""The recorder: takes outcomes and endings of jobs from the queue and writes them to the store in bulk, losing none and
doubling none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

import structlog

from broker.interfaces import JobQueue, OutcomeBatch
from broker.store_interfaces import Store
from shared.errors import AppError, InvalidRequest, Unavailable
from shared.jobs import Ending, JobState, Outcome
from workers.charges import Charges

log = structlog.get_logger(__name__)

_MAX_ITEMS = 2_000  # outcomes and endings in one transaction
_MAX_BYTES = 8 * 1024 * 1024  # of answers and prompts in one transaction, unless a single message has more
_LINGER = 0.1  # seconds that outcomes wait for company
_PREFETCH = 200  # messages that may be unacked, of mostly 1 MiB at most: what is held while the store is away
_FIRST_RETRY = 0.2  # seconds
_LAST_RETRY = 5.0  # seconds


class Recorder:
    """Writes what `queue.outcomes` delivers and acks it after the commit.

    Any number of recorders may run: the ledger keeps one row for each attempt, whoever writes it. While the store is
    away the recorder holds at most `prefetch` messages and tries again. An outcome that the store refuses is logged,
    all but its prompts, at error level, and does not hold up the others. A job whose ending the store refuses ends as
    a failure without an answer, so that nobody waits for it for ever.

    What is committed is told to `charges` before it is acked.

    `on_recorded` is called after every commit with the number of new rows and the seconds that it took.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: Store,
        *,
        prefetch: int = _PREFETCH,
        linger: float = _LINGER,
        charges: Charges | None = None,
        on_recorded: Callable[[int, float], None] | None = None,
    ) -> None:
        self._queue = queue
        self._store = store
        self._prefetch = prefetch
        self._linger = linger
        self._charges = charges
        self._on_recorded = on_recorded
        self._inbox: asyncio.Queue[OutcomeBatch] = asyncio.Queue(maxsize=prefetch)
        self._held: list[OutcomeBatch] = []
        self._items = 0  # held
        self._bytes = 0  # of answers and prompts held
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
                self._hold(self._inbox.get_nowait())
            await self._settle()

    async def _gather(self) -> None:
        """Hold a transaction's worth, or what came within `linger` seconds of the first message."""
        await self._hold_next()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger):
                while len(self._held) < self._prefetch and self._items < _MAX_ITEMS and self._bytes < _MAX_BYTES:
                    await self._hold_next()

    async def _hold_next(self) -> None:
        self._hold(await self._inbox.get())

    def _hold(self, batch: OutcomeBatch) -> None:
        self._held.append(batch)
        self._items += len(batch.outcomes) + len(batch.endings)
        self._bytes += sum(len(ending.answer) for ending in batch.endings)
        self._bytes += sum(len(outcome.request) + len(outcome.response) for outcome in batch.outcomes)

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
        batches, self._held, self._items, self._bytes = self._held, [], 0, 0
        items: list[Outcome | Ending] = [outcome for batch in batches for outcome in batch.outcomes]
        items += [ending for batch in batches for ending in batch.endings]
        if await self._commit(items):
            for batch in batches:
                await _ack(batch)

    async def _commit(self, items: Sequence[Outcome | Ending]) -> bool:
        """Whether the items are safe; false when the store was away to the end."""
        delay = _FIRST_RETRY
        while True:
            try:
                await self._add(items)
            except Unavailable as error:
                self._note_away(error)
            else:
                self._note_back()
                return True
            if await self._stopped_within(delay):
                return False
            delay = min(delay * 2, _LAST_RETRY)

    async def _add(self, items: Sequence[Outcome | Ending]) -> None:
        """Add the rows; halve a batch that the store refuses until what it refuses is alone."""
        if not items:
            return
        started = _now()
        outcomes = [item for item in items if isinstance(item, Outcome)]
        endings = [item for item in items if isinstance(item, Ending)]
        try:
            new = await self._store.record(outcomes, endings)
        except InvalidRequest as error:
            if len(items) == 1:
                await self._set_aside(items[0], error)
                return
            middle = len(items) // 2
            await self._add(items[:middle])
            await self._add(items[middle:])
            return
        if self._charges is not None:
            await self._charges.charge(outcomes)
        if self._on_recorded is not None:
            self._on_recorded(new, _now() - started)

    async def _set_aside(self, item: Outcome | Ending, error: InvalidRequest) -> None:
        if isinstance(item, Outcome):
            row = asdict(replace(item, request="", response=""))
            log.error("outcome_refused", error=error.message, outcome=row)
            return
        # Without the answer, and whatever else is the caller's: a log is no place for it.
        log.error("ending_refused", error=error.message, job=item.job_id, state=item.state, bytes=len(item.answer))
        substitute = _substitute(item)
        if item != substitute:
            await self._add([substitute])

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


def _substitute(ending: Ending) -> Ending:
    """The end of a job that the store could not be told in full."""
    error = AppError("The store refused the job's result; the recorder's log says why.")
    return replace(ending, state=JobState.FAILED, answer=b"", error=error.to_wire(), served=None)


def _now() -> float:
    return asyncio.get_running_loop().time()
