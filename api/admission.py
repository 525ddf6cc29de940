"""May this job enter? From a validated request to a job on its lane, and somebody following it."""

import asyncio
import random
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

import structlog

from api import key_headers
from api.backpressure import Backpressure
from api.errors import unexpected
from api.fairness import Outstanding, Seat
from api.lane_board import Outlook
from broker.backends import Backends
from broker.gate import Gate
from broker.interfaces import Follower
from broker.policy import UNLIMITED, Policy
from shared import token_estimates
from shared.catalog import Catalog
from shared.chat_request import Envelope
from shared.clock import Clock
from shared.errors import AppError, BudgetExceeded, LimitExceeded, QueueFull, RequestTooLarge, Unavailable
from shared.job_plan import NO_WISHES, Caller, JobPlanner, Wishes
from shared.jobs import CLAIM_CHECK_BYTES, Job

log = structlog.get_logger(__name__)

_PUBLISH_PAUSE = 0.5  # seconds until a job whose confirm was lost is sent again; the queue's reconnection comes on top
_BODY_GRACE = 60.0  # seconds that a claimed body outlives its deadline


@dataclass(slots=True, weakref_slot=True, eq=False)
class Followed:
    """An accepted job and its events."""

    job: Job
    follower: Follower
    outlook: Outlook | None = None
    """How its lane stood; None for a job that had been accepted before."""
    seat: Seat | None = None
    """Its part in what its tenant has under way, if it counts."""
    told: dict[str, str] = field(default_factory=dict)
    """Headers about the limits of its key."""
    entering: "asyncio.Task[None] | None" = None
    """Its wait for its turn, if its key lets it wait; whoever lets go of the job cancels and awaits it."""


class Admission:
    def __init__(
        self,
        backends: Backends,
        catalog: Catalog,
        clock: Clock,
        request_timeout: float,
        pressure: Backpressure,
        gate: Gate,
    ) -> None:
        self._queue = backends.queue
        self._log = backends.log
        self._clock = clock
        self.pressure = pressure
        self.gate = gate
        self.outstanding = Outstanding(clock)
        self._planner = JobPlanner(catalog, random.Random(), backends.log.reply_channel, request_timeout)
        # Those that the queue has confirmed and somebody still follows: the conversation with the client keeps them.
        self._followed: WeakValueDictionary[str, Followed] = WeakValueDictionary()
        self._queue.on_loss(self._publish_again)

    def job(self, envelope: Envelope, body: bytes, caller: Caller, wishes: Wishes = NO_WISHES) -> Job:
        """The job for a request. Raises `UnknownModel` and `ModelNotAllowed`; nothing has happened yet."""
        precedence = self.outstanding.precedence(caller.team or caller.key)
        return self._planner.job(envelope, body, caller, self._clock.now(), wishes, precedence)

    async def enter(self, job: Job, policy: Policy = UNLIMITED, output: int = 0) -> Followed:
        """Publish the job, followed from before its first event. A full lane or a lost queue fails the follower. What
        the key's accounts need to know is that the answer may have `output` tokens.

        Raises `DeadlineUnreachable` or `QueueWaitExceeded`, having done nothing, if its turn would come too late, and
        what `Gate.admit` raises. A job that may wait for its key's limits is followed while it does.
        """
        outlook = self.pressure.admit(job, len(self.outstanding))
        told: dict[str, str] = {}
        if policy.limited or job.customer:
            tokens = token_estimates.prompt_tokens(job.body)
            try:
                entered = await self.gate.admit(job, policy, tokens=tokens, output=output)
            except (LimitExceeded, BudgetExceeded) as refusal:
                if not may_wait(job, policy, refusal, self._clock.now()):
                    raise
                return await self._line_up(job, policy, output, outlook)
            job, told = entered.job, key_headers.of(policy, entered)
        if len(job.body) > CLAIM_CHECK_BYTES:
            job = await self._claim_checked(job)
        seat = self.outstanding.take(job)
        if seat is not None and seat.precedence != job.precedence:  # while its body was stored, say
            job = replace(job, precedence=seat.precedence)
        followed = Followed(job, self._log.follow(job.id), outlook, seat, told)
        self._publish(job, followed)
        return followed

    async def _line_up(self, job: Job, policy: Policy, output: int, outlook: Outlook) -> Followed:
        """The job is published when its turn comes. Until then its client hears what clients of queued jobs hear, and
        if it leaves, so does the job."""
        job = await self.gate.marked(job, policy)
        seat, follower = self.outstanding.take(job), self._log.follow(job.id)
        followed = Followed(job, follower, outlook, seat, key_headers.of_policy(policy))
        entering = asyncio.create_task(self._enter_in_turn(followed, policy, output), name=f"turn of {job.id}")
        entering.add_done_callback(lambda task: _tell_of_a_bug(task, follower))
        followed.entering = entering
        return followed

    async def _enter_in_turn(self, followed: Followed, policy: Policy, output: int) -> None:
        job = followed.job
        tokens = token_estimates.prompt_tokens(job.body)
        try:
            entered = await self.gate.admit(job, policy, tokens=tokens, output=output, wait_until=patience(job))
        except AppError as error:
            followed.follower.fail(error)
            return
        followed.told.update(key_headers.of(policy, entered))
        job = entered.job
        try:
            if len(job.body) > CLAIM_CHECK_BYTES:
                job = await self._claim_checked(job)
        except AppError as error:
            followed.follower.fail(error)
            return
        followed.job = replace(job, published_at=self._clock.now())
        self._publish(followed.job, followed)

    async def _claim_checked(self, job: Job) -> Job:
        try:
            await self._log.put_body(job.id, job.body, job.deadline - job.accepted_at + _BODY_GRACE)
        except BaseException:
            self.gate.leave_soon(job)
            raise
        return job.without_large_body()

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
            self.gate.leave_soon(job)
            followed.follower.fail(self.pressure.corrected(error, job))
        else:
            self.gate.leave_soon(job)
            unconfirmed = Unavailable("The queue did not confirm the job.")
            followed.follower.fail(error if isinstance(error, AppError) else unconfirmed)


def _tell_of_a_bug(entering: "asyncio.Task[None]", follower: Follower) -> None:
    """Nobody awaits a wait that goes well: a bug in it must not leave the client waiting until its deadline."""
    if not entering.cancelled() and (error := entering.exception()):
        log.error("a job could not wait for its turn", task=entering.get_name(), exc_info=error)
        follower.fail(unexpected())


def patience(job: Job) -> float:
    """Seconds since the epoch until when the job may wait for its turn."""
    return min(job.start_by or job.deadline, job.deadline)


def may_wait(job: Job, policy: Policy, refusal: LimitExceeded | BudgetExceeded, now: float) -> bool:
    """Whether its key lets the job wait, and its turn comes in time."""
    return policy.waits and refusal.retry_after is not None and now + refusal.retry_after < patience(job)


def refuse_large_body(size: int, limit: int) -> None:
    if size > limit:
        raise RequestTooLarge(
            f"Request too large: {size} bytes, the limit is {limit}. "
            "Send less, or raise general_settings.max_request_size_mb.",
            param="request_body",
        )
