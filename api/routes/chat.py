"""Chat completions, in OpenAI's, Azure's and the old engines' paths."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from api import documents, errors, key_headers, route_access, wishes
from api.admission import refuse_large_body
from api.context import context_of
from api.durable import record_of
from api.lane_board import UNKNOWN
from shared import chat_request
from shared.errors import AppError, Cancelled
from shared.job_plan import most_output

router = APIRouter(tags=["chat"])

_DOCUMENTATION: dict[str, Any] = {
    "summary": "Create a chat completion, streamed or whole, at any provider",
    "openapi_extra": documents.request_body(chat_request.Envelope),
    "response_class": Response,
    "responses": {202: {"description": "The job, when the request preferred not to wait (`Prefer`)"}},
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
    headers = _headers(request.scope)
    principal = context.authenticator.known(headers) or await context.authenticator.principal(headers)
    policy = principal.policy
    if policy.allowed_routes:
        route_access.require(policy, request.scope["path"])
    await context.turns.wait(principal.team or principal.key)
    body = await read_body(request, headers, context.settings.max_body_bytes)
    envelope = chat_request.parse(body, model)
    wished = wishes.of(headers, context.customer_header)
    job = context.admission.job(envelope, body, principal, wished)
    try:
        if not job.durable:
            return await context.relay.answer(
                request, await context.admission.enter(job, policy, most_output(envelope))
            )
        if wished.webhook:
            wishes.check_webhook(wished.webhook, context.settings)
        return await context.durable.answer(request, record_of(job, envelope, wished), wished, policy)
    except AppError as error:
        told: dict[str, str] = {}
        context.pressure.tell(told, job, UNKNOWN)
        return errors.response(error, told | key_headers.of_policy(policy))


def _headers(scope: Scope) -> dict[str, str]:
    """By name, which ASGI gives in lower case; of several with one name the first counts. Starlette's own mapping looks
    through all of them at every access."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
    if "prefer" in headers:  # a list, that may be spread over several headers
        headers["prefer"] = ",".join([value.decode("latin-1") for name, value in scope["headers"] if name == b"prefer"])
    return headers


async def read_body(request: Request, headers: Mapping[str, str], limit: int) -> bytes:
    """The request's body, refused as soon as it is known to be over `limit` bytes. Raises `Cancelled` when the client
    leaves before its end."""
    declared = headers.get("content-length", "")
    if declared.isdecimal():
        refuse_large_body(int(declared), limit)
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("The client closed the connection before its request was complete.")
        part = message.get("body", b"")
        size += len(part)
        refuse_large_body(size, limit)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
