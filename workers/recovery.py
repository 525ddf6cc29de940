"""A job that another worker had in its hands: read its log, close what was left open, go on from there."""

from dataclasses import dataclass, replace

import structlog

from broker.interfaces import EventLog, Grant, JobQueue, Limiter, Limits
from shared import errors
from shared.catalog import Catalog
from shared.events import Event, Kind
from shared.jobs import Job, Outcome, Status
from workers.attempt import Attempt
from workers.outcomes import OutcomeWriter
from workers.reports import Reports

MOST_CRASHES = 3  # attempts that ended with their worker's life; after them the job is quarantined
_NEIGHBOUR_WAIT = 1.0  # seconds until a job that a living worker still has is looked at again
_CLAIM_TTL = 15.0  # seconds from taking a job over to its note in the log: the waits for a key and a connection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do but to ack."""


@dataclass(frozen=True, slots=True)
class Poison:
    """The job may not run again: set it aside."""

    reason: str


class Recovery:
    """Takes over redelivered jobs."""

    def __init__(
        self,
        queue: JobQueue,
        event_log: EventLog,
        limiter: Limiter,
        catalog: Catalog,
        reports: Reports,
        outcomes: OutcomeWriter,
    ) -> None:
        self._queue = queue
        self._log = event_log
        self._limiter = limiter
        self._catalog = catalog
        self._reports = reports
        self._outcomes = outcomes

    def note_moved(self, job: Job) -> None:
        """The job's successor is on the queue: should the ack be lost, the job itself need not run again."""
        self._log.mark_started(Event(job.id, 0, Kind.STARTED, meta={"attempt": job.attempt, "moved": True}))

    async def take_over(self, job: Job) -> Job | Finished | Poison:
        """The job as it should go on from here, or why it should not."""
        history = await self._log.replay(job.id)
        end = next((event for event in history if event.last), None)
        if end is not None:
            await self._record_again(end)
            return Finished()
        notes = [event.meta for event in history if event.kind is Kind.STARTED and event.meta["attempt"] >= job.attempt]
        if any(note.get("moved") for note in notes):
            return Finished()
        attempt = notes[-1]["attempt"] + 1 if notes else job.attempt
        alive = bool(notes) and await self._log.present(notes[-1]["worker"])
        if alive or not await self._log.claim(job.id, attempt, _CLAIM_TTL):
            # Only the queue's connection was lost and the worker still runs the job; or there are two copies of the
            # job, and another worker was faster.
            await self._queue.publish(replace(job, suspect=True), delay=_NEIGHBOUR_WAIT)
            return Finished()
        for note in notes:
            await self._close(job, note)
        streamed = [event.seq for event in history if event.kind is Kind.CHUNK]
        if streamed:
            message = "The worker died in the middle of the stream. Send the request again."
            await self._reports.failed_after(job, errors.WorkerLost(message), max(streamed))
            return Finished()
        if len(notes) >= MOST_CRASHES:
            return await self._quarantine(job, len(notes))
        for deployment in job.current.deployments:
            # A worker may have died between its grant and its note.
            await self._give_back(job.id, attempt, deployment)
        return replace(job, attempt=attempt) if notes else job

    async def _record_again(self, end: Event) -> None:
        """The worker died after the client's answer and perhaps before the rest: every step may come twice."""
        outcome = end.meta.get("outcome")
        if outcome is not None:
            again = Outcome.from_wire(outcome)
            await self._give_back(again.job_id, again.attempt, again.deployment)
            await self._outcomes.record(again)

    async def _close(self, job: Job, note: dict[str, object]) -> None:
        """The attempt that `note` announced never ended: free its lease, and bill it at its estimate, marked so."""
        try:
            deployment = self._catalog.deployment(str(note["deployment"]))
        except KeyError:
            log.error("an attempt of another config is not on the bill", job=job.id, deployment=note["deployment"])
            return
        attempt = Attempt(
            job=replace(job, attempt=int(str(note["attempt"]))),
            deployment=deployment,
            queue_wait=float(str(note["queue_wait"])),
            started=0.0,
            started_at=float(str(note["at"])),
        )
        await self._give_back(job.id, attempt.job.attempt, deployment.id)
        error = errors.WorkerLost("The worker died during the attempt; the usage is an estimate.")
        await self._outcomes.record(self._reports.outcome(attempt, Status.UNKNOWN, error))

    async def _give_back(self, job_id: str, attempt: int, deployment_id: str) -> None:
        """End the attempt's lease, if it has one. The reserved tokens stay taken: they may have been used."""
        try:
            deployment = self._catalog.deployment(deployment_id)
        except KeyError:
            return  # of another config; its lease ends by itself
        lease = f"{job_id}/{attempt}"
        await self._limiter.settle(Grant(deployment.id, deployment.bucket, lease, 0, Limits()), None)

    async def _quarantine(self, job: Job, crashes: int) -> Poison:
        reason = f"crashed {crashes} workers"
        log.error("job quarantined", job=job.id, provider=job.provider, reason=reason)
        message = f"The request was stopped: it {reason}. Its job {job.id} is in headrace.dead.{job.provider}."
        await self._reports.failed(job, errors.Quarantined(message))
        return Poison(reason)
