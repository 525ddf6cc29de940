"""The HTTP application: routes, handlers, middleware. It opens nothing; it is given open backends."""

import asyncio

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api import errors
from api.admission import Admission
from api.auth import Authenticator
from api.context import Context
from api.express import Express
from api.relay import Relay
from api.response_headers import VERSION
from api.routes import chat, health, metrics, models, queues, spend
from broker.backends import Backends
from shared.catalog import Catalog
from shared.clock import Clock, SystemClock
from shared.errors import AppError
from shared.settings import Settings


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
    return app


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette's last resort: it has logged the traceback; the client gets our shape of error."""
    return errors.response(errors.unexpected())


def asgi(app: FastAPI) -> Express:
    """What a server should run: `app`, observed, with the short way for chat."""
    settings = app.state.context.settings
    return Express(app, dict.fromkeys(chat.PLAIN_PATHS, chat.create), quiet=settings.disable_logging)
