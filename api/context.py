"""What the routes work with, made once at start-up and found on `app.state.context`."""

from dataclasses import dataclass

from starlette.requests import Request

from api import route_access
from api.admission import Admission
from api.auth import Authenticator, Principal
from api.backpressure import Backpressure
from api.durable import DurableJobs
from api.job_finder import JobFinder
from api.lane_board import LaneBoard
from api.rate_limits import RateBoard
from api.relay import Relay
from api.uploads import Slots
from broker.backends import Backends
from broker.live_catalog import LiveCatalog
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import PermissionDenied
from shared.settings import Settings
from shared.turns import Turns


@dataclass(frozen=True, slots=True)
class Context:
    backends: Backends
    catalog: Catalog
    settings: Settings
    authenticator: Authenticator
    admission: Admission
    relay: Relay
    board: LaneBoard
    rates: RateBoard
    pressure: Backpressure
    finder: JobFinder
    durable: DurableJobs
    clock: Clock
    uploads: Slots
    turns: Turns
    customer_header: str
    """One more header that names the end user; empty for none."""
    live: LiveCatalog | None = None
    """None unless models may be in the database."""


def context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


async def authenticated(request: Request) -> Principal:
    """A dependency: the caller, or 401; 403 if its key may not call this route."""
    caller = await context_of(request).authenticator.principal(request.headers)
    route_access.require(caller.policy, request.scope["path"])
    return caller


async def administrator(request: Request) -> Principal:
    """A dependency: the caller, who has the master key, or 401 or 403."""
    caller = await authenticated(request)
    if not caller.admin:
        raise PermissionDenied("Only the master key may do this.")
    return caller
