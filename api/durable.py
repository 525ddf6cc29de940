"""Accepting jobs that outlive their connection: a row in the store, then a message on a lane, then an answer."""

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any, Self

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from api import job_objects, key_headers
from api.admission import Admission, Followed, may_wait
from api.dispatch_notes import DispatchNotes
from api.job_finder import JobFinder
from api.job_follower import JobFollower
from api.job_objects import Traces
from api.lane_board import UNKNOWN, Outlook
from api.relay import Relay
from broker.backends import Backends
from broker.policy import UNLIMITED, Policy
from broker.records import JobRecord
from shared import token_estimates
from shared.chat_request import Envelope
from shared.clock import Clock
from shared.errors import AppError, BudgetExceeded, IdempotencyKeyReused, LimitExceeded, QueueFull, Unavailable
from shared.job_plan import Wishes, weight
from shared.jobs import Ending, Job, JobState

_CONFIRM_PATIENCE = 5.0  # seconds; a job that the queue has not confirmed by then is published again by the reaper
_MOST_TRIES = 3  # at becoming or joining the one job of identical requests, while such jobs end all the time
_REPLAYED = "x-headrace-idempotent-replayed"

log = structlog.get_logger(__name__)


def record_of(job: Job, envelope: Envelope, wishes: Wishes) -> JobRecord:
    """The row for a durable job that is about to be published."""
    key = wishes.idempotency_key
    request_hash = ""
    if key or wishes.dedupe:
        # The model is in the path of some requests, and not in their body.
        request_hash = sha256(b"\0".join((job.endpoint.encode(), job.model.encode(), job.body))).hexdigest()
        key = key or f"dedupe:{request_hash}"
    return JobRecord(
        job=job,
        state=JobState.DISPATCHING,
        weight=weight(envelope, job.body),
        priority=wishes.priority,
        result_ttl=wishes.result_ttl,
        idempotency_key=key,
        request_hash=request_hash,
        webhook=wishes.webhook,
        moved_at=job.accepted_at,
        dispatches=1,
    )


