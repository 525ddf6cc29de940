"""The lanes, as an operator or an agent wants to see them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from broker.interfaces import LaneStats

router = APIRouter(tags=["queues"])


@router.get("/v1/queues", summary="Depth, oldest job, jobs in flight, drain rate and estimated wait of each lane")
async def list_queues(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    lanes = await context_of(request).backends.queue.stats()
    return {"object": "list", "data": [_lane(lane) for lane in lanes]}


def _lane(lane: LaneStats) -> dict[str, Any]:
    """Times in seconds, rates in jobs a second."""
    return {
        "id": f"{lane.provider}.{lane.lane}",
        "object": "queue",
        "provider": lane.provider,
        "lane": lane.lane,
        "depth": lane.depth,
        "bound": lane.bound,
        "oldest": lane.oldest,
        "in_flight": lane.in_flight,
        "consumers": lane.consumers,
        "drain_rate": round(lane.drain_rate, 3),
        "estimated_wait": round(lane.estimated_wait, 3),
        "paused": lane.paused,
    }
