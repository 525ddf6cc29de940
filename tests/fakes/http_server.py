"""An application on a port of this machine, in this process: for commands, which want a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The server's address, while inside."""
    server = _Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", ws="none", log_config=None))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the test's
