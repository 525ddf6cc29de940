"""The lanes, as an operator or an agent wants to see them, and stopping one."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal
from api.context import administrator, authenticated, context_of
from broker.backends import Backends
from broker.interfaces import LaneStats
from shared import lane_reports
from shared.errors import NotFound, Unavailable
from shared.jobs import Lane
from shared.lane_reports import LaneReport, lane_id

router = APIRouter(tags=["queues"])


@router.get("/v1/queues", summary="Depth, oldest job, jobs in flight, drain rate and estimated wait of each lane")
async def list_queues(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    lanes = await fleet_wide(context_of(request).backends)
    return {"object": "list", "data": [_lane(lane) for lane in lanes]}


@router.post(
    "/v1/queues/{lane}/pause",
    summary="Stop a lane: workers take no more of its jobs, and those in their hands go on",
    dependencies=[Depends(administrator)],
)
async def pause(request: Request, lane: str) -> dict[str, Any]:
    return await _turn(request, lane, paused=True)


@router.post("/v1/queues/{lane}/resume", summary="Let a stopped lane go on", dependencies=[Depends(administrator)])
async def resume(request: Request, lane: str) -> dict[str, Any]:
    return await _turn(request, lane, paused=False)


async def _turn(request: Request, lane: str, *, paused: bool) -> dict[str, Any]:
    """Known to all workers within a second. A lane that the config has lost meanwhile can still be let go on."""
    context = context_of(request)
    known = {lane_id(provider, kind) for provider in context.catalog.providers() for kind in Lane}
    if lane not in known and (paused or lane not in await context.backends.log.paused_lanes()):
        raise NotFound(f"No such queue: {lane[:100]}. GET /v1/queues lists them.", param="lane")
    await context.backends.log.pause_lane(lane, paused)
    return {"id": lane, "object": "queue", "paused": paused}


async def fleet_wide(backends: Backends, lanes: Collection[str] | None = None) -> list[LaneStats]:
    """Each lane, or only those with these ids, with the jobs in flight and the drain rate of all workers, as of their
    last heartbeat, and whether an operator has paused it. While no worker reports, or the event log is away, it is what
    the queue knows. Raises `Unavailable` when the queue is away."""
    found = await backends.queue.stats(lanes)
    try:
        paused = await backends.log.paused_lanes()
        reports = await backends.log.reports()
    except Unavailable:
        return found  # the depths are worth having
    known = merged(found, reports) if reports else found
    return [replace(lane, paused=lane_id(lane.provider, lane.lane) in paused) for lane in known]


def merged(lanes: Sequence[LaneStats], reports: Sequence[bytes]) -> list[LaneStats]:
    """The lanes with what the workers have drained, and, where the queue knows this process's part only, with the sums
    over the workers' reports instead."""
    totals = lane_reports.total(reports)
    nothing = LaneReport(0, 0.0)

    def fill(lane: LaneStats) -> LaneStats:
        sums = totals.get(lane_id(lane.provider, lane.lane), nothing)
        if not lane.local:
            return replace(lane, drained=sums.drained)
        return replace(lane, in_flight=sums.in_flight, drain_rate=sums.drain_rate, drained=sums.drained, local=False)

    return [fill(lane) for lane in lanes]


def _lane(lane: LaneStats) -> dict[str, Any]:
    """Times in seconds, rates in jobs a second."""
    return {
        "id": lane_id(lane.provider, lane.lane),
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
