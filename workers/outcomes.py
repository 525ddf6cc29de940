"""Sends outcomes to the durable queue, several in one message: a confirm costs the same for one as for a hundred."""

import asyncio

from broker.interfaces import JobQueue
from shared import metrics
from shared.errors import Unavailable
from shared.jobs import Outcome

_GATHER = 0.02  # seconds; nobody waits for it but the job's ack, and each message costs RabbitMQ a write to disk
_LARGEST = 200  # outcomes in one message
_PATIENCE = 120.0  # seconds that outcomes are kept for a queue that is away; their jobs keep their slots meanwhile
_RETRY = 1.0  # seconds

_Batch = list[tuple[Outcome, "asyncio.Future[None]"]]


class OutcomeWriter:
    """Coalesces the outcomes of concurrent jobs. With `keep` off (`disable_spend_logs`) they are counted only."""

    def __init__(self, queue: JobQueue, *, keep: bool = True) -> None:
        self._queue = queue
        self._keep = keep
        self._waiting: _Batch = []
        self._timer: asyncio.TimerHandle | None = None

    async def record(self, *outcomes: Outcome) -> None:
        """Return when the queue has taken responsibility for `outcomes`. Raises `Unavailable` after `_PATIENCE`."""
        for outcome in outcomes:
            metrics.note_attempt(outcome)
        if not self._keep:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.extend((outcome, done) for outcome in outcomes)
        if len(self._waiting) >= _LARGEST:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER, self._flush)
        await done

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        self._send(batch, asyncio.get_running_loop().time() + _PATIENCE)

    def _send(self, batch: "_Batch", give_up: float) -> None:
        confirm = self._queue.record([outcome for outcome, _ in batch])
        confirm.add_done_callback(lambda confirm: self._confirmed(confirm, batch, give_up))

    def _confirmed(self, confirm: "asyncio.Future[None]", batch: "_Batch", give_up: float) -> None:
        error = asyncio.CancelledError() if confirm.cancelled() else confirm.exception()
        loop = asyncio.get_running_loop()
        if isinstance(error, Unavailable) and loop.time() < give_up:
            # A job that RabbitMQ forgets when it restarts does not come again to be recorded: the row is in our hands.
            # It may be sent twice; the ledger has one row for an attempt.
            loop.call_later(_RETRY, self._send, batch, give_up)
            return
        _settle(error, batch)


def _settle(error: BaseException | None, batch: _Batch) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
