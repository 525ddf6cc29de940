"""The HTTP application: routes, handlers, middleware. It opens nothing; it is given open backends."""

import asyncio
import time
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.admission import Admission
from api.auth import Authenticator
from api.context import Context
from api.relay import Relay
from api.response_headers import VERSION
from api.routes import chat, health, metrics, models, queues, spend
from broker.backends import Backends
from shared import metrics as counters
from shared.catalog import Catalog
from shared.clock import Clock, SystemClock
from shared.errors import AppError
from shared.settings import Settings

log = structlog.get_logger()


def create_app(backends: Backends, catalog: Catalog, settings: Settings, clock: Clock | None = None) -> FastAPI:
    """An application around `backends`, which the caller opens before and closes after it."""
    clock = clock or SystemClock()
    app = FastAPI(
        title="Headrace",
        version=VERSION,
        summary="A queue-based inference broker: OpenAI's API in, every provider out.",
        redirect_slashes=False,
    )
    master_key = settings.master_key.get_secret_value() if settings.master_key else None
    app.state.stopping = asyncio.Event()
    app.state.context = Context(
        backends=backends,
        catalog=catalog,
        settings=settings,
        authenticator=Authenticator(master_key),
        admission=Admission(backends, catalog, clock, settings.request_timeout),
        relay=Relay(backends.log, catalog, clock, settings.keepalive_seconds),
    )
    for each in (chat, models, queues, spend, health, metrics):
        app.include_router(each.router)
    app.add_exception_handler(AppError, errors.handle)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Observed, quiet=settings.disable_logging)
    return app


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette's last resort: it has logged the traceback; the client gets our shape of error."""
    return errors.response(AppError("Headrace failed at this request; its log says why."))


class Observed:
    """Counts and logs each request, once, around everything else."""

    def __init__(self, app: ASGIApp, *, quiet: bool) -> None:
        self._app = app
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        counters.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, observe)
        finally:
            duration = time.perf_counter() - started
            counters.IN_FLIGHT.dec()
            counters.REQUESTS.labels(status, _route(scope)).inc()
            counters.REQUEST_SECONDS.observe(duration)
            if not self._quiet:
                log.info("request", path=scope["path"], status=status, ms=round(duration * 1000, 2))


def _route(scope: Scope) -> str:
    """The route's pattern, which is bounded, rather than its path, which is not."""
    return getattr(scope.get("route"), "path", "unknown")
