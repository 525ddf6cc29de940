"""Jobs: what became of them, and what else can be done about them."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api import wishes
from api.auth import Principal
from api.context import Context, authenticated, context_of
from api.durable import record_of
from api.job_finder import missing
from api.job_objects import STATUSES, Traces
from broker.policy import Policy
from broker.records import JobQuery, JobRecord
from shared import chat_request
from shared.errors import Cancelled, InvalidKey, InvalidRequest
from shared.job_plan import Caller as Owner
from shared.job_plan import Wishes
from shared.jobs import Ending, JobState

router = APIRouter(tags=["jobs"])

Caller = Annotated[Principal, Depends(authenticated)]
_Text = Annotated[str | None, Field(min_length=1, max_length=512)]


class Filters(BaseModel):
    status: _Text = None
    """One or several, with commas."""
    model: _Text = None
    batch: _Text = None
    """A batch's id: its lines, which are left out otherwise."""
    search: _Text = None
    """Part of the id, the custom id, the user or a tag."""
    after: Annotated[str | None, Field(max_length=100)] = None
    """The last id of the page before."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@router.get("/v1/jobs", summary="List jobs, newest first")
async def list_jobs(request: Request, caller: Caller, filters: Annotated[Filters, Query()]) -> Response:
    statuses = _statuses(filters.status)
    query = JobQuery(
        owner=caller.scope,
        states=tuple(dict.fromkeys(state for status in sorted(statuses) for state in STATUSES[status])),
        model=filters.model,
        batch_id=filters.batch,
        text=filters.search,
        after=filters.after,
        limit=filters.limit,
    )
    data, more = await context_of(request).finder.page(query, statuses)
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


@router.get("/v1/jobs/{job_id}", summary="A job: its status, attempts, place in the queue, and answer or error")
async def retrieve(request: Request, caller: Caller, job_id: str) -> Response:
    finder = context_of(request).finder
    record, seen = await finder.find(job_id, caller.scope)
    return _json(await finder.whole(record, seen))


@router.delete("/v1/jobs/{job_id}", summary="Cancel a job; one that has ended stays as it is")
async def cancel(request: Request, caller: Caller, job_id: str) -> Response:
    context = context_of(request)
    record, seen = await context.finder.find(job_id, caller.scope)
    if not record.state.final:
        record, seen = await _cancel(context, caller, record, seen)
    return _json(await context.finder.whole(record, seen))


@router.post("/v1/jobs/{job_id}/retry", summary="Run a job that has ended once more, as a new job", status_code=202)
async def retry(request: Request, caller: Caller, job_id: str, force: bool = False) -> Response:
    """Under an `Idempotency-Key` a job is retried once in 24 hours."""
    context = context_of(request)
    key = wishes.idempotency_key(request.headers)
    found, _ = await context.finder.find(job_id, caller.scope)  # the log may know of an end before the store does
    old = await context.backends.store.jobs.get(job_id, caller.scope, bodies=True)
    if old is None:
        raise missing(job_id)  # transient: its request was not kept
    if not found.state.final:
        raise InvalidRequest("The job has not ended yet. Cancel it first, or wait for its end.", param="id")
    if found.state is JobState.COMPLETED and not force:
        raise InvalidRequest("The job has completed. Add ?force=true to run and pay it once more.", param="force")
    new, policy = await again(context, old)
    if key:  # of this retry: under its own key the old job would be found, and not run again
        request_hash = sha256(f"retry {old.job.id}".encode()).hexdigest()
        new = replace(new, idempotency_key=key, request_hash=request_hash)
    return await context.durable.submit(new, policy)


async def _cancel(context: Context, caller: Principal, record: JobRecord, seen: Traces) -> tuple[JobRecord, Traces]:
    """Whoever has the job hears of it, and the store does not wait for what they say: they may be dead."""
    job_id = record.job.id
    await context.backends.log.cancel(job_id)
    ending = Ending(
        job_id=job_id,
        state=JobState.CANCELLED,
        finished_at=context.clock.now(),
        attempts=len(seen.notes),
        error=Cancelled("The job was cancelled.").to_wire(),
    )
    await context.backends.store.jobs.end([ending])
    return await context.finder.find(job_id, caller.scope)


async def again(context: Context, old: JobRecord) -> tuple[JobRecord, Policy]:
    """A new job with the old one's request, on its owner's bill, and what its owner may do. Raises `InvalidRequest` if
    that is nothing any more."""
    job = old.job
    try:
        policy = await context.admission.gate.policies.look_up(job.key)
    except InvalidKey as exc:
        raise InvalidRequest(f"The job's key cannot be used any more: {exc.message}", param="id") from exc
    envelope = chat_request.parse(job.body, job.model)
    wishes = Wishes(
        retries=job.max_retries,
        tags=job.tags,
        vendor_headers=job.headers_in,
        traceparent=job.traceparent,
        customer=job.customer,
        priority=old.priority,
        result_ttl=old.result_ttl,
        webhook=old.webhook,
        respond_async=True,
        redact=job.redact,
    )
    owner = Owner(key=job.key, team=job.team, user=job.user, access=policy.access)
    new = context.admission.job(envelope, job.body, owner, wishes)
    return replace(record_of(new, envelope, wishes), retry_of=job.id), policy


def _statuses(text: str | None) -> frozenset[str]:
    names = frozenset(name.strip() for name in (text or "").split(",") if name.strip())
    unknown = names.difference(STATUSES)
    if unknown:
        raise InvalidRequest(
            f"Invalid value for 'status': {min(unknown)[:50]!r}; expected {', '.join(STATUSES)}.", param="status"
        )
    return names


def _json(found: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(found), media_type="application/json")
