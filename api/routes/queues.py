"""The lanes, as an operator or an agent wants to see them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from broker.backends import Backends
from broker.interfaces import LaneStats
from shared import lane_reports
from shared.errors import Unavailable
from shared.lane_reports import LaneReport

router = APIRouter(tags=["queues"])


@router.get("/v1/queues", summary="Depth, oldest job, jobs in flight, drain rate and estimated wait of each lane")
async def list_queues(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    lanes = await fleet_wide(context_of(request).backends)
    return {"object": "list", "data": [_lane(lane) for lane in lanes]}


async def fleet_wide(backends: Backends) -> list[LaneStats]:
    """Each lane with the jobs in flight and the drain rate of all workers, as of their last heartbeat. While no worker
    reports, or the event log is away, it is what the queue knows. Raises `Unavailable` when the queue is away."""
    lanes = await backends.queue.stats()
    if not any(lane.local for lane in lanes):
        return lanes
    try:
        reports = await backends.log.reports()
    except Unavailable:
        return lanes  # the depths are worth having
    return merged(lanes, reports) if reports else lanes


def merged(lanes: Sequence[LaneStats], reports: Sequence[bytes]) -> list[LaneStats]:
    """The lanes of which the queue knows this process's part only, with the sums over the workers' reports instead."""
    totals = lane_reports.total(reports)
    nothing = LaneReport(0, 0.0)

    def fill(lane: LaneStats) -> LaneStats:
        sums = totals.get(lane_reports.lane_id(lane.provider, lane.lane), nothing)
        return replace(lane, in_flight=sums.in_flight, drain_rate=sums.drain_rate, local=False)

    return [fill(lane) if lane.local else lane for lane in lanes]


def _lane(lane: LaneStats) -> dict[str, Any]:
    """Times in seconds, rates in jobs a second."""
    return {
        "id": lane_reports.lane_id(lane.provider, lane.lane),
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
