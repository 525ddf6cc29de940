"""Ends jobs: the one way out of a worker for every job that does not go on elsewhere.

The last event goes to the client. A durable job's ending goes to the outcomes queue too, in one message with the row of
its last attempt, and it goes there first: once it is on its way, followers need not wait for the confirm, but the
delivery's ack must. A log that is away does not undo a durable job's end: its followers read the store then.

Last, and beside the rest, the job gives back what it holds in its accounts.
"""

import asyncio
from contextlib import suppress

from broker.interfaces import EventLog
from shared import errors
from shared.errors import AppError, Unavailable
from shared.events import Event
from shared.jobs import Status
from workers.checkout import Checkout
from workers.outcomes import OutcomeWriter
from workers.reports import Reports
from workers.run import Run, to_the_end


class Ends:
    """Each method raises `Unavailable` when one of our servers is away for longer than it can wait."""

    def __init__(self, log: EventLog, reports: Reports, outcomes: OutcomeWriter, checkout: Checkout) -> None:
        self._log = log
        self._reports = reports
        self._outcomes = outcomes
        self._checkout = checkout

    def book(self, run: Run, status: Status, error: AppError | None = None, *, last: bool = True) -> None:
        """Write the attempt's row, if it went upstream; `last` unless another attempt follows. It is safe after
        `record`, or after the job's end."""
        if run.attempt is not None and run.attempt.dispatched and run.outcome is None:
            run.outcome = self._reports.outcome(run.attempt, status, error, last=last)

    async def record(self, run: Run) -> None:
        """The row is safe when this returns."""
        if run.outcome is not None and not run.recorded:
            await self._outcomes.record(run.outcome)
            run.recorded = True

    async def completed(self, run: Run, body: bytes) -> None:
        """The answer leaves. `confirmed` must follow."""
        assert run.attempt is not None
        outcome = run.outcome or self._reports.outcome(run.attempt, Status.SUCCESS, answer=body)
        event = self._reports.completed(run.attempt, outcome, body)
        if run.job.durable:
            run.outcome = outcome
            await self._leave(run, event)
        else:
            await self._log.emit(run.job.reply_to, [event])
            run.outcome = outcome  # not before: an answer that could not leave is a failure on the bill
            self.release(run)
        run.answered = True

    async def confirmed(self, run: Run) -> None:
        """What belongs to the job's end is safe when this returns: the delivery may be settled."""
        if run.ending is None:
            await self.record(run)
        else:
            await self._ending_safe(run)
        run.concluded = True

    async def failed(self, run: Run, error: AppError, *, seen: int | None = None) -> None:
        """Tell the client, who has seen so many events (None: as many as the attempt sent)."""
        if seen is None:
            seen = run.attempt.seq if run.attempt is not None else 0
        event = self._reports.failed(run.job, error, run.attempt, run.outcome, seen + 1)
        if run.job.durable:
            await to_the_end(self._fail(run, event))
        else:
            await self._log.emit(run.job.reply_to, [event])
            self.release(run)
        run.concluded = True

    async def cancelled(self, run: Run) -> None:
        """Nobody wants the job any more. Of one that is not durable nobody wants to hear either."""
        if run.job.durable:
            await self.failed(run, errors.Cancelled("The job was cancelled."))
        else:
            self.release(run)
            await self.record(run)
        run.concluded = True

    def release(self, run: Run) -> None:
        """The job's life is over: its accounts hear of it, once, and nobody waits for them."""
        if run.checkout is None:
            run.checkout = self._checkout.start(run.job, run.rows)

    async def _fail(self, run: Run, event: Event) -> None:
        if run.ending is None:
            await self._leave(run, event)
        await self.confirmed(run)

    async def _leave(self, run: Run, event: Event) -> None:
        if run.ending is None:
            run.ending = self._reports.ending(run.job, event, run.transcript)
            self._send(run)
        with suppress(Unavailable):
            await self._log.emit(run.job.reply_to, [event])
        self.release(run)

    def _send(self, run: Run) -> None:
        rows = [] if run.outcome is None or run.recorded else [run.outcome]
        run.confirm = self._outcomes.put(*rows, ending=run.ending)

    async def _ending_safe(self, run: Run) -> None:
        assert run.confirm is not None
        if run.confirm.done() and run.confirm.exception() is not None:
            self._send(run)  # the queue was away; that the store gets it twice does no harm
        # Whoever cancels the task must not cancel the confirm, which the next attempt to leave waits for.
        await asyncio.shield(run.confirm)
        run.recorded = True
