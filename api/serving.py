"""An api process: the application on its socket, with workers beside it when there is no RabbitMQ."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn
from fastapi import FastAPI

from api import startup, supervisor
from api.app import asgi, create_app
from api.startup import Loaded
from api.turn_writes import Protocol
from shared.catalog import Catalog
from shared.settings import Settings

_KEEPALIVE = 75  # seconds an idle client connection stays open


async def serve(settings: Settings, loaded: Loaded) -> None:
    """Run an api until SIGTERM or SIGINT; requests in flight are finished first.

    Raises `ConfigError` when the address cannot be had.
    """
    catalog = loaded.catalog
    listening = supervisor.inherited() or supervisor.bind(settings)
    async with AsyncExitStack() as stack:
        stack.callback(listening.close)
        backends = await stack.enter_async_context(startup.reachable(settings))
        await backends.queue.declare(catalog.providers())
        await startup.prepared_ledger(backends.store, settings)
        live = await stack.enter_async_context(startup.living(backends, loaded, settings))
        if settings.rabbitmq_url is None:
            from api import embedded  # an api without workers need not load them

            renew = [] if live is None else [live.renew]
            await stack.enter_async_context(embedded.workforce(backends, catalog, settings, *renew))
        app = create_app(backends, catalog, settings, live=live)
        stack.push_async_callback(app.state.context.admission.gate.close)
        await stack.enter_async_context(app.state.context.board)
        await stack.enter_async_context(app.state.context.rates)
        await stack.enter_async_context(app.state.context.durable)
        await _listen(app, settings, listening, _greeting(settings, catalog))


async def _listen(app: FastAPI, settings: Settings, listening: socket.socket, greeting: str) -> None:
    config = uvicorn.Config(
        asgi(app),
        host=settings.host,
        port=settings.port,
        loop="none",
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # `create_app` reads them where somebody looks at them
        timeout_keep_alive=_KEEPALIVE,
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )
    server = Server(config)
    server.greeting = greeting

    def stop(number: int) -> None:
        app.state.stopping.set()
        server.handle_exit(number, None)

    with startup.signals(stop):
        await server.serve([listening])


class Server(uvicorn.Server):
    """Uvicorn without its own signal handling: it would end the process before the workers have drained."""

    greeting = ""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            startup.settle_memory()
            port = self.servers[0].sockets[0].getsockname()[1]
            sys.stdout.write(self.greeting.replace("{port}", str(port)))
            sys.stdout.flush()


def _key_variable() -> str:
    return "LITELLM_MASTER_KEY" if "LITELLM_MASTER_KEY" in os.environ else "HEADRACE_MASTER_KEY"


def _greeting(settings: Settings, catalog: Catalog) -> str:
    names = [name for name in catalog.models() if "*" not in name]
    model = names[0] if names else "MODEL"
    key = f' \\\n    -H "Authorization: Bearer ${_key_variable()}"' if settings.master_key else ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (
        f"Headrace listens on http://{host}:{{port}} (docs at /docs). Try:\n\n"
        f"  curl http://{host}:{{port}}/v1/chat/completions{key} \\\n"
        '    -H "Content-Type: application/json" \\\n'
        f"""    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'\n\n"""
    )
