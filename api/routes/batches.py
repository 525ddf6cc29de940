"""OpenAI's batches at any provider, and what OpenAI has not: inline requests, live progress, the output so far."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api import batch_progress, batch_request, openai_objects, sse, uploads, wishes
from api.auth import Principal
from api.batch_request import BatchRequest
from api.context import Context, authenticated, context_of
from api.routes.chat import read_body
from api.routes.files import download, find
from broker.records import BatchQuery, BatchRecord, BatchStatus
from broker.store_interfaces import Batches
from shared import batch_rules, webhooks
from shared.batch_lines import output_line
from shared.errors import IdempotencyKeyReused, InvalidRequest, NotFound
from shared.ids import uuid7

router = APIRouter(tags=["batches"])

_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)

Caller = Annotated[Principal, Depends(authenticated)]


class Page(BaseModel):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[str | None, Field(max_length=64)] = None


_ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["endpoint", "completion_window"],
    "properties": {
        "input_file_id": {"type": "string", "description": "A file of purpose batch, with a request on each line"},
        "requests": {"type": "array", "items": {"type": "object"}, "description": "Instead of a file: its lines"},
        "endpoint": {"type": "string", "example": "/v1/chat/completions"},
        "completion_window": {"type": "string", "example": "24h", "description": "Minutes (m), hours (h) or days (d)"},
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "At most 16 pairs. Headrace heeds priority (-100 to 100), deadline and webhook",
        },
        "output_expires_after": {"type": "object"},
    },
}


@router.post(
    "/v1/batches",
    summary="Start a batch from a file, or from requests given inline",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _ORDER}}}},
)
@router.post("/batches", include_in_schema=False)
async def create(request: Request, response: Response, caller: Caller) -> dict[str, Any]:
    """Under an `Idempotency-Key` the same request makes one batch in 24 hours."""
    context, batches = context_of(request), _batches(request)
    key = wishes.idempotency_key(request.headers)
    body = await read_body(request, request.headers, context.settings.max_body_bytes)
    request_hash = sha256(body).hexdigest() if key else ""
    existing = await batches.keyed(caller.key, key) if key else None
    if existing is None:
        order = batch_request.parse(body)
        record = replace(await _ordered(context, caller, order), idempotency_key=key, request_hash=request_hash)
        existing = await batches.add(record)
        if existing is None:
            return openai_objects.batch(record)
        if order.requests:  # somebody was faster, and nobody else knows of the file
            await context.backends.store.files.delete(record.input_file_id, record.owner)
    if existing.request_hash != request_hash:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used for another batch within the last 24 hours. "
            "Send the same body, or another key.",
            param="idempotency-key",
        )
    response.headers["x-headrace-idempotent-replayed"] = "true"
    return openai_objects.batch(existing)


async def _ordered(context: Context, caller: Principal, order: BatchRequest) -> BatchRecord:
    """The batch that was asked for, whose file is in the store."""
    now = context.clock.now()
    order.expires_at(now)
    _check_webhook(context, order)
    file_id = await _input_file(context, caller, order, now)
    return BatchRecord(
        id=f"batch_{uuid7().replace('-', '')}",
        owner=caller.key,
        tenant=caller.team or caller.key,
        endpoint=order.endpoint,
        input_file_id=file_id,
        completion_window=order.window,
        created_at=now,
        expires_at=order.expires_at(now),
        metadata=order.metadata,
        priority=order.priority,
        output_expires_after=order.output_expires_after,
        webhook=order.webhook,
        user=caller.user,
        stamps={BatchStatus.VALIDATING: now},
    )


@router.get("/v1/batches", summary="List batches, newest first")
@router.get("/batches", include_in_schema=False)
async def list_batches(request: Request, caller: Caller, page: Annotated[Page, Query()]) -> dict[str, Any]:
    batches = _batches(request)
    records = await batches.find(BatchQuery(owner=caller.scope, after=page.after, limit=page.limit))
    more = len(records) == page.limit and bool(
        await batches.find(BatchQuery(owner=caller.scope, after=records[-1].id, limit=1))
    )
    return openai_objects.page(records, openai_objects.batch, more=more)


@router.get("/v1/batches/{batch_id}", summary="A batch")
@router.get("/batches/{batch_id}", include_in_schema=False)
async def retrieve(request: Request, caller: Caller, batch_id: str) -> dict[str, Any]:
    return openai_objects.batch(await _find(request, caller, batch_id))


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch; what is done by then stays")
@router.post("/batches/{batch_id}/cancel", include_in_schema=False)
async def cancel(request: Request, caller: Caller, batch_id: str) -> dict[str, Any]:
    await _find(request, caller, batch_id)
    now = context_of(request).clock.now()
    moved = await _batches(request).move(batch_id, BatchStatus.CANCELLING, now, expected=_CANCELLABLE)
    if moved is None:
        status = (await _find(request, caller, batch_id)).status
        raise InvalidRequest(f"Cannot cancel a batch with status '{status}'.")
    return openai_objects.batch(moved)


@router.get("/v1/batches/{batch_id}/events", summary="Live progress", response_class=StreamingResponse)
@router.get("/batches/{batch_id}/events", include_in_schema=False)
async def events(request: Request, caller: Caller, batch_id: str) -> Response:
    context = context_of(request)
    await _find(request, caller, batch_id)
    stopping = request.app.state.stopping
    assert isinstance(stopping, asyncio.Event)
    stream = batch_progress.events(
        partial(_batches(request).get, batch_id), context.clock, stopping, context.settings.keepalive_seconds
    )
    return StreamingResponse(stream, headers=sse.HEADERS)


@router.get("/v1/batches/{batch_id}/output", summary="The answers so far", response_class=StreamingResponse)
@router.get("/batches/{batch_id}/output", include_in_schema=False)
async def output(request: Request, caller: Caller, batch_id: str) -> Response:
    record = await _find(request, caller, batch_id)
    return await _lines(request, record, record.output_file_id, completed=True)


@router.get("/v1/batches/{batch_id}/errors", summary="The failed lines so far", response_class=StreamingResponse)
@router.get("/batches/{batch_id}/errors", include_in_schema=False)
async def failures(request: Request, caller: Caller, batch_id: str) -> Response:
    record = await _find(request, caller, batch_id)
    return await _lines(request, record, record.error_file_id, completed=False)


async def _lines(request: Request, record: BatchRecord, file_id: str, *, completed: bool) -> Response:
    """The file, once there is one; the lines themselves before."""
    files = context_of(request).backends.store.files
    file = await files.get(file_id) if file_id else None
    if file is not None:
        return download(files, file)
    lines = _output_lines(_batches(request), record.id, completed)
    return StreamingResponse(lines, media_type="application/jsonl")


async def _output_lines(batches: Batches, batch_id: str, completed: bool) -> AsyncIterator[bytes]:
    async for page in batches.endings(batch_id, completed=completed):
        for each in page:
            yield output_line(each.custom_id, each.line, each.ending)


async def _input_file(context: Context, caller: Principal, order: BatchRequest, now: float) -> str:
    """The id of the file to read, which is written first when the requests came inline."""
    files = context.backends.store.files
    if order.requests:
        new = uploads.new_file(caller.key, "requests.jsonl", "batch", now)
        record = replace(new, expires_at=now + batch_rules.DEFAULT_EXPIRY)
        return (await uploads.store(files, record, _iterate(order))).id
    file = await find(files, order.input_file_id, caller, param="input_file_id")
    if file.purpose != "batch":
        raise InvalidRequest(
            f"Invalid purpose of file '{file.id}': '{file.purpose}'. Expected 'batch'.", param="input_file_id"
        )
    return file.id


async def _iterate(order: BatchRequest) -> AsyncIterator[bytes]:
    for line in order.lines():
        yield line


def _check_webhook(context: Context, order: BatchRequest) -> None:
    if not order.webhook:
        return
    if context.settings.webhook_secret is None:
        raise InvalidRequest(
            "This server sends no webhooks: set HEADRACE_WEBHOOK_SECRET, which signs them.", param="metadata.webhook"
        )
    allow_private = context.settings.webhook_allow_private
    webhooks.check_url(order.webhook, param="metadata.webhook", allow_private=allow_private)


async def _find(request: Request, caller: Principal, batch_id: str) -> BatchRecord:
    record = await _batches(request).get(batch_id, caller.scope)
    if record is None:
        raise NotFound(f"No batch found with id '{batch_id[:100]}'.", param="batch_id")
    return record


def _batches(request: Request) -> Batches:
    return context_of(request).backends.store.batches
