"""Is it alive, is it ready, and do the models answer?"""

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.auth import Principal
from api.context import Context, authenticated, context_of
from api.response_headers import VERSION
from shared.catalog import Deployment
from shared.errors import AppError, InvalidRequest, from_wire
from shared.events import Kind
from shared.ids import uuid7
from shared.jobs import Job, Leg

router = APIRouter(tags=["health"])

_PROBE_TIMEOUT = 15.0  # seconds
_PROBES_AT_ONCE = 10
_MOST_PROBES = 100  # deployments; each probe is a paid call
_SERVER_TIMEOUT = 3.0  # seconds


@router.get("/health/liveliness", summary="The process runs")
@router.get("/health/liveness", summary="The process runs")
async def liveness(request: Request) -> Response:
    if request.app.state.stopping.is_set():
        return JSONResponse({"status": "shutting_down"}, 503)
    return JSONResponse("I'm alive!")


@router.get("/health/readiness", summary="The servers answer")
async def readiness(request: Request) -> Response:
    """503 while the queue or Redis is away. The ledger's database may be: inference goes on without it."""
    context = context_of(request)
    seams = context.backends
    pings = {
        "queue": seams.queue.ping(),
        "events": seams.log.ping(),
        "limits": seams.limiter.ping(),
        "db": seams.store.ping(),
    }
    states = dict(zip(pings, await asyncio.gather(*map(_state, pings.values())), strict=True))
    essential = all(states[name] == "connected" for name in ("queue", "events", "limits"))
    stopping = request.app.state.stopping.is_set()
    status = "shutting_down" if stopping else "healthy" if essential else "unhealthy"
    body = {"status": status, **states, "litellm_version": VERSION, "headrace_version": VERSION}
    return JSONResponse(body, 200 if essential and not stopping else 503)


@router.get("/health", summary="Send a short paid prompt to each deployment")
async def health(
    request: Request,
    caller: Annotated[Principal, Depends(authenticated)],
    model: Annotated[str | None, Query(max_length=512)] = None,
) -> dict[str, Any]:
    context = context_of(request)
    deployments = context.catalog.deployments() if model is None else list(context.catalog.group(model))
    if not deployments and model is not None:
        raise InvalidRequest(f"No deployment serves the model '{model}'.", param="model")
    slots = asyncio.Semaphore(_PROBES_AT_ONCE)
    results = await asyncio.gather(*(_probe(context, each, slots) for each in deployments[:_MOST_PROBES]))
    healthy = [entry for entry in results if "error" not in entry]
    unhealthy = [entry for entry in results if "error" in entry]
    return {
        "healthy_endpoints": healthy,
        "unhealthy_endpoints": unhealthy,
        "healthy_count": len(healthy),
        "unhealthy_count": len(unhealthy),
    }


async def _state(ping: Any) -> str:
    try:
        async with asyncio.timeout(_SERVER_TIMEOUT):
            await ping
    except (AppError, TimeoutError):
        return "Not connected"
    return "connected"


async def _probe(context: Context, deployment: Deployment, slots: asyncio.Semaphore) -> dict[str, Any]:
    """The deployment's answer to one short prompt, through the queue as any other job."""
    entry = {"model": f"{deployment.provider}/{deployment.model}", "model_id": deployment.id, "group": deployment.group}
    async with slots:
        followed = await context.admission.enter(_probe_job(context, deployment))
        try:
            event = await followed.follower.next(_PROBE_TIMEOUT + 1)
        except TimeoutError:
            return entry | {"error": f"no answer within {_PROBE_TIMEOUT:g} s"}
        except AppError as error:
            return entry | {"error": error.message}
        finally:
            followed.follower.close()
    return entry | {"error": from_wire(event.meta["error"]).message} if event.kind is Kind.FAILED else entry


def _probe_job(context: Context, deployment: Deployment) -> Job:
    now = context.relay.clock.now()
    body = {"model": deployment.group, "messages": [{"role": "user", "content": "What is 1 + 1?"}], "max_tokens": 16}
    return Job(
        id=uuid7(),
        endpoint="chat.completions",
        model=deployment.group,
        route=(Leg(deployment.provider, deployment.group, (deployment.id,)),),
        body=orjson.dumps(body),
        reply_to=context.backends.log.reply_channel,
        accepted_at=now,
        deadline=now + _PROBE_TIMEOUT,
        max_retries=0,
        published_at=now,
        tags=("health-check",),
    )
