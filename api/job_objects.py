"""A job as `GET /v1/jobs/{id}` shows it: the store's row, with what the event log and the ledger add. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from broker.interfaces import LaneStats
from broker.records import JobRecord
from shared import chat_chunks
from shared.error_bodies import body_of
from shared.errors import Cancelled, DeadlineExceeded, from_wire
from shared.events import Event, Kind
from shared.job_plan import ENDPOINTS
from shared.jobs import Ending, Job, JobState, Outcome

STATUSES: Mapping[str, tuple[JobState, ...]] = {
    "queued": (JobState.QUEUED, JobState.DISPATCHING, JobState.DISPATCHED),
    "in_progress": (JobState.DISPATCHING, JobState.DISPATCHED, JobState.CONSIGNED),
    **{state.value: (state,) for state in JobState if state.final},
}
"""The states that a status may stand for. A job that was dispatched has begun if its log has a STARTED note."""

_PATHS = {endpoint: path for path, endpoint in ENDPOINTS.items()}
_ENDS = {Cancelled.code: JobState.CANCELLED, DeadlineExceeded.code: JobState.EXPIRED}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued job stands."""

    position: int
    """Jobs before it."""
    estimated_start: float | None
    """Seconds since the epoch; None on a lane that an operator has paused."""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Traces:
    """What the event log tells of a job."""

    notes: tuple[Mapping[str, Any], ...] = ()
    """Of attempts that began."""
    ending: Ending | None = None
    """The store may not have it yet."""


def traces(job: Job, events: Sequence[Event]) -> Traces:
    """`events` are all that the log has of the job."""
    notes = tuple(event.meta for event in events if event.kind is Kind.STARTED)
    last = next((event for event in events if event.last), None)
    return Traces(notes, None if last is None else _ending(job, events, last))


def from_log(job_id: str, events: Sequence[Event]) -> JobRecord | None:
    """A job that only the log knows; None when not even the log knows whose it is."""
    accepted = next((event.meta for event in events if event.kind is Kind.ACCEPTED), None)
    outcome = next((event.meta["outcome"] for event in events if event.last and event.meta.get("outcome")), None)
    known = accepted
    if accepted is None and outcome is not None:
        known = {**outcome, "accepted_at": outcome["started_at"] - outcome["queue_wait"], "deadline": 0.0}
    if known is None:
        return None
    job = Job(
        id=job_id,
        endpoint=outcome["endpoint"] if outcome else "chat.completions",
        model=known["model"],
        route=(),
        body=b"",
        reply_to="",
        accepted_at=known["accepted_at"],
        deadline=known["deadline"],
        stream=known["stream"],
        key=known["key"],
    )
    return JobRecord(job, JobState.DISPATCHED)


def current(record: JobRecord, seen: Traces) -> JobRecord:
    """The record as it is once the store has heard of the end that the log shows."""
    if record.ending is not None or record.state.final or seen.ending is None:
        return record
    return replace(record, state=seen.ending.state, ending=seen.ending)


def status(record: JobRecord, begun: bool) -> str:
    if record.state.final:
        return record.state.value
    if record.state is JobState.CONSIGNED or (begun and record.state is not JobState.QUEUED):
        return "in_progress"
    return "queued"


def summary(record: JobRecord, begun: bool) -> dict[str, Any]:
    """The job without its answer, as lists show it. Times are seconds since the epoch."""
    job, ending = record.job, record.ending
    return {
        "id": job.id,
        "object": "job",
        "status": status(record, begun),
        "endpoint": _PATHS.get(job.endpoint, job.endpoint),
        "model": job.model,
        "stream": job.stream,
        "created_at": _time(job.accepted_at),
        "started_at": None,
        "finished_at": _time(ending.finished_at) if ending else None,
        "expires_at": _time(record.expires_at),
        "deadline": _time(job.deadline or None),
        "attempts": ending.attempts if ending else 0,
        "error": _error(ending),
        "priority": record.priority,
        "user": job.customer or job.user or None,
        "tags": list(job.tags),
        "batch_id": record.batch_id or None,
        "custom_id": record.custom_id or None,
        "retry_of": record.retry_of or None,
    }


def whole(record: JobRecord, seen: Traces, outcomes: Iterable[Outcome], place: Place | None) -> dict[str, Any]:
    """The job with its attempts, its place in the queue, and its answer. `record` has its bodies."""
    history = _history(seen.notes, outcomes)
    found = summary(record, begun=bool(seen.notes))
    found["attempts"] = max(found["attempts"], len(history))
    found["started_at"] = history[0]["started_at"] if history else None
    found["history"] = history
    found["position"] = place.position if place else None
    found["estimated_start"] = _time(place.estimated_start) if place else None
    found["paused"] = place is not None and place.paused
    found["result"] = _result(record)
    return found


def place_on(lane: LaneStats, waited: float, now: float, ahead: int = 0) -> Place:
    """Where a job stands that has waited on the lane for so many seconds, or will join it behind `ahead` others."""
    before = lane.depth
    if waited > 0 and lane.oldest:
        # Between the lane's head, which waited longest, and its end, as if jobs had come evenly.
        before = round(lane.depth * max(1 - waited / lane.oldest, 0))
    elif waited > 0:
        before = max(lane.depth - 1, 0)  # itself
    position = before + ahead
    if lane.paused:
        return Place(position, None, paused=True)
    return Place(position, now + (position / lane.drain_rate if lane.drain_rate > 0 else float(position)))


def _ending(job: Job, events: Sequence[Event], last: Event) -> Ending:
    error = last.meta.get("error")
    end = last.meta.get("end") or {}
    guessed = JobState.COMPLETED if error is None else _ENDS.get(error["code"], JobState.FAILED)
    outcome = last.meta.get("outcome") or {}
    frames = [event.data for event in events if event.kind is Kind.CHUNK]
    return Ending(
        job_id=job.id,
        state=JobState(end.get("state", guessed)),
        finished_at=end.get("at") or outcome.get("started_at", job.accepted_at) + outcome.get("duration", 0.0),
        attempts=end.get("attempts", outcome.get("attempt", 0)),
        answer=b"".join(frames) or last.data,
        error=error,
        cost=end.get("cost", outcome.get("cost", 0)),
    )


def _history(notes: Iterable[Mapping[str, Any]], outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Attempts in their order. The ledger has the last word; a note alone is an attempt that is under way, or about
    which the ledger will hear."""
    attempts = {
        note["attempt"]: {
            "attempt": note["attempt"],
            "deployment": note["deployment"],
            "status": "in_progress",
            "error": None,
            "started_at": _time(note["at"]),
        }
        for note in notes
    }
    for outcome in outcomes:
        attempts[outcome.attempt] = {
            "attempt": outcome.attempt,
            "deployment": outcome.deployment,
            "status": outcome.status.value,
            "error": {"code": outcome.error_code, "message": outcome.error_message} if outcome.error_code else None,
            "started_at": _time(outcome.started_at),
        }
    return [attempts[number] for number in sorted(attempts)]


def _result(record: JobRecord) -> Any:
    ending = record.ending
    if ending is None or not ending.answer:
        return None
    if record.job.stream:
        return chat_chunks.fold(ending.answer)
    return orjson.Fragment(ending.answer)  # as the provider wrote it


def _error(ending: Ending | None) -> Any:
    if ending is None or ending.error is None:
        return None
    return orjson.loads(body_of(from_wire(ending.error)))["error"]


def _time(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
