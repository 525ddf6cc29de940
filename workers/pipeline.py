"""The life of one job in a worker, top to bottom."""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from broker.interfaces import Candidate, Consumer, Delivery, EventLog, Grant, JobQueue, Limiter, Limits
from shared import errors
from shared.catalog import Catalog, Deployment
from shared.clock import Clock
from shared.errors import AppError
from shared.jobs import Job, Outcome, Status
from workers import preparation
from workers.attempt import Attempt, Caller
from workers.followup import FollowUp
from workers.outcomes import OutcomeWriter
from workers.providers import registry
from workers.providers.base import Call
from workers.recovery import Finished, Poison, Recovery
from workers.reports import Reports
from workers.turnstile import Postponed, Turnstile

_LEASE_MARGIN = 60.0  # seconds that a lease outlives its attempt's time limit
_CROWD_PAUSE = 0.5  # seconds without new jobs of a provider whose only line is long, so that other providers have room
_REFUND_CHECK = 2.0  # seconds; tokens that running attempts reserved and did not use may come back at any time
_SHORTEST_POSTPONEMENT = 1.0  # seconds; a job that waited in memory in vain should not come back at once
_SERVER_AWAY = 1.0  # seconds until a job is tried again that one of our own servers failed


@dataclass(frozen=True, slots=True)
class Seams:
    """What a worker works with."""

    queue: JobQueue
    log: EventLog
    limiter: Limiter
    catalog: Catalog
    clock: Clock


