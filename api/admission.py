"""May this job enter? From a validated request to a job on its lane, and somebody following it."""

import asyncio
import random
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from api.backpressure import Backpressure
from api.fairness import Outstanding, Seat
from api.lane_board import Outlook
from broker.backends import Backends
from broker.interfaces import Follower
from shared.catalog import Catalog
from shared.chat_request import Envelope
from shared.clock import Clock
from shared.errors import AppError, QueueFull, RequestTooLarge, Unavailable
from shared.job_plan import NO_WISHES, Caller, JobPlanner, Wishes
from shared.jobs import CLAIM_CHECK_BYTES, Job

_PUBLISH_PAUSE = 0.5  # seconds until a job whose confirm was lost is sent again; the queue's reconnection comes on top
_BODY_GRACE = 60.0  # seconds that a claimed body outlives its deadline


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Followed:
    """An accepted job and its events."""

    job: Job
    follower: Follower
    outlook: Outlook | None = None
    """How its lane stood; None for a job that had been accepted before."""
    seat: Seat | None = None
    """Its part in what its tenant has under way, if it counts."""


class Admission:
    def __init__(
        self, backends: Backends, catalog: Catalog, clock: Clock, request_timeout: float, pressure: Backpressure
    ) -> None:
        self._queue = backends.queue
        self._log = backends.log
        self._clock = clock
        self._pressure = pressure
        self.outstanding = Outstanding(clock)
        self._planner = JobPlanner(catalog, random.Random(), backends.log.reply_channel, request_timeout)
        # Those that the queue has confirmed and somebody still follows: the conversation with the client keeps them.
        self._followed: WeakValueDictionary[str, Followed] = WeakValueDictionary()
        self._queue.on_loss(self._publish_again)

    def job(self, envelope: Envelope, body: bytes, caller: Caller, wishes: Wishes = NO_WISHES) -> Job:
        """The job for a request. Raises `UnknownModel`; nothing has happened yet."""
        precedence = self.outstanding.precedence(caller.team or caller.key)
        return self._planner.job(envelope, body, caller, self._clock.now(), wishes, precedence)

    async def enter(self, job: Job) -> Followed:
        """Publish the job, followed from before its first event. A full lane or a lost queue fails the follower.

        Raises `DeadlineUnreachable` or `QueueWaitExceeded`, having done nothing, if its turn would come too late.
        """
        outlook = self._pressure.admit(job, len(self.outstanding))
        if len(job.body) > CLAIM_CHECK_BYTES:
            await self._log.put_body(job.id, job.body, job.deadline - job.accepted_at + _BODY_GRACE)
            job = job.without_large_body()
        seat = self.outstanding.take(job)
        if seat is not None and seat.precedence != job.precedence:  # while its body was stored, say
            job = replace(job, precedence=seat.precedence)
        followed = Followed(job, self._log.follow(job.id), outlook, seat)
        self._publish(job, followed)
        return followed

    def _publish_again(self) -> None:
        """The queue may have lost any of the jobs. Most are in a worker's hands, who will see that it has them already;
        what becomes of these copies is no news to the client."""
        for followed in list(self._followed.values()):
            if self._clock.now() < followed.job.deadline:
                self._queue.publish(replace(followed.job, suspect=True))

    def _publish(self, job: Job, followed: Followed) -> None:
        """The confirm is pipelined: whichever comes first, an event or a nack, decides."""
        confirm = self._queue.publish(job)
        if confirm.done() and not confirm.cancelled() and confirm.exception() is None:
            return
        confirm.add_done_callback(lambda confirm: self._confirmed(confirm.exception(), followed))

    def _confirmed(self, error: BaseException | None, followed: Followed) -> None:
        job = followed.job
        if error is None:
            self._followed[job.id] = followed
        elif isinstance(error, Unavailable) and self._clock.now() + _PUBLISH_PAUSE < job.deadline:
            # Perhaps it arrived, perhaps not: send it again, marked so that it is not run twice.
            again = replace(job, suspect=True)
            asyncio.get_running_loop().call_later(_PUBLISH_PAUSE, self._publish, again, followed)
        elif isinstance(error, QueueFull):
            followed.follower.fail(self._pressure.corrected(error, job))
        else:
            unconfirmed = Unavailable("The queue did not confirm the job.")
            followed.follower.fail(error if isinstance(error, AppError) else unconfirmed)


def refuse_large_body(size: int, limit: int) -> None:
    if size > limit:
        raise RequestTooLarge(
            f"Request too large: {size} bytes, the limit is {limit}. "
            "Send less, or raise general_settings.max_request_size_mb.",
            param="request_body",
        )
