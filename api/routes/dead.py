"""Dead letters: jobs that were set aside. Looked at, run again and thrown away by an administrator."""

import base64
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context, administrator, context_of
from api.response_headers import NANO
from api.routes.jobs import again
from broker.records import DeadLetter, JobRecord, SpendQuery
from broker.store_interfaces import DeadLetters
from shared.errors import InvalidRequest, NotFound
from shared.jobs import Job, JobState, Outcome

router = APIRouter(tags=["dead letters"], dependencies=[Depends(administrator)])

_LONGEST_ID = 100  # characters; ours have 36

_Provider = Annotated[str | None, Field(min_length=1, max_length=200)]


class Page(BaseModel):
    provider: _Provider = None
    after: Annotated[str | None, Field(max_length=_LONGEST_ID)] = None
    """The id of the last letter on the page before."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@router.get("/v1/dead", summary="List dead letters, newest first")
async def list_letters(request: Request, page: Annotated[Page, Query()]) -> dict[str, Any]:
    letters = _letters(request)
    found = await letters.find(provider=page.provider, after=page.after, limit=page.limit)
    more = len(found) == page.limit and bool(
        await letters.find(provider=page.provider, after=found[-1].job_id, limit=1)
    )
    return {
        "object": "list",
        "data": [_shown(letter) for letter in found],
        "first_id": found[0].job_id if found else None,
        "last_id": found[-1].job_id if found else None,
        "has_more": more,
    }


@router.get("/v1/dead/{job_id}", summary="A dead letter with the attempts at its job; with the request if asked for")
async def show(request: Request, job_id: str, body: bool = False) -> dict[str, Any]:
    letter = await _found(request, job_id)
    rows = await context_of(request).backends.store.spend(SpendQuery(request_id=letter.job_id))
    history = sorted((row for row in rows if row.job_id == letter.job_id), key=lambda row: row.attempt)
    shown = {**_shown(letter), "history": [_attempt(row) for row in history]}
    if body:
        job = _job(letter)
        shown["body"] = _readable(letter.body if job is None else await _body(context_of(request), job))
    return shown


@router.post("/v1/dead/{job_id}/retry", summary="Run a dead letter's request again, as a new job", status_code=202)
async def retry(request: Request, job_id: str) -> Response:
    context = context_of(request)
    letter = await _found(request, job_id)
    accepted = await context.durable.submit(*await again(context, await _record(context, letter)))
    await context.backends.store.dead_letters.remove([letter.job_id])
    return accepted


@router.delete("/v1/dead/{job_id}", summary="Throw a dead letter away")
async def remove(request: Request, job_id: str) -> dict[str, Any]:
    if not await _letters(request).remove([job_id[:_LONGEST_ID]]):
        raise _missing(job_id)
    return {"id": job_id, "object": "dead_letter", "deleted": True}


@router.delete("/v1/dead", summary="Throw all dead letters away, or those of a provider")
async def purge(request: Request, provider: Annotated[_Provider, Query()] = None) -> dict[str, Any]:
    return {"object": "list", "deleted": await _letters(request).purge(provider=provider)}


async def _record(context: Context, letter: DeadLetter) -> JobRecord:
    """What there is to run again. A durable job's row knows its wishes; any other job is its message alone."""
    job = _job(letter)
    if job is None:
        raise InvalidRequest("The letter cannot be read as a job, so it cannot run again.", param="job_id")
    stored = await context.backends.store.jobs.get(job.id, bodies=True)
    if stored is not None:
        return stored
    body = await _body(context, job)
    if not body:
        raise InvalidRequest("The letter's request was too large to travel with it, and is gone.", param="job_id")
    return JobRecord(Job.from_wire(letter.headers, body), JobState.FAILED)


async def _body(context: Context, job: Job) -> bytes:
    """The request, wherever it is kept; empty when it is gone."""
    if not job.claim:
        return job.body
    stored = await context.backends.store.jobs.get(job.id, bodies=True)
    if stored is not None:
        return stored.job.body
    return await context.backends.log.get_body(job.id) or b""


async def _found(request: Request, job_id: str) -> DeadLetter:
    letter = await _letters(request).get(job_id[:_LONGEST_ID])
    if letter is None:
        raise _missing(job_id)
    return letter


def _missing(job_id: str) -> NotFound:
    return NotFound(f"No dead letter found with id '{job_id[:_LONGEST_ID]}'.", param="job_id")


def _letters(request: Request) -> DeadLetters:
    return context_of(request).backends.store.dead_letters


def _job(letter: DeadLetter) -> Job | None:
    try:
        return Job.from_wire(letter.headers, letter.body)
    except (ValueError, KeyError, TypeError):
        return None


def _shown(letter: DeadLetter) -> dict[str, Any]:
    """Without the request. Times are seconds since the epoch; what an unreadable letter does not tell is null."""
    job = _job(letter)
    return {
        "id": letter.job_id,
        "object": "dead_letter",
        "provider": letter.provider,
        "reason": letter.reason,
        "died_at": round(letter.died_at, 3),
        "model": job.model if job else None,
        "lane": job.lane.value if job else None,
        "durable": job.durable if job else None,
        "attempt": job.attempt if job else None,
        "accepted_at": round(job.accepted_at, 3) if job else None,
        "api_key": job.key or None if job else None,
        "team": job.team or None if job else None,
        "user": job.customer or job.user or None if job else None,
        "tags": list(job.tags) if job else None,
    }


def _attempt(outcome: Outcome) -> dict[str, Any]:
    """Times in seconds, cost in dollars."""
    return {
        "attempt": outcome.attempt,
        "deployment": outcome.deployment,
        "provider": outcome.provider,
        "status": outcome.status.value,
        "error": {"code": outcome.error_code, "message": outcome.error_message} if outcome.error_code else None,
        "started_at": round(outcome.started_at, 3),
        "duration": round(outcome.duration, 3),
        "cost": outcome.cost / NANO,
    }


def _readable(body: bytes) -> Any:
    """The request as JSON; what is none as text, and what is no text in Base64."""
    if not body:
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode()
