"""The HTTP application: routes, handlers, middleware. It opens nothing; it is given open backends."""

import asyncio
import os
from functools import partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import errors
from api.admission import Admission
from api.auth import Authenticator
from api.backpressure import Backpressure
from api.context import Context
from api.durable import DurableJobs
from api.express import Express
from api.job_finder import JobFinder
from api.lane_board import LaneBoard
from api.openapi import Documented
from api.rate_limits import RateBoard
from api.relay import Relay
from api.response_headers import VERSION
from api.routes import (
    activity,
    audit,
    batches,
    budgets,
    chat,
    customers,
    dead,
    files,
    global_spend,
    health,
    job_events,
    jobs,
    key_renewal,
    key_views,
    keys,
    metrics,
    model_management,
    models,
    queues,
    spend,
    spend_logs,
    team_members,
    teams,
    users,
    webhooks,
)
from api.uploads import Slots
from broker import gate
from broker.backends import Backends
from broker.live_catalog import LiveCatalog
from shared.catalog import Catalog
from shared.clock import Clock, SystemClock
from shared.errors import AppError
from shared.settings import Settings
from shared.turns import Turns

_BEGINNINGS = 16  # chat requests that begin in one turn of the event loop; a few milliseconds of work

_PAGES = (
    chat,
    jobs,
    job_events,
    files,
    batches,
    keys,
    key_views,
    key_renewal,
    users,
    teams,
    team_members,
    budgets,
    customers,
    audit,
    models,
    model_management,
    queues,
    dead,
    webhooks,
    spend,
    spend_logs,
    global_spend,
    activity,
    health,
    metrics,
)


def create_app(
    backends: Backends,
    catalog: Catalog,
    settings: Settings,
    clock: Clock | None = None,
    live: LiveCatalog | None = None,
) -> FastAPI:
    """An application around `backends`, which the caller opens before and closes after it. `live` keeps `catalog` as
    the database says it, if it may have models."""
    clock = clock or SystemClock()
    app = pages()
    master_key = settings.master_key.get_secret_value() if settings.master_key else None
    app.state.stopping = asyncio.Event()
    board = LaneBoard(partial(queues.fleet_wide, backends))
    rates = RateBoard(backends.limiter, catalog)
    pressure = Backpressure(board, rates)
    relay = Relay(backends.log, backends.store, catalog, clock, pressure, settings.keepalive_seconds)
    finder = JobFinder(backends, board, clock)
    door = gate.make(backends, catalog, settings, clock)
    admission = Admission(backends, catalog, clock, settings.request_timeout, pressure, door)
    app.state.context = Context(
        backends=backends,
        catalog=catalog,
        settings=settings,
        authenticator=Authenticator(master_key, door.policies, settings.management.litellm_key_header_name),
        admission=admission,
        relay=relay,
        board=board,
        rates=rates,
        pressure=pressure,
        finder=finder,
        durable=DurableJobs(backends, clock, relay, finder, admission),
        clock=clock,
        uploads=Slots(settings.max_uploads),
        turns=Turns(_BEGINNINGS),
        customer_header=settings.management.user_header_name,
        live=live,
    )
    # Here and not around the server: a chat has no use for its client's address. The variable is uvicorn's.
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"))
    app.add_exception_handler(AppError, errors.handle)
    app.add_exception_handler(RequestValidationError, errors.handle_invalid)
    app.add_exception_handler(Exception, _unexpected)
    return app


def pages() -> FastAPI:
    """Every route and the document of them, with nothing behind them yet."""
    return Documented(
        title="Headrace",
        version=VERSION,
        summary="A queue-based inference broker: OpenAI's API in, every provider out.",
        redirect_slashes=False,
        # As they are: `include_router` would build every route again for each application.
        routes=[route for page in _PAGES for route in page.router.routes],
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette's last resort: it has logged the traceback; the client gets our shape of error."""
    return errors.response(errors.unexpected())


def asgi(app: FastAPI) -> Express:
    """What a server should run: `app`, observed, with the short way for chat."""
    settings = app.state.context.settings
    return Express(app, dict.fromkeys(chat.PLAIN_PATHS, chat.create), quiet=settings.disable_logging)