class DurableJobs:
    def __init__(
        self,
        backends: Backends,
        clock: Clock,
        relay: Relay,
        finder: JobFinder,
        admission: Admission,
    ) -> None:
        self._queue = backends.queue
        self._log = backends.log
        self._store = backends.store
        self._jobs = backends.store.jobs
        self._clock = clock
        self._relay = relay
        self._finder = finder
        self._pressure = admission.pressure
        self._outstanding = admission.outstanding
        self._gate = admission.gate
        self._notes = DispatchNotes(backends.store.jobs, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._notes.close()

    async def answer(self, request: Request, record: JobRecord, wishes: Wishes, policy: Policy = UNLIMITED) -> Response:
        """What the client of a new request gets: the answer if it waits for it, else 202 and the job.

        Raises `Unavailable` when the store is away, `QueueFull` when the lane is (nothing is kept then),
        `DeadlineUnreachable` and `QueueWaitExceeded` when it is too long, `IdempotencyKeyReused`, and what `Gate.admit`
        does. A job that is joined to an earlier one asks for nothing.
        """
        shared_in_flight = wishes.dedupe and not wishes.idempotency_key
        record, existing = await self._enter(record, policy, shared_in_flight=shared_in_flight)
        if existing is not None:
            return await self._join(request, existing, wishes)
        if not wishes.waits:
            return await self._begun(record, wishes, await self._dispatch(record))
        # Should the log lose the job's end, the store has it.
        follower = JobFollower(self._log, self._store, record, self._log.follow(record.job.id))
        seat = self._outstanding.take(record.job)
        if seat is not None and seat.precedence != record.job.precedence:  # while the row was written
            record = replace(record, job=replace(record.job, precedence=seat.precedence))
        try:
            outlook = await self._dispatch(record)
        except BaseException:
            follower.close()
            if seat is not None:
                seat.leave()
            raise
        followed = Followed(record.job, follower, outlook, seat, key_headers.of_policy(policy))
        if wishes.wait is None:
            return await self._relay.answer(request, followed, keep=wishes.on_disconnect != "cancel")
        answer = await self._relay.answer_within(request, followed, wishes.wait)
        return answer or await self._accepted(record.job, wishes, outlook)

    async def submit(self, record: JobRecord, policy: Policy = UNLIMITED) -> Response:
        """Run a job in the background, and answer 202. Raises as `answer` does."""
        wishes = Wishes(respond_async=True)
        record, existing = await self._enter(record, policy, shared_in_flight=False)
        if existing is None:
            return await self._begun(record, wishes, await self._dispatch(record))
        answer = await self._accepted(existing.job, wishes)
        answer.headers[_REPLAYED] = "true"
        return answer

    async def _enter(
        self, record: JobRecord, policy: Policy, *, shared_in_flight: bool
    ) -> tuple[JobRecord, JobRecord | None]:
        """The record in the store, admitted, and None; or with the job that was there first."""
        record = replace(record, job=await self._gate.marked(record.job, policy))
        keyed = bool(record.idempotency_key)
        if not keyed:  # else its answer may be there already, and needs no turn
            self._pressure.admit(record.job, len(self._outstanding))
            record = await self._admitted(record, policy)
        existing = await self._insert(record, shared_in_flight=shared_in_flight)
        if keyed and existing is None:
            record = await self._admitted_later(record, policy)
        return record, existing

    async def _admitted(self, record: JobRecord, policy: Policy) -> JobRecord:
        """The record of a job that may go, or that waits in the store until the feeder finds that it may."""
        job = record.job
        if not job.accounts:
            return record
        tokens = token_estimates.prompt_tokens(job.body)
        try:
            await self._gate.admit(job, policy, tokens=tokens, output=max(record.weight - tokens, 0))
        except (LimitExceeded, BudgetExceeded) as refusal:
            if not may_wait(job, policy, refusal, self._clock.now()):
                raise
            return replace(record, state=JobState.QUEUED, dispatches=0)
        return record

    async def _admitted_later(self, record: JobRecord, policy: Policy) -> JobRecord:
        """The same for a job that is in the store already, so that others may have joined it."""
        try:
            admitted = await self._admitted(record, policy)
        except AppError as refusal:
            await self._refuse(record, refusal)
            raise
        if admitted.state is JobState.QUEUED:
            await self._jobs.move([record.job.id], JobState.QUEUED, self._clock.now(), expected=JobState.DISPATCHING)
        return admitted

    async def _insert(self, record: JobRecord, *, shared_in_flight: bool) -> JobRecord | None:
        """None when the record is the one to run, else the job that was there first."""
        for tries_left in reversed(range(_MOST_TRIES)):
            try:
                existing = await self._jobs.add(record)
            except BaseException:
                self._gate.leave_soon(record.job)
                raise
            if existing is None:
                return None
            if existing.request_hash != record.request_hash:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was used for another request within the last 24 hours. "
                    "Send the same body, or another key.",
                    param="idempotency-key",
                )
            if not shared_in_flight or not tries_left or not await self._over(existing):
                return existing
            await self._jobs.release_key(existing.job.id)
        raise AssertionError("the last try returns")

    async def _over(self, record: JobRecord) -> bool:
        """Whether the job has ended, even if the store has not heard of it."""
        if record.state.final:
            return True
        try:
            events = await self._log.replay(record.job.id)
        except Unavailable:
            return False
        return job_objects.traces(record.job, events).ending is not None

    async def _join(self, request: Request, existing: JobRecord, wishes: Wishes) -> Response:
        """The answer of a job that an earlier request started, in the way that this one asks for."""
        job = existing.job
        if not wishes.waits:
            answer = await self._accepted(job, wishes)
        elif existing.state.final:
            whole = await self._jobs.get(job.id, job.key, bodies=True)
            answer = await self._relay.attached(request, whole or existing)
        elif wishes.wait is not None:
            followed = Followed(job, JobFollower(self._log, self._store, existing))
            within = await self._relay.answer_within(request, followed, wishes.wait)
            answer = within or await self._accepted(job, wishes)
        else:
            answer = await self._relay.attached(request, existing)
        answer.headers[_REPLAYED] = "true"
        return answer

    async def _dispatch(self, record: JobRecord) -> Outlook:
        """Put the job on its lane, and say how that stood. Whoever dies on the way leaves a row that the reaper finds.

        Raises what `answer` does of the lane; the job has ended then.
        """
        if record.state is JobState.QUEUED:
            return UNKNOWN  # the feeder's affair
        job = record.job.without_large_body()  # which the worker reads from the store
        try:
            outlook = self._pressure.admit(job, len(self._outstanding))
        except AppError as late:
            await self._refuse(record, late)
            raise
        confirm = self._queue.publish(job)
        await asyncio.wait((confirm,), timeout=_CONFIRM_PATIENCE)
        settled = confirm.done() and not confirm.cancelled()
        error = confirm.exception() if settled else None
        if settled and error is None:
            self._notes.add(job.id)
        elif isinstance(error, QueueFull):
            refusal = self._pressure.corrected(error, job)
            await self._refuse(record, refusal)
            raise refusal
        else:
            # It may have arrived or not. The row is there, so the job will run: that is what accepted means.
            log.warning("job_not_confirmed", job=job.id, reason=str(error) if error else "no confirm in time")
        return outlook

    async def _refuse(self, record: JobRecord, error: AppError) -> None:
        """The client hears of it at once and may come again under the same key."""
        job_id = record.job.id
        self._gate.leave_soon(record.job)
        if record.idempotency_key:
            await self._jobs.release_key(job_id)
        await self._jobs.end([Ending(job_id, JobState.FAILED, self._clock.now(), attempts=0, error=error.to_wire())])

    async def _begun(self, record: JobRecord, wishes: Wishes, outlook: Outlook) -> Response:
        """202 for a job that was put on its lane just now."""
        place = await self._finder.place(record, waited=0.0)
        found = job_objects.whole(record, Traces(), (), place)
        return _response(found, wishes, self._told(record.job, outlook))

    async def _accepted(self, job: Job, wishes: Wishes, outlook: Outlook | None = None) -> Response:
        """202 for a job that has had some time already."""
        record, seen = await self._finder.find(job.id, job.key)
        return _response(await self._finder.whole(record, seen), wishes, self._told(job, outlook))

    def _told(self, job: Job, outlook: Outlook | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._pressure.tell(headers, job, outlook)
        return headers


def _response(found: dict[str, Any], wishes: Wishes, headers: dict[str, str]) -> Response:
    headers |= {"location": f"/v1/jobs/{found['id']}", "x-headrace-job-id": found["id"]}
    if wishes.respond_async:
        headers["preference-applied"] = "respond-async"
    elif wishes.wait is not None:
        headers["preference-applied"] = f"wait={wishes.wait:g}"
    if found["position"] is not None:
        headers["x-headrace-queue-position"] = str(found["position"])
    return Response(orjson.dumps(found), 202, headers, media_type="application/json")