class Pipeline:
    def __init__(self, seams: Seams, caller: Caller, reports: Reports, outcomes: OutcomeWriter) -> None:
        self._queue = seams.queue
        self._log = seams.log
        self._catalog = seams.catalog
        self._clock = seams.clock
        self._caller = caller
        self._reports = reports
        self._outcomes = outcomes
        self._recovery = Recovery(seams.queue, seams.log, seams.limiter, seams.catalog, reports, outcomes)
        self._follow_up = FollowUp(seams.queue, seams.limiter, seams.catalog, seams.clock, reports, self._recovery)
        self._turnstile = Turnstile(seams.limiter)
        self._rng = random.Random()

    async def run(self, delivery: Delivery, consumer: Consumer) -> None:
        """Take the job as far as it goes and settle the delivery.

        Raises `Unavailable` when the queue itself is away: the delivery stays unsettled and comes again.
        """
        run = _Run(delivery, consumer, delivery.job)
        try:
            if run.second_hand:
                match await self._recovery.take_over(run.job):
                    case Job() as job:
                        run.job = job
                    case Finished():
                        await delivery.ack()
                        return
                    case Poison(reason):
                        await delivery.dead(reason)
                        return
            if await self._wanted(run.job):
                with self._log.on_cancel(run.job.id, run.cancel):
                    await self._serve(run)
            await delivery.ack()
        except errors.Unavailable as error:
            await self._wait_for_our_servers(run, error)
        except asyncio.CancelledError:
            if not run.cancelled:
                await asyncio.shield(self._hand_over(run))
                raise
            run.task.uncancel()
            await delivery.ack()

    async def apologise(self, delivery: Delivery, reason: str) -> None:
        """The worker itself failed at the job, which would fail again: tell the client and set the job aside."""
        error = AppError("Headrace failed at this request; its log says why.")
        history = await self._log.replay(delivery.job.id)
        await self._reports.failed_after(delivery.job, error, max((event.seq for event in history), default=0))
        await delivery.dead(reason)

    async def _wanted(self, job: Job) -> bool:
        if await self._log.is_cancelled(job.id, since=job.accepted_at):
            return False
        if self._remaining(job) <= 0:
            await self._reports.failed(job, _too_late(job))
            return False
        return True

    async def _serve(self, run: "_Run") -> None:
        """From a wanted job to an answer, a successor on the queue, or an error at the client."""
        try:
            if run.job.claim and not run.job.body:
                run.job = await self._with_body(run.job)
            request = preparation.parse(run.job.body)
            deployments = self._deployments(run.job)
            answer = await self._enter(run, deployments, request)
        except TimeoutError:
            await self._reports.failed(run.job, _too_late(run.job))
            return
        except errors.Unavailable:
            raise
        except AppError as error:
            await self._reports.failed(run.job, error)
            return
        if isinstance(answer, Postponed):
            await _to_the_end(self._postpone(run, answer))
            return
        deployment = next(each for each in deployments if each.id == answer.deployment)
        await self._attempt(run, answer, preparation.call(run.job, request, deployment, self._clock.now()))

    async def _with_body(self, job: Job) -> Job:
        body = await self._log.get_body(job.id)
        if body is None:
            raise errors.DeadlineExceeded("The request's body was kept until its deadline and is gone.")
        return replace(job, body=body)

    def _deployments(self, job: Job) -> list[Deployment]:
        """The leg's deployments in the order to try them: weighted at random, the one that failed last at the end."""
        try:
            known = [self._catalog.deployment(each) for each in job.current.deployments]
        except KeyError as exc:
            raise errors.UnknownModel(
                f"The worker does not know the deployment {exc} of {job.current.group!r}: "
                "do api and worker run the same config?"
            ) from exc
        shuffled = self._catalog.shuffle(known, self._rng)
        return sorted(shuffled, key=lambda each: each.id == job.avoid) if job.avoid else shuffled

    async def _enter(
        self, run: "_Run", deployments: Sequence[Deployment], request: Mapping[str, Any]
    ) -> Grant | Postponed:
        prompt = preparation.prompt_tokens(run.job.body)
        candidates = [
            Candidate(
                deployment=each.id,
                bucket=each.bucket,
                credential=each.credential,
                limits=Limits(each.rpm, each.tpm, each.max_parallel_requests),
                tokens=prompt + preparation.most_output(request, each),
            )
            for each in deployments
        ]
        if self._turnstile.crowded(candidates):
            if not self._alone(run.job):
                return Postponed(_SHORTEST_POSTPONEMENT, "crowd")  # other models need this worker's slots
            await run.consumer.pause(run.job.provider, _CROWD_PAUSE)
        return await self._turnstile.enter(
            f"{run.job.id}/{run.job.attempt}",
            candidates,
            patience=self._remaining(run.job),
            lease_ttl=max(each.timeout for each in deployments) + _LEASE_MARGIN,
        )

    async def _attempt(self, run: "_Run", grant: Grant, call: Call) -> None:
        now = self._clock.now()
        run.grant = grant
        attempt = run.attempt = Attempt(
            job=run.job,
            deployment=call.deployment,
            queue_wait=max(now - (run.job.published_at or run.job.accepted_at), 0.0),
            started=self._clock.monotonic(),
            started_at=now,
        )
        try:
            body = await self._caller.perform(attempt, registry.adapter(call.deployment.provider), call)
        except AppError as error:
            await _to_the_end(self._fail(run, grant, error))
        except asyncio.CancelledError:
            await _to_the_end(self._abandon(run, grant, Status.CANCELLED))
            raise
        except BaseException:  # a bug of ours; the key and the bill must not suffer from it
            await _to_the_end(self._abandon(run, grant, Status.FAILURE))
            raise
        else:
            try:
                await self._complete(run, grant, body)
            except asyncio.CancelledError:
                # Too late: the job is done. What is left is done here, where every step may come twice.
                await _to_the_end(self._complete(run, grant, body))
                raise

    async def _complete(self, run: "_Run", grant: Grant, body: bytes) -> None:
        """The answer leaves first; the ack, which `run` sends, waits until the outcome is safe."""
        attempt = run.attempt
        assert attempt is not None
        if run.answer is None:
            outcome = self._reports.outcome(attempt, Status.SUCCESS)
            await self._reports.completed(attempt, outcome, body)
            run.answer = outcome
        self._follow_up.succeeded(attempt)
        await self._follow_up.settle(grant, attempt)
        await self._outcomes.record(run.answer)
        run.concluded = run.recorded = True

    async def _fail(self, run: "_Run", grant: Grant, error: AppError) -> None:
        assert run.attempt is not None
        await self._follow_up.settle(grant, run.attempt, failed=True)
        await self._record(run, Status.FAILURE, error)
        await self._follow_up.after(run.attempt, grant, error)
        run.concluded = True

    async def _abandon(self, run: "_Run", grant: Grant, status: Status) -> None:
        """The attempt was cut short, by the client, our own end or a bug: give the key back, bill what was used."""
        assert run.attempt is not None
        await self._follow_up.settle(grant, run.attempt)
        await self._record(run, status)

    async def _record(self, run: "_Run", status: Status, error: AppError | None = None) -> None:
        attempt = run.attempt
        if attempt is not None and attempt.dispatched and not run.recorded:
            await self._outcomes.record(self._reports.outcome(attempt, status, error))
            run.recorded = True

    async def _postpone(self, run: "_Run", postponed: Postponed) -> None:
        """No key is free within the short wait: through a delay level, to the next leg, or back to the client."""
        job = run.job
        onward = job.leg + 1 < len(job.route)
        patience = (job.deadline - job.accepted_at) / 10 if onward else self._remaining(job)
        if postponed.seconds < patience:
            wait = min(postponed.seconds, _REFUND_CHECK) if postponed.reason == "tokens" else postponed.seconds
            if self._alone(job):
                await run.consumer.pause(job.provider, wait)
            await self._unclaim(run)
            await self._publish(job, max(wait, _SHORTEST_POSTPONEMENT))
        elif onward:
            cause = job.cause or _no_key(job, postponed).to_wire()
            await self._unclaim(run)
            await self._publish(replace(job, leg=job.leg + 1, retries=0, avoid="", cause=cause))
        else:
            error = errors.from_wire(job.cause) if job.cause else _no_key(job, postponed)
            await self._reports.failed(job, error)
        run.concluded = True

    def _alone(self, job: Job) -> bool:
        """Whether the provider's jobs all want the buckets of this one: only then may its whole lane wait with it."""
        mine = {self._catalog.deployment(each).bucket for each in job.current.deployments}
        others = (each for each in self._catalog.connections() if each.provider == job.provider)
        return all(each.bucket in mine for each in others)

    async def _hand_over(self, run: "_Run") -> None:
        """This worker ends with the job in its hands: another one takes it, unless its tokens are out already."""
        attempt = run.attempt
        if run.concluded:
            pass  # only the ack is missing
        elif attempt is not None and attempt.committed:
            error = errors.WorkerLost("The worker was stopped in the middle of the stream. Send the request again.")
            await self._reports.failed(run.job, error, attempt)
        else:
            await self._pass_on(run, run.successor())
        await run.delivery.ack()

    async def _wait_for_our_servers(self, run: "_Run", error: errors.Unavailable) -> None:
        """The log, the limiter or the queue is away. What the provider may have billed is recorded in any case."""
        if run.grant is not None and run.attempt is not None:
            with suppress(errors.Unavailable):  # else the lease ends by itself
                await self._follow_up.settle(run.grant, run.attempt, failed=run.answer is None)
        if run.answer is not None:
            await self._outcomes.record(run.answer)
        else:
            await self._record(run, Status.FAILURE, error)
            if run.attempt is None or not run.attempt.committed:
                # What failed may have been done all the same: the next worker looks at the log before it runs the job.
                await self._pass_on(run, replace(run.successor(), suspect=True), _SERVER_AWAY)
            else:
                await self._end_stream(run.attempt, error)
        await run.delivery.ack()

    async def _end_stream(self, attempt: Attempt, error: AppError) -> None:
        """Tell the client of a stream that broke off, as soon as the log is back and while anybody may be waiting."""
        while self._remaining(attempt.job) > 0:
            try:
                await self._reports.failed(attempt.job, error, attempt)
                return
            except errors.Unavailable:
                await asyncio.sleep(_SERVER_AWAY)

    async def _unclaim(self, run: "_Run") -> None:
        """The job goes back under the number it came with: the next worker must be able to claim it."""
        if run.second_hand:
            await self._log.claim(run.job.id, run.job.attempt, 0.0)

    async def _pass_on(self, run: "_Run", successor: Job, delay: float = 0.0) -> None:
        if successor.attempt == run.job.attempt:
            await self._unclaim(run)
        await self._publish(successor, delay)
        if successor.attempt > run.job.attempt:
            self._recovery.note_moved(run.job)

    async def _publish(self, job: Job, delay: float = 0.0) -> None:
        """Put the job on its lane as it travels: a claimed body stays behind, and the wait is measured anew.

        Should this worker die before its ack, there are two of the job: both look at the log before they run.
        """
        body = b"" if job.claim else job.body
        job = replace(job, body=body, published_at=self._clock.now(), suspect=True)
        try:
            await self._queue.publish(job, delay=delay)
        except errors.QueueFull as full:
            await self._reports.failed(job, full)

    def _remaining(self, job: Job) -> float:
        return job.deadline - self._clock.now()


