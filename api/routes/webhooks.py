"""The log of webhook deliveries, and sending one again."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from broker.records import WebhookDelivery
from shared.errors import NotFound

router = APIRouter(tags=["webhooks"])

Caller = Annotated[Principal, Depends(authenticated)]


class Page(BaseModel):
    subject: Annotated[str | None, Field(max_length=64)] = None
    """A job's or batch's id."""
    after: Annotated[str | None, Field(max_length=64)] = None
    """The id of the last delivery on the page before."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@router.get("/v1/webhooks/deliveries", summary="List webhook deliveries, newest first")
async def list_deliveries(request: Request, caller: Caller, page: Annotated[Page, Query()]) -> dict[str, Any]:
    webhooks = context_of(request).backends.store.webhooks
    found = await webhooks.find(caller.scope, subject=page.subject, after=page.after, limit=page.limit)
    more = len(found) == page.limit and bool(
        await webhooks.find(caller.scope, subject=page.subject, after=found[-1].id, limit=1)
    )
    return {
        "object": "list",
        "data": [_delivery(each) for each in found],
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": more,
    }


@router.post("/v1/webhooks/deliveries/{delivery_id}/redeliver", summary="Send a webhook again, now")
async def redeliver(request: Request, caller: Caller, delivery_id: str) -> dict[str, Any]:
    context = context_of(request)
    delivery = await context.backends.store.webhooks.redeliver(delivery_id, caller.scope, context.clock.now())
    if delivery is None:
        raise NotFound(f"No webhook delivery found with id '{delivery_id[:100]}'.", param="delivery_id")
    return _delivery(delivery)


def _delivery(delivery: WebhookDelivery) -> dict[str, Any]:
    """Times in seconds since the epoch. `response_status` and `error` are of the last attempt."""
    return {
        "id": delivery.id,
        "object": "webhook.delivery",
        "type": delivery.type,
        "subject": delivery.subject,
        "url": delivery.url,
        "status": _status(delivery),
        "attempts": delivery.attempts,
        "response_status": delivery.status,
        "error": delivery.error or None,
        "created_at": delivery.created_at,
        "next_attempt_at": delivery.next_at,
        "delivered_at": delivery.delivered_at,
    }


def _status(delivery: WebhookDelivery) -> str:
    if delivery.next_at is not None:
        return "pending"
    return "delivered" if delivery.delivered_at is not None else "failed"
