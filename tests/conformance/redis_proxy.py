"""A proxy before Redis that falls silent, cuts connections, and says what the server never said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RedisProxy:
    """Forwards until told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.accepted = asyncio.Semaphore(0)
        """Released for each new connection of a client."""
        self.listening = asyncio.Event()
        """While it is clear, the clients' bytes are not read; what does not fit into the sockets' buffers stays."""
        self.listening.set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def say(self, answer: bytes) -> None:
        """As if the server had said it, to every client."""
        for writer in self._clients:
            writer.write(answer)

    def end(self) -> None:
        """As a server that says its last word; what clients still write is for nobody."""
        for writer in self._clients:
            writer.write_eof()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        self.listening.set()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._clients.add(writer)
        self._writers |= {writer, upstream_writer}
        self.accepted.release()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, upstream_writer, self.listening))
            group.create_task(self._copy(upstream_reader, writer, None))
        self._clients.discard(writer)
        self._writers -= {writer, upstream_writer}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: asyncio.Event | None
    ) -> None:
        try:
            while data := await reader.read(65536):
                if allowed is not None:
                    await allowed.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxy_before(target: int) -> AsyncIterator[RedisProxy]:
    proxy = RedisProxy(target)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield proxy
        finally:
            await proxy.close()
