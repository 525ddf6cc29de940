"""Chat completions, in OpenAI's, Azure's and the old engines' paths."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api import chat_request
from api.admission import refuse_large_body
from api.context import Context, context_of
from shared.errors import Cancelled

router = APIRouter(tags=["chat"])

_DOCUMENTATION: dict[str, Any] = {
    "summary": "Create a chat completion, streamed or whole, at any provider",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": chat_request.Envelope.model_json_schema()}},
        }
    },
    "response_class": Response,
}


PLAIN_PATHS = ("/v1/chat/completions", "/chat/completions")


@router.post(PLAIN_PATHS[0], **_DOCUMENTATION)
@router.post(PLAIN_PATHS[1], **_DOCUMENTATION, include_in_schema=False)
async def create(request: Request) -> Response:
    return await _create(request, None)


@router.post("/openai/deployments/{model:path}/chat/completions", **_DOCUMENTATION)
@router.post("/engines/{model:path}/chat/completions", **_DOCUMENTATION)
@router.post("/v1/engines/{model:path}/chat/completions", **_DOCUMENTATION, include_in_schema=False)
async def create_at(request: Request, model: str) -> Response:
    return await _create(request, model)


async def _create(request: Request, model: str | None) -> Response:
    context = context_of(request)
    principal = context.authenticator.principal(request.headers)
    body = await read_body(request, context)
    envelope = chat_request.parse(body, model)
    job = context.admission.job(envelope, body, principal, request.headers)
    return await context.relay.answer(request, await context.admission.enter(job))


async def read_body(request: Request, context: Context) -> bytes:
    """The request's body, refused as soon as it is known to be too large."""
    limit = context.settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        refuse_large_body(int(declared), limit)
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            refuse_large_body(size, limit)
            parts.append(part)
    except ClientDisconnect as exc:
        raise Cancelled("The client closed the connection before its request was complete.") from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)
