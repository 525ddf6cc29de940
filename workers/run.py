"""A job in this worker's hands, and how far it has come."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from broker.interfaces import Consumer, Delivery, Grant
from shared.jobs import Ending, Job, Outcome
from workers.attempt import Attempt
from workers.transcript import Transcript

_CHECKOUT_PATIENCE = 0.5  # seconds that an ack waits for accounts; their server does not decide about ends


class Run:
    """What the steps of the pipeline know of one delivery. Belongs to the task that makes it."""

    def __init__(self, delivery: Delivery, consumer: Consumer) -> None:
        task = asyncio.current_task()
        assert task is not None, "a pipeline runs in a task"
        self.task = task
        self.delivery = delivery
        self.consumer = consumer
        self.job = delivery.job
        self.attempt: Attempt | None = None
        self.grant: Grant | None = None
        self.transcript: Transcript | None = None
        """Of a durable stream: what its clients have got."""
        self.outcome: Outcome | None = None
        """The attempt's row, once it is known."""
        self.recorded = False
        """The row is safe."""
        self.answered = False
        """The answer has left: the job may not run again."""
        self.ending: Ending | None = None
        """Of a durable job, once it is on its way to the store: a job has one end."""
        self.confirm: asyncio.Future[None] | None = None
        """Resolves when the ending is safe."""
        self.lost_rows: Sequence[Outcome] | None = ()
        """Of attempts that died with their workers and were closed here; None when it is not known what they cost."""
        self.checkout: asyncio.Task[None] | None = None
        """Gives back what the job held in its accounts, once its life is over."""
        self.concluded = False
        """Nothing is left to do but to settle the delivery: the job ended, or its successor is on the queue."""
        self.poison = ""
        """Why the job is set aside, if it is."""
        self.cancelled = False

    @property
    def second_hand(self) -> bool:
        """Another worker may have had the job."""
        return self.delivery.redelivered or self.job.suspect

    @property
    def over(self) -> bool:
        """The job has its end, though perhaps not everybody knows of it yet."""
        return self.answered or self.ending is not None

    @property
    def rows(self) -> Sequence[Outcome] | None:
        """What this worker knows that the ledger may not have yet; None when it knows of a row, but not its cost."""
        if self.lost_rows is None:
            return None
        return self.lost_rows if self.outcome is None else [*self.lost_rows, self.outcome]

    def cancel(self) -> None:
        """The client is gone: stop, wherever the job is."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def successor(self) -> Job:
        """The job as the next worker should have it: a number is used up once the provider may have seen it."""
        used = self.attempt is not None and self.attempt.dispatched
        return replace(self.job, attempt=self.job.attempt + used, suspect=self.second_hand)

    async def settle(self) -> None:
        """The last step. A durable job that neither ended nor went on must not be forgotten by the queue."""
        if self.job.durable and not self.concluded:
            raise RuntimeError(f"the durable job {self.job.id} would be lost: it has neither an end nor a successor")
        if self.checkout is not None:  # it began long before; who dies now leaves nothing behind
            await asyncio.wait([self.checkout], timeout=_CHECKOUT_PATIENCE)
        if self.poison:
            await self.delivery.dead(self.poison)
        else:
            await self.delivery.ack()


async def to_the_end(steps: Coroutine[Any, Any, None]) -> None:
    """Await `steps`; a cancellation that comes meanwhile is raised after their end."""
    task = asyncio.create_task(steps)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
