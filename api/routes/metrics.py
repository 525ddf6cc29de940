"""Prometheus' page."""

from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Principal
from api.context import authenticated, context_of
from api.routes.queues import fleet_wide
from shared import metrics
from shared.errors import Unavailable

router = APIRouter(tags=["metrics"])


@router.get("/metrics", summary="Prometheus metrics of this process", response_class=Response)
@router.get("/metrics/", include_in_schema=False, response_class=Response)
async def prometheus(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> Response:
    try:
        lanes = await fleet_wide(context_of(request).backends)
    except Unavailable:
        lanes = []  # the rest of the page is worth having while the queue is away
    metrics.note_lanes((lane.provider, lane.lane, lane.depth, lane.in_flight, lane.drain_rate) for lane in lanes)
    return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
