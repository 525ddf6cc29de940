"""A job's events from any point on: what a client asks for whose stream broke off, or who wants to watch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from api import sse
from api.admission import Followed
from api.auth import Principal
from api.context import Context, authenticated, context_of
from api.job_follower import JobFollower, events_of
from broker.records import JobRecord
from shared.errors import Cancelled, InvalidRequest, NotFound, Unavailable
from shared.events import Event, Kind
from shared.jobs import Job

router = APIRouter(tags=["jobs"])

_HEADER, _QUERY = "Last-Event-ID", "starting_after"
_UNKNOWN_DEADLINE = 3600.0  # seconds that a job is followed whose log does not tell its deadline
_LONGEST_SHOWN = 50  # characters of a wrong value that an error repeats


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="A job's stream, from the beginning or from where a client was cut off, and live to its end",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def follow(
    request: Request,
    job_id: str,
    caller: Annotated[Principal, Depends(authenticated)],
    last_event_id: Annotated[str | None, Header(description="`<job id>:<number>`; counts before the query's")] = None,
    starting_after: Annotated[str | None, Query(description="The number of the last frame that arrived")] = None,
) -> Response:
    context = context_of(request)
    point = _point(job_id, last_event_id, starting_after)
    found = await _find(context, job_id, caller)
    if found.frames is not None and point.after > found.frames:
        raise InvalidRequest(
            f"Invalid {point.param}: job {job_id} has {found.frames} events so far, there is none after "
            f"number {point.after}.",
            param=point.param,
        )
    return context.relay.events(request, found.followed(context), point.after)


@dataclass(frozen=True, slots=True)
class _Point:
    """Where a client goes on."""

    after: int
    """The frames that it has."""
    param: str
    """Where it said so."""


@dataclass(frozen=True, slots=True)
class _Found:
    job: Job
    frames: int | None
    """How many there are now; None when the log may have had more, before it was lost."""
    record: JobRecord | None = None
    """Of a durable job."""
    cancelled: bool = False

    def followed(self, context: Context) -> Followed:
        backends = context.backends
        if self.record is not None:
            return Followed(self.job, JobFollower(backends.log, backends.store, self.record))
        tail = backends.log.tail(self.job.id)
        if self.cancelled:
            tail.fail(Cancelled("The job was cancelled."))
        return Followed(self.job, tail)


def _point(job_id: str, header: str | None, query: str | None) -> _Point:
    """Raises `InvalidRequest` for what is no number, and for an id of another job."""
    if header is not None:
        owner, separator, number = header.strip().rpartition(":")
        if separator and owner != job_id:
            raise InvalidRequest(
                f"Invalid {_HEADER}: {header[:_LONGEST_SHOWN]!r} is an event of another job.", param=_HEADER
            )
        return _Point(_number(number, _HEADER), _HEADER)
    return _Point(_number(query.strip(), _QUERY) if query is not None else 0, _QUERY)


def _number(text: str, param: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidRequest(
            f"Invalid {param}: {text[:_LONGEST_SHOWN]!r} is not the number of an event: expected 0 or more.",
            param=param,
        )
    return int(text)


async def _find(context: Context, job_id: str, caller: Principal) -> _Found:
    """Raises `NotFound` when there is no such job, no longer, or when it is somebody else's."""
    unknown = NotFound(
        f"No job {job_id[:_LONGEST_SHOWN]!r}: it does not exist, its events have expired, or it belongs to another "
        "key.",
        param="job_id",
    )
    if not _is_id(job_id):
        raise unknown
    try:
        history = await context.backends.log.replay(job_id)
    except Unavailable:
        record = await _record(context, job_id, caller)
        if record is None or record.ending is None:
            raise
        return _durable(record, [])
    note = _note(history, Kind.ACCEPTED)
    if note is None:
        note = None if _ended_durably(history) else _note(history, Kind.STARTED)
        record = await _record(context, job_id, caller, known=note is not None)
        if record is not None:
            return _durable(record, history)
    if note is None or caller.scope not in (None, note["key"]):
        raise unknown
    return await _transient(context, job_id, note, history)


async def _record(context: Context, job_id: str, caller: Principal, known: bool = False) -> JobRecord | None:
    """The caller's durable job, with its bodies if it is over. Raises `Unavailable` when the store is away, unless the
    job is `known` without it."""
    jobs = context.backends.store.jobs
    try:
        record = await jobs.get(job_id, caller.scope)
        if record is not None and record.state.final:
            record = await jobs.get(job_id, caller.scope, bodies=True)
    except Unavailable:
        if not known:
            raise
        return None
    return record


def _durable(record: JobRecord, history: Sequence[Event]) -> _Found:
    if record.ending is not None:
        return _Found(record.job, _count(events_of(record.ending, stream=record.job.stream)), record)
    begun = any(event.kind is Kind.STARTED for event in history)
    return _Found(record.job, _count(history) if begun else None, record)


async def _transient(context: Context, job_id: str, note: dict[str, object], history: Sequence[Event]) -> _Found:
    job = _job(job_id, note, context.clock.now())
    over = any(event.last for event in history)
    cancelled = not over and await context.backends.log.is_cancelled(job_id, since=job.accepted_at)
    return _Found(job, _count(history), cancelled=cancelled)


def _ended_durably(history: Iterable[Event]) -> bool:
    """Whether the log is a durable job's, which shall not outlive the job's row."""
    return any("end" in event.meta for event in history if event.last)


def _note(history: Iterable[Event], kind: Kind) -> dict[str, object] | None:
    """What a note of that kind says, if it says whose the job is."""
    notes: list[dict[str, object]] = [event.meta for event in history if event.kind is kind]
    return next((note for note in notes if "key" in note), None)


def _job(job_id: str, note: dict[str, object], now: float) -> Job:
    """As much as a note tells of it."""
    return Job(
        id=job_id,
        endpoint="",
        model=str(note.get("model", "")),
        route=(),
        body=b"",
        reply_to="",
        accepted_at=float(str(note.get("accepted_at", now))),
        deadline=float(str(note.get("deadline", now + _UNKNOWN_DEADLINE))),
        stream=bool(note.get("stream", False)),
        key=str(note["key"]),
    )


def _count(events: Iterable[Event]) -> int:
    return sum(map(sse.count, events))


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
