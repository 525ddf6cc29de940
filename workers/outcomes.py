"""Sends outcomes, and endings of durable jobs, to their queue, several in one message: a confirm costs the same for one
as for a hundred."""

import asyncio

from broker.interfaces import JobQueue
from shared import metrics
from shared.errors import Unavailable
from shared.jobs import Ending, Outcome
from shared.values import value

_GATHER = 0.02  # seconds; nobody waits for it but the job's ack, and each message costs RabbitMQ a write to disk
_LARGEST = 200  # jobs in one message
_LARGEST_BYTES = 1024 * 1024  # of answers and prompts in one message, unless a single one is larger
_PATIENCE = 120.0  # seconds that outcomes are kept for a queue that is away; their jobs keep their slots meanwhile
_RETRY = 1.0  # seconds


@value(frozen=True, slots=True)
class _Entry:
    """What one job leaves, and who waits to hear that it is safe."""

    outcomes: tuple[Outcome, ...]
    ending: Ending | None
    done: "asyncio.Future[None]"


class OutcomeWriter:
    """Coalesces what concurrent jobs leave. With `keep` off (`disable_spend_logs`) outcomes are counted only; endings,
    which are a job's result, are written all the same."""

    def __init__(self, queue: JobQueue, *, keep: bool = True) -> None:
        self._queue = queue
        self.keeps = keep
        self._waiting: list[_Entry] = []
        self._bytes = 0  # of answers and prompts in `_waiting`
        self._timer: asyncio.TimerHandle | None = None

    async def record(self, *outcomes: Outcome, ending: Ending | None = None) -> None:
        """Return when the queue has taken responsibility for all of them, in one message. Raises `Unavailable` after
        `_PATIENCE`."""
        if self.keeps or ending is not None:
            await self.put(*outcomes, ending=ending)
        else:
            _count(outcomes)

    def put(self, *outcomes: Outcome, ending: Ending | None = None) -> "asyncio.Future[None]":
        """As `record`, for a caller who has something to do before the confirm."""
        _count(outcomes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = sum(len(each.request) + len(each.response) for each in outcomes) if self.keeps else 0
        size += len(ending.answer) if ending is not None else 0
        if self._bytes and self._bytes + size > _LARGEST_BYTES:
            self._flush()
        self._waiting.append(_Entry(outcomes if self.keeps else (), ending, done))
        self._bytes += size
        if len(self._waiting) >= _LARGEST or self._bytes >= _LARGEST_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER, self._flush)
        return done

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        self._bytes = 0
        if not batch:
            return
        self._send(batch, asyncio.get_running_loop().time() + _PATIENCE)

    def _send(self, batch: list[_Entry], give_up: float) -> None:
        outcomes = [outcome for entry in batch for outcome in entry.outcomes]
        confirm = self._queue.record(outcomes, [entry.ending for entry in batch if entry.ending is not None])
        confirm.add_done_callback(lambda confirm: self._confirmed(confirm, batch, give_up))

    def _confirmed(self, confirm: "asyncio.Future[None]", batch: list[_Entry], give_up: float) -> None:
        error = asyncio.CancelledError() if confirm.cancelled() else confirm.exception()
        loop = asyncio.get_running_loop()
        if isinstance(error, Unavailable) and loop.time() < give_up:
            # A job that RabbitMQ forgets when it restarts does not come again to be recorded: the row is in our hands.
            # It may be sent twice; the ledger has one row for an attempt, and a job one ending.
            loop.call_later(_RETRY, self._send, batch, give_up)
            return
        _settle(error, batch)


def _count(outcomes: tuple[Outcome, ...]) -> None:
    for outcome in outcomes:
        metrics.note_attempt(outcome)


def _settle(error: BaseException | None, batch: list[_Entry]) -> None:
    for entry in batch:
        if entry.done.done():
            continue
        if error is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(error)
