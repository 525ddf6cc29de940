"""The outermost layer: counts and logs each request, and lets chat requests take the short way.

FastAPI's router, dependency solver and exit stacks were measured to cost as much as everything of ours in the api. The
routes stay registered there, for the documentation and for paths with parameters; plain chat paths are answered here.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api import errors
from shared import metrics
from shared.errors import AppError

Endpoint = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


class Express:
    """An ASGI application around `app`: `endpoints` are POST paths answered without it."""

    def __init__(self, app: FastAPI, endpoints: Mapping[str, Endpoint], *, quiet: bool) -> None:
        self._app = app
        self._endpoints = endpoints
        self._quiet = quiet
        self._in_flight = 0
        metrics.IN_FLIGHT.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._in_flight += 1
        try:
            endpoint = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
            if endpoint is None:
                await self._app(scope, receive, observe)
            else:
                scope["app"] = self._app
                await self._answer(endpoint, scope, receive, observe)
        finally:
            duration = time.perf_counter() - started
            self._in_flight -= 1
            metrics.note_request(status, _route(scope, endpoint is not None), duration)
            if not self._quiet:
                log.info("request", path=scope["path"], status=status, ms=round(duration * 1000, 2))

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await endpoint(Request(scope, receive, send))
        except AppError as error:
            response = errors.response(error)
        except Exception:
            # The last resort, as Starlette's own: the client gets our shape of error, the log the traceback.
            log.exception("a request failed", path=scope["path"])
            response = errors.response(errors.unexpected())
        await response(scope, receive, send)


def _route(scope: Scope, express: bool) -> str:
    """The route's pattern, which is bounded, rather than its path, which is not."""
    return scope["path"] if express else getattr(scope.get("route"), "path", "unknown")
