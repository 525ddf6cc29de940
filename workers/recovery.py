"""A job that another worker had in its hands: read its log, close what was left open, go on from there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from broker.interfaces import EventLog, Grant, JobQueue, Limiter, Limits
from shared import errors
from shared.catalog import Catalog
from shared.errors import AppError
from shared.events import Event, Kind
from shared.jobs import Job, Outcome, Status
from workers.attempt import Attempt
from workers.outcomes import OutcomeWriter
from workers.reports import Reports
from workers.transcript import Transcript

MOST_CRASHES = 3  # attempts that ended with their worker's life; after them the job is quarantined
_NEIGHBOUR_WAIT = 1.0  # seconds until a job that a living worker still has is looked at again
_CLAIM_TTL = 15.0  # seconds from taking a job over to its note in the log: the waits for a key and a connection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do but to ack."""

    rows: Sequence[Outcome] | None = None
    """Of a job that has ended: the row that its last event carries, if any. None: the job lives elsewhere."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The job cannot go on: its client is told why."""

    job: Job
    """After the attempts that were lost."""
    error: AppError
    seen: int = 0
    """Events that the client has got."""
    transcript: Transcript | None = None
    poison: str = ""
    """Why the job is to be set aside as well, if it is."""
    rows: Sequence[Outcome] | None = None
    """Of the attempts that were closed for it; None when there may be others."""


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
        meta = {"attempt": job.attempt, "moved": True, "key": job.key}
        self._log.mark_started(Event(job.id, 0, Kind.STARTED, meta=meta))

    async def take_over(self, job: Job) -> Job | Finished | Lost:
        """The job as it should go on from here, or why it should not."""
        history = await self._log.replay(job.id)
        end = _end(history)
        if end is not None:
            return Finished(await self._record_again(job, end, history))
        notes = _notes(history, job.attempt)
        if any(note.get("moved") for note in notes):
            return Finished()
        attempt = notes[-1]["attempt"] + 1 if notes else job.attempt
        alive = bool(notes) and await self._log.present(notes[-1]["worker"])
        if alive or not await self._log.claim(job.id, attempt, _CLAIM_TTL):
            # Only the queue's connection was lost and the worker still runs the job; or there are two copies of the
            # job, and another worker was faster.
            await self._put_behind(job)
            return Finished()
        broken_off = any(event.kind is Kind.CHUNK for event in history)
        over = broken_off or len(notes) >= MOST_CRASHES
        rows = [await self._close(job, note, last=over and note is notes[-1]) for note in notes]
        onward = replace(job, attempt=attempt) if notes else job
        if over:
            lost = _broken_off(onward, history) if broken_off else _quarantined(onward, len(notes))
            return replace(lost, rows=[row for row in rows if row is not None])
        for deployment in job.current.deployments:
            # A worker may have died between its grant and its note.
            await self._give_back(job.id, attempt, deployment)
        return onward

    async def overtaken(self, job: Job) -> bool:
        """Whether another copy of the job, which waited in memory, has ended or runs: then it goes no further here."""
        history = await self._log.replay(job.id)
        if _end(history) is not None:
            return True
        notes = _notes(history, job.attempt)
        if not notes:
            return False
        if not notes[-1].get("moved") and not await self._log.present(notes[-1]["worker"]):
            await self._put_behind(job)  # that worker is dead, and its copy may have died with it
        return True

    async def account_for(self, job: Job) -> Lost | Finished:
        """What the log says of a job that must not run again, because the worker itself failed at it."""
        try:
            history = await self._log.replay(job.id)
        except errors.Unavailable:
            if not job.durable:
                raise
            history = []  # its end is the store's affair; followers read it there
        end = _end(history)
        if end is not None:
            return Finished(await self._record_again(job, end, history))
        notes = _notes(history, job.attempt)
        attempts = notes[-1]["attempt"] + 1 if notes else job.attempt
        error = AppError("Headrace failed at this request; its log says why.")
        return _lost(replace(job, attempt=attempts), error, history)

    async def _put_behind(self, job: Job) -> None:
        body = b"" if job.claim else job.body
        await self._queue.publish(replace(job, body=body, suspect=True), delay=_NEIGHBOUR_WAIT)

    async def _record_again(self, job: Job, end: Event, history: Sequence[Event]) -> Sequence[Outcome]:
        """The worker died after the client's answer and perhaps before the rest: every step may come twice. The row, if
        there is one."""
        ending = self._reports.ending(job, end, _transcript(job, history)) if job.durable else None
        outcome = end.meta.get("outcome")
        if outcome is not None:
            again = Outcome.from_wire(outcome)
            await self._give_back(again.job_id, again.attempt, again.deployment)
            await self._outcomes.record(again, ending=ending)
            return [again]
        if ending is not None:
            await self._outcomes.record(ending=ending)
        return []

    async def _close(self, job: Job, note: Mapping[str, Any], *, last: bool) -> Outcome | None:
        """The attempt that `note` announced never ended: free its lease, and bill it at its estimate, marked so."""
        try:
            deployment = self._catalog.deployment(note["deployment"])
        except KeyError:
            log.error("an attempt of another config is not on the bill", job=job.id, deployment=note["deployment"])
            return None
        attempt = Attempt(
            job=replace(job, attempt=note["attempt"]),
            deployment=deployment,
            queue_wait=note["queue_wait"],
            started=0.0,
            started_at=note["at"],
        )
        await self._give_back(job.id, attempt.job.attempt, deployment.id)
        error = errors.WorkerLost("The worker died during the attempt; the usage is an estimate.")
        row = self._reports.outcome(attempt, Status.UNKNOWN, error, last=last)
        await self._outcomes.record(row)
        return row

    async def _give_back(self, job_id: str, attempt: int, deployment_id: str) -> None:
        """End the attempt's lease, if it has one. The reserved tokens stay taken: they may have been used."""
        try:
            deployment = self._catalog.deployment(deployment_id)
        except KeyError:
            return  # of another config; its lease ends by itself
        lease = f"{job_id}/{attempt}"
        await self._limiter.settle(Grant(deployment.id, deployment.bucket, lease, 0, Limits()), None)


def _end(history: Sequence[Event]) -> Event | None:
    return next((event for event in history if event.last), None)


def _notes(history: Sequence[Event], attempt: int) -> list[Mapping[str, Any]]:
    """What workers noted of this attempt and later ones."""
    return [event.meta for event in history if event.kind is Kind.STARTED and event.meta["attempt"] >= attempt]


def _transcript(job: Job, history: Sequence[Event]) -> Transcript | None:
    return Transcript.of(history) if job.durable and job.stream else None


def _lost(job: Job, error: AppError, history: Sequence[Event]) -> Lost:
    seen = max((event.seq for event in history), default=0)
    return Lost(job, error, seen, _transcript(job, history))


def _broken_off(job: Job, history: Sequence[Event]) -> Lost:
    message = "The worker died in the middle of the stream. Send the request again."
    return _lost(job, errors.WorkerLost(message), history)


def _quarantined(job: Job, crashes: int) -> Lost:
    reason = f"crashed {crashes} workers"
    log.error("job quarantined", job=job.id, provider=job.provider, reason=reason)
    message = f"The request was stopped: it {reason}. Its job {job.id} is in headrace.dead.{job.provider}."
    return Lost(job, errors.Quarantined(message), poison=reason)