class _Run:
    """A job in this worker's hands, and how far it has come."""

    def __init__(self, delivery: Delivery, consumer: Consumer, job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None, "a pipeline runs in a task"
        self.task = task
        self.delivery = delivery
        self.consumer = consumer
        self.job = job
        self.attempt: Attempt | None = None
        self.grant: Grant | None = None
        self.answer: Outcome | None = None
        """The row of the answer that the client has."""
        self.recorded = False
        self.concluded = False
        """Nothing is left to do but the ack."""
        self.cancelled = False

    @property
    def second_hand(self) -> bool:
        """Another worker may have had the job."""
        return self.delivery.redelivered or self.job.suspect

    def cancel(self) -> None:
        """The client is gone: stop, wherever the job is."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def successor(self) -> Job:
        """The job as the next worker should have it: a number is used up once the provider may have seen it."""
        used = self.attempt is not None and self.attempt.dispatched
        return replace(self.job, attempt=self.job.attempt + used, suspect=self.second_hand)


async def _to_the_end(steps: Coroutine[Any, Any, None]) -> None:
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


def _too_late(job: Job) -> AppError:
    return errors.DeadlineExceeded(
        f"Request timed out. Its {job.deadline - job.accepted_at:.1f} s ran out while it waited for its turn at "
        f"{job.provider}: send a longer timeout, or less at once."
    )


def _no_key(job: Job, postponed: Postponed) -> AppError:
    if postponed.seconds == inf:
        return errors.CredentialsExhausted(
            f"Every API key for {job.current.group!r} at {job.provider} was refused by the provider: check the keys."
        )
    return errors.RateLimited(
        f"No deployments available for selected model, Try again in {postponed.seconds:.0f} seconds. "
        f"Passed model={job.model}. Every key is at its limit ({postponed.reason}) beyond the request's deadline.",
        retry_after=postponed.seconds,
    )
