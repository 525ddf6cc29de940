"""A connection to RabbitMQ that is opened again whenever it is lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import aiormq
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection
from yarl import URL

from broker.queues.rabbitmq_deliveries import Deliveries, intercept
from shared.errors import Unavailable

log = structlog.get_logger(__name__)

HEARTBEAT = 15  # seconds; a silent peer is given up after three
CONNECT_TIMEOUT = 10.0  # seconds, for the connection and the declarations that follow it
RPC_TIMEOUT = 30.0  # seconds, for one declaration or the like; a quorum queue takes a while on a loaded server
CLOSE_TIMEOUT = 5.0  # seconds
WATCH_INTERVAL = 5.0  # seconds between two looks at whether the server still confirms
START_PATIENCE = 15.0  # seconds for the first connection, declarations included
_TOGETHER = 8  # frames written at once
BACKOFF = (0.05, 5.0)  # seconds before the second attempt, and the most between two; doubles in between

_MAX_MESSAGE_BYTES = {False: 128 * 1024 * 1024, True: 16 * 1024 * 1024}
"""`max_message_size` by default, before RabbitMQ 4.0 and since: what is larger costs the publisher its channel."""

FOREIGN = (aiormq.AMQPError, aiormq.ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)
"""What aiormq raises when the server cannot be reached or leaves. A plain RuntimeError is its "connection closed"."""


class _Transports(aiormq.TransportFactory):
    """Makes the library's transports, and remembers the last one's writer."""

    def __init__(self, library: aiormq.TransportFactory) -> None:
        self._library = library
        self.writer: asyncio.StreamWriter | None = None
        self.deliveries: Deliveries

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await self._library.create(url, **kwargs)
        # Before another await: no byte has come yet.
        self.deliveries = intercept(cast(asyncio.Transport, self.writer.transport))
        return reader, self.writer


class _Connection(aiormq.Connection):
    # The library's writer takes frames from a queue of 10, so that writing must wait. Ours is bounded by what may be
    # unconfirmed and unsettled, and writing is synchronous: no task for a message.
    FRAME_BUFFER_SIZE = 0

    def __init__(self, url: URL) -> None:
        super().__init__(url)
        self._transport_factory = self._transports = _Transports(self._transport_factory)
        self._unwritten: list[bytes] = []

    @property
    def deliveries(self) -> Deliveries:
        return self._transports.deliveries

    def post(self, frames: bytes) -> None:
        """Write whole frames. What one turn of the event loop brings leaves together, a few at a time: a write to a
        socket costs more than making a frame, here and at the server, but a turn that takes in hundreds of requests is
        long, and the first of them should not wait for the last."""
        self._unwritten.append(frames)
        if len(self._unwritten) == 1:
            asyncio.get_running_loop().call_soon(self.flush)
        elif len(self._unwritten) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what was posted, before anything that the library writes from now on."""
        writer = self._transports.writer
        if self._unwritten and writer is not None:
            together, self._unwritten = b"".join(self._unwritten), []
            writer.write(together)  # the library's own writer is a task: it would have its turn after all that is ready


class Link:
    """One connection with one channel on it. `opened` prepares each new channel; `lost` hears when it is gone, or when
    preparing failed.

    A channel that the server closes (an unknown delivery tag, a consumer timeout) takes the connection with it: one
    way to recover, whatever happened.
    """

    def __init__(
        self,
        url: str,
        *,
        opened: Callable[[AbstractChannel], Awaitable[None]],
        lost: Callable[[], None],
        stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        self._url = URL(url).update_query(heartbeat=HEARTBEAT)
        self.address = f"{self._url.host}:{self._url.port or 5672}"
        self._opened = opened
        self._lost = lost
        self._stuck = stuck
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._cause: BaseException | None = None
        self.channel: AbstractChannel | None = None
        """The channel in use; None while disconnected."""
        self.max_message_bytes = _MAX_MESSAGE_BYTES[True]
        """What the server takes as one message's body, if its operator has not changed that; the least until known."""

    async def open(self, patience: float) -> None:
        """Connect, and stay connected until `close`. Raises `Unavailable` after `patience` seconds."""
        self._keeper = asyncio.create_task(self._keep())
        try:
            await self.ready(patience)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper

    async def ready(self, patience: float) -> AbstractConnection:
        """The connection, waiting for it at most `patience` seconds. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(patience):
                await self._ready.wait()
        except TimeoutError:
            raise self.unavailable() from self._cause
        assert self._connection is not None
        return self._connection

    def unavailable(self) -> Unavailable:
        return Unavailable(f"RabbitMQ at {self.address} cannot be reached")

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except FOREIGN as exc:
            raise self.unavailable() from exc

    @contextmanager
    def ignoring_loss(self) -> Iterator[None]:
        """For steps that are pointless once the connection is lost: recovery redoes or undoes them."""
        with suppress(*FOREIGN):
            yield

    async def _keep(self) -> None:
        failures = 0
        while True:
            connection = _Connection(self._url)
            try:
                channel = await self._connect(connection)
                failures = 0
                await self._until_lost(connection, channel)
            except Exception as exc:  # noqa: BLE001 - the loop must outlive whatever the library raises
                self._cause = exc
                failures += 1
                # Never the exception's text: a library may put the address with the password into it.
                log.warning("rabbitmq_unreachable", address=self.address, error=type(exc).__name__, attempt=failures)
            finally:
                self._drop()
                await _close(connection)
            first, most = BACKOFF
            await asyncio.sleep(min(first * 2 ** min(failures, 10), most) * random.uniform(0.5, 1.0))

    async def _connect(self, connection: AbstractConnection) -> AbstractChannel:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await connection.connect()
            channel = await connection.channel(frame_buffer_size=0)
        async with asyncio.timeout(RPC_TIMEOUT):
            await self._opened(channel)
        self._connection, self.channel = connection, channel
        version = _version(connection)
        self.max_message_bytes = _MAX_MESSAGE_BYTES[not version.startswith("3.")]
        self._ready.set()
        log.info("rabbitmq_connected", address=self.address, version=version)
        return channel

    async def _until_lost(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        ends = {connection.closing, channel.closing}
        while not self._stuck():
            done, _ = await asyncio.wait(ends, timeout=WATCH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
        log.warning("rabbitmq_stuck", address=self.address)

    def _drop(self) -> None:
        self._ready.clear()
        self._connection = self.channel = None
        self._lost()


async def _close(connection: _Connection) -> None:
    with suppress(*FOREIGN):
        connection.flush()
        await connection.close(timeout=CLOSE_TIMEOUT)


def _version(connection: AbstractConnection) -> str:
    version = connection.server_properties.get("version", "unknown")
    return version.decode() if isinstance(version, bytes) else str(version)
