"""The life of one job in a worker, top to bottom."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from broker.account_interfaces import Accounts
from broker.interfaces import Consumer, Delivery, EventLog, Grant, JobQueue, Limiter
from broker.store_interfaces import Store
from shared import errors
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import AppError
from shared.jobs import Job, Lane, Status
from workers import preparation, refusals
from workers.attempt import Attempt, Caller
from workers.checkout import Checkout
from workers.ends import Ends
from workers.followup import Again, FollowUp, GiveUp
from workers.key_desk import SHORTEST_POSTPONEMENT, KeyDesk
from workers.outcomes import OutcomeWriter
from workers.providers import registry
from workers.providers.base import Call
from workers.recovery import Finished, Lost, Recovery
from workers.reports import MAX_PROMPT_BYTES, Reports
from workers.run import Run, to_the_end
from workers.transcript import Transcript
from workers.turnstile import Belated, Postponed, Turnstile

_REFUND_CHECK = 2.0  # seconds; tokens that running attempts reserved and did not use may come back at any time
_SERVER_AWAY = 1.0  # seconds until a job is tried again that one of our own servers failed
_NO_ROOM = 1.0  # seconds until a durable job comes back to a lane that was full


async def nothing_newer() -> None:
    """A catalog from the config alone is always the newest."""


@dataclass(frozen=True, slots=True)
class Seams:
    """What a worker works with."""

    queue: JobQueue
    log: EventLog
    limiter: Limiter
    catalog: Catalog
    clock: Clock
    store: Store | None = None
    """Where large bodies of durable jobs wait; None where there are no durable jobs."""
    accounts: Accounts | None = None
    """None where nobody has limits or budgets."""
    renew: Callable[[], Awaitable[None]] = nothing_newer
    """Makes the catalog the newest that there is; raises `Unavailable`."""


class Pipeline:
    def __init__(self, seams: Seams, caller: Caller, outcomes: OutcomeWriter, *, prompts: bool = False) -> None:
        """`prompts`: the ledger keeps what was asked and answered."""
        self._queue = seams.queue
        self._log = seams.log
        self._clock = seams.clock
        self._store = seams.store
        self._caller = caller
        self._checkout = Checkout(seams.accounts, ledger=outcomes.keeps)
        self._prompts = prompts
        reports = Reports(seams.clock, prompts=prompts)
        self._ends = Ends(seams.log, reports, outcomes, self._checkout)
        self._recovery = Recovery(seams.queue, seams.log, seams.limiter, seams.catalog, reports, outcomes)
        self._follow_up = FollowUp(seams.limiter, seams.catalog, seams.clock)
        self._turnstile = Turnstile(seams.limiter)
        self._keys = KeyDesk(seams.catalog, self._turnstile, seams.renew)

    async def close(self) -> None:
        """The last job has been settled."""
        await self._checkout.close()

    async def run(self, delivery: Delivery, consumer: Consumer) -> None:
        """Take the job as far as it goes and settle the delivery.

        Raises `Unavailable` when the queue itself is away: the delivery stays unsettled and comes again.
        """
        run = Run(delivery, consumer)
        try:
            if (not run.second_hand or await self._taken_over(run)) and await self._wanted(run):
                with self._log.on_cancel(run.job.id, run.cancel):
                    await self._serve(run)
            await run.settle()
        except errors.Unavailable as error:
            await self._wait_for_our_servers(run, error)
        except asyncio.CancelledError:
            if not run.cancelled:
                await asyncio.shield(self._hand_over(run))
                raise
            run.task.uncancel()
            if not run.concluded:
                await self._ends.cancelled(run)
            await run.settle()

    async def apologise(self, delivery: Delivery, consumer: Consumer, reason: str) -> None:
        """The worker itself failed at the job, which would fail again: tell the client and set the job aside."""
        run = Run(delivery, consumer)
        await self._conclude(run, await self._recovery.account_for(run.job))
        run.poison = reason
        await run.settle()

    async def _taken_over(self, run: Run) -> bool:
        """Whether the job, which another worker may have had, is to run here."""
        found = await self._recovery.take_over(run.job)
        if isinstance(found, Job):
            run.job = found
            return True
        await self._conclude(run, found)
        return False

    async def _conclude(self, run: Run, found: Finished | Lost) -> None:
        match found:
            case Finished(rows):
                run.concluded = True
                if rows is not None:  # a worker ended it, and died perhaps before the rest
                    run.lost_rows = rows
                    self._ends.release(run)
            case Lost(job, error, seen, transcript, poison, rows):
                run.job, run.transcript, run.lost_rows = job, transcript, rows
                await self._ends.failed(run, error, seen=seen)
                run.poison = poison

    async def _wanted(self, run: Run) -> bool:
        job = run.job
        if await self._log.is_cancelled(job.id, since=job.accepted_at):
            await self._ends.cancelled(run)
            return False
        if self._patience(job) <= 0:
            await self._ends.failed(run, refusals.too_late(job, self._clock.now()))
            return False
        return True

    async def _serve(self, run: Run) -> None:
        """From a wanted job to an answer, a successor on the queue, or an error at the client."""
        try:
            if run.job.claim and not run.job.body:
                run.job = await self._with_body(run.job)
            request = preparation.parse(run.job.body)
            deployments = await self._keys.deployments(run.job)
            if not deployments:
                await to_the_end(self._leave_leg(run, refusals.no_deployment(run.job)))
                return
            answer = await self._keys.enter(run, deployments, request, self._patience(run.job))
        except TimeoutError:
            await self._ends.failed(run, refusals.too_late(run.job, self._clock.now()))
            return
        except errors.Unavailable:
            raise
        except AppError as error:
            await self._ends.failed(run, error)
            return
        if isinstance(answer, Belated):
            if await self._overtaken(run, answer.grant):
                return
            answer = answer.grant
        if isinstance(answer, Postponed):
            await to_the_end(self._postpone(run, answer))
            return
        deployment = next(each for each in deployments if each.id == answer.deployment)
        await self._attempt(run, answer, preparation.call(run.job, request, deployment, self._clock.now()))

    async def _with_body(self, job: Job) -> Job:
        if job.durable and self._store is not None:
            record = await self._store.jobs.get(job.id, bodies=True)
            if record is None:
                raise errors.NotFound("The job has expired, and its request with it.")
            return replace(job, body=record.job.body)
        body = await self._log.get_body(job.id)
        if body is None:
            raise errors.DeadlineExceeded("The request's body was kept until its deadline and is gone.")
        return replace(job, body=body)

    async def _overtaken(self, run: Run, grant: Grant) -> bool:
        """Whether another copy of the job got ahead while this one waited for its key, which then goes back."""
        overtaken = True
        try:
            overtaken = await self._recovery.overtaken(run.job)
        finally:
            if overtaken:
                await to_the_end(self._follow_up.give_back(grant))
                self._turnstile.freed(grant.bucket)
        run.concluded = overtaken
        return overtaken

    async def _attempt(self, run: Run, grant: Grant, call: Call) -> None:
        now = self._clock.now()
        run.grant = grant
        if call.stream and run.job.durable:
            run.transcript = Transcript()
        elif call.stream and self._prompts:
            run.transcript = Transcript(MAX_PROMPT_BYTES)
        attempt = run.attempt = Attempt(
            job=run.job,
            deployment=call.deployment,
            queue_wait=max(now - (run.job.published_at or run.job.accepted_at), 0.0),
            started=self._clock.monotonic(),
            started_at=now,
            transcript=run.transcript,
        )
        try:
            body = await self._caller.perform(attempt, registry.adapter(call.deployment.provider), call)
        except AppError as error:
            await to_the_end(self._fail(run, grant, attempt, error))
        except asyncio.CancelledError:
            await to_the_end(self._abandon(run, grant, attempt, Status.CANCELLED))
            raise
        except BaseException:  # a bug of ours; the key and the bill must not suffer from it
            await to_the_end(self._abandon(run, grant, attempt, Status.FAILURE))
            raise
        else:
            try:
                await self._complete(run, grant, attempt, body)
            except asyncio.CancelledError:
                # Too late: the job is done. What is left is done here, where every step may come twice.
                await to_the_end(self._complete(run, grant, attempt, body))
                raise

    async def _complete(self, run: Run, grant: Grant, attempt: Attempt, body: bytes) -> None:
        """The answer leaves first; the ack, which `run` sends, waits until the outcome is safe."""
        if not run.answered:
            await self._ends.completed(run, body)
        self._follow_up.succeeded(attempt)
        await self._settle(grant, attempt)
        await self._ends.confirmed(run)

    async def _fail(self, run: Run, grant: Grant, attempt: Attempt, error: AppError) -> None:
        await self._settle(grant, attempt, failed=True)
        step = self._follow_up.next_step(attempt, error)
        self._ends.book(run, Status.FAILURE, error, last=isinstance(step, GiveUp))
        if isinstance(step, Again) or not run.job.durable:  # else the row travels with the ending
            await self._ends.record(run)
        await self._follow_up.note_health(attempt, grant, error)
        match step:
            case Again(successor, delay):
                if await self._publish(run, successor, delay):
                    self._recovery.note_moved(run.job)
            case GiveUp(first):
                await self._ends.failed(run, first)

    async def _settle(self, grant: Grant, attempt: Attempt, *, failed: bool = False) -> None:
        await self._follow_up.settle(grant, attempt, failed=failed)
        self._turnstile.freed(grant.bucket)

    async def _abandon(self, run: Run, grant: Grant, attempt: Attempt, status: Status) -> None:
        """The attempt was cut short, by the client, our own end or a bug: give the key back, bill what was used."""
        await self._settle(grant, attempt)
        goes_on = status is Status.CANCELLED and not run.cancelled and not attempt.committed  # with another worker
        self._ends.book(run, status, last=not goes_on)
        if not (run.cancelled and run.job.durable):  # else the row travels with the ending
            await self._ends.record(run)

    async def _postpone(self, run: Run, postponed: Postponed) -> None:
        """No key is free within the short wait: through a delay level, to the next leg, or back to the client."""
        job = run.job
        onward = job.leg + 1 < len(job.route)
        patience = self._patience(job)
        if onward:
            patience = min(patience, (job.deadline - job.accepted_at) / 10)
        if postponed.seconds < patience:
            wait = min(postponed.seconds, _REFUND_CHECK) if postponed.reason == "tokens" else postponed.seconds
            if self._keys.alone(job):
                # Batch jobs wait with a client's, and no client waits with them.
                await run.consumer.pause(job.provider, wait, Lane.BATCH if job.lane is Lane.BATCH else None)
            await self._unclaim(run)
            delay = max(wait, SHORTEST_POSTPONEMENT)
            if await self._publish(run, job, delay) and job.lane is Lane.INTERACTIVE:
                self._turnstile.expect(self._keys.buckets(job), postponed, delay)
        else:
            await self._leave_leg(run, refusals.no_key(job, postponed, self._clock.now()))

    async def _leave_leg(self, run: Run, error: AppError) -> None:
        """Nothing of this leg can serve the job: to the next leg, or back to the client with the first error."""
        job = run.job
        if job.leg + 1 < len(job.route):
            cause = job.cause or error.to_wire()
            await self._unclaim(run)
            await self._publish(run, replace(job, leg=job.leg + 1, retries=0, avoid="", cause=cause))
        else:
            await self._ends.failed(run, errors.from_wire(job.cause) if job.cause else error)

    async def _hand_over(self, run: Run) -> None:
        """This worker ends with the job in its hands: another one takes it, unless its tokens are out already."""
        attempt = run.attempt
        if run.concluded:
            pass  # only the ack is missing
        elif run.over:
            await self._ends.confirmed(run)
        elif attempt is not None and attempt.committed:
            error = errors.WorkerLost("The worker was stopped in the middle of the stream. Send the request again.")
            await self._ends.failed(run, error)
        else:
            await self._pass_on(run, run.successor())
        await run.settle()

    async def _wait_for_our_servers(self, run: Run, error: errors.Unavailable) -> None:
        """The log, the limiter or the queue is away. What the provider may have billed is recorded in any case."""
        attempt = run.attempt
        if run.grant is not None and attempt is not None:
            with suppress(errors.Unavailable):  # else the lease ends by itself
                await self._settle(run.grant, attempt, failed=not run.answered)
        if run.over:
            await self._ends.confirmed(run)
        else:
            broken_off = attempt is not None and attempt.committed
            self._ends.book(run, Status.FAILURE, error, last=broken_off)
            if not broken_off:
                await self._ends.record(run)
                # What failed may have been done all the same: the next worker looks at the log before it runs the job.
                await self._pass_on(run, replace(run.successor(), suspect=True), _SERVER_AWAY)
            else:
                await self._end_stream(run, error)
        await run.settle()

    async def _end_stream(self, run: Run, error: AppError) -> None:
        """Tell the client of a stream that broke off, as soon as the log is back and while anybody may be waiting."""
        if run.job.durable:
            await self._ends.failed(run, error)
            return
        await self._ends.record(run)
        while self._remaining(run.job) > 0:
            try:
                await self._ends.failed(run, error)
                return
            except errors.Unavailable:
                await asyncio.sleep(_SERVER_AWAY)
        self._ends.release(run)

    async def _unclaim(self, run: Run) -> None:
        """The job goes back under the number it came with: the next worker must be able to claim it."""
        if run.second_hand:
            await self._log.claim(run.job.id, run.job.attempt, 0.0)

    async def _pass_on(self, run: Run, successor: Job, delay: float = 0.0) -> None:
        if successor.attempt == run.job.attempt:
            await self._unclaim(run)
        if await self._publish(run, successor, delay) and successor.attempt > run.job.attempt:
            self._recovery.note_moved(run.job)

    async def _publish(self, run: Run, job: Job, delay: float = 0.0) -> bool:
        """Put the job on its lane as it travels: a claimed body stays behind, and the wait is measured anew. Whether
        there was room; if not, the client has been told.

        Should this worker die before its ack, there are two of the job: both look at the log before they run.
        """
        body = b"" if job.claim else job.body
        job = replace(job, body=body, published_at=self._clock.now(), suspect=True)
        try:
            try:
                await self._queue.publish(job, delay=delay)
            except errors.QueueFull:
                if not job.durable or delay > 0:
                    raise
                await self._queue.publish(job, delay=_NO_ROOM)  # it was accepted, and no bound holds for delayed jobs
        except errors.QueueFull as full:
            await self._ends.failed(run, full)
            return False
        run.concluded = True
        return True

    def _patience(self, job: Job) -> float:
        """Seconds that the job may still wait for its turn."""
        return refusals.waits_until(job) - self._clock.now()

    def _remaining(self, job: Job) -> float:
        return job.deadline - self._clock.now()
