"""A client of an ASGI application, without a socket: it can wait, look at what came so far, and leave."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from starlette.types import ASGIApp, Message


@dataclass
class Exchange:
    """One request and what has come back of it so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    done: bool = False
    _task: "asyncio.Task[None] | None" = None
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    async def contains(self, text: bytes) -> Self:
        """Wait until the body has `text` in it."""
        while text not in self.body:
            self._changed.clear()
            await self._changed.wait()
        return self

    async def finished(self) -> Self:
        """Wait until the application has returned."""
        assert self._task is not None
        async with asyncio.timeout(60):
            await self._task
        return self

    async def receive_nothing_more(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.done = not message.get("more_body", False)
        self._changed.set()


def start(
    app: ASGIApp, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Exchange:
    """Send a request. Its body arrives in two parts, as large ones do."""
    exchange = Exchange()
    half = len(body) // 2
    parts = [body[:half], body[half:]]
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 4000),
    }

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
        return await exchange.receive_nothing_more()

    exchange._task = asyncio.create_task(app(scope, receive, exchange.send))  # type: ignore[arg-type]  # a coroutine
    return exchange


async def ask(
    app: ASGIApp, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Exchange:
    """Send a request and wait for the whole answer."""
    return await start(app, method, path, body, headers).finished()
