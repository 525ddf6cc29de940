"""Events -> one JSON answer or an SSE stream.

Nothing is committed before the first event: until then an error still gets its own status. A stream that waits longer
than the keep-alive interval is opened with a comment, and errors after that are sent in-band.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import errors as wire
from api import response_headers
from api.admission import Followed
from broker.interfaces import EventLog
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import AppError, Cancelled, DeadlineExceeded, Unavailable, from_wire
from shared.events import Event, Kind

_UNWATCHED = 0.25  # seconds a request may run before somebody watches whether its client is still there
_GRACE = 5.0  # seconds after the deadline in which a worker may still say so itself
_DONE = b"data: [DONE]\n\n"
# No blank line after it: OpenAI's client takes any blank line for the end of an event once it has seen an `id:`, and
# fails at the empty one.
_KEEP_ALIVE = b": keep-alive\n"
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class Relay:
    log: EventLog
    catalog: Catalog
    clock: Clock
    keep_alive: float
    """Seconds between comments on a stream that is waiting."""

    async def answer(self, request: Request, followed: Followed) -> Response:
        """The whole answer, or the stream once its first event decides what it is."""
        conversation = _Conversation(self, followed, request.receive)
        try:
            event = await conversation.next(self.keep_alive if followed.job.stream else None)
        except TimeoutError:
            return _EventStream(conversation, None)
        except AppError as error:
            await conversation.end()
            return wire.response(error, conversation.headers({}))
        except BaseException:
            await conversation.end()
            raise
        if event.kind is Kind.CHUNK or (event.kind is Kind.COMPLETED and followed.job.stream):
            return _EventStream(conversation, event)
        await conversation.end()
        if event.kind is Kind.FAILED:
            return wire.response(from_wire(event.meta["error"]), conversation.headers(event.meta))
        return Response(event.data, 200, conversation.headers(event.meta), media_type="application/json")


class _Conversation:
    """One client and the job it waits for."""

    def __init__(self, relay: Relay, followed: Followed, receive: Receive) -> None:
        self._relay = relay
        self._followed = followed  # as long as this lives, the job is published again should the queue lose it
        self._job = followed.job
        self._follower = followed.follower
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._over = False
        # Most requests are over before this fires, and never pay for a task that watches their client.
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED, self._begin_watch)

    async def next(self, limit: float | None = None) -> Event:
        """The job's next event.

        Raises `TimeoutError` after `limit` seconds, `DeadlineExceeded`, `Cancelled` when the client has left, and
        whatever kept the job from running.
        """
        event = await self._follower.next(limit)
        self._over = self._over or event.last
        return event

    async def end(self) -> None:
        """Let go of the job: if it is not over, nobody wants it any more, and its worker hangs up on the provider."""
        self._follower.close()
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if not self._over:
            self._over = True
            with suppress(Unavailable):  # the job then ends at its deadline; the client shall hear of its own error
                await self._relay.log.cancel(self._job.id)

    def headers(self, meta: dict[str, object]) -> dict[str, str]:
        return response_headers.of(self._job, meta, self._relay.catalog, self._relay.clock.now())

    @property
    def keep_alive(self) -> float:
        return self._relay.keep_alive

    def _begin_watch(self) -> None:
        left = self._job.deadline + _GRACE - self._relay.clock.now()
        self._timer = asyncio.get_running_loop().call_later(max(left, 0.0), self._run_out)
        self._watch = asyncio.create_task(self._watch_client(), name=f"client of {self._job.id}")

    def _run_out(self) -> None:
        self._follower.fail(DeadlineExceeded("Request timed out."))

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._follower.fail(Cancelled("The client closed the connection."))


class _EventStream(Response):
    """An SSE answer. `id:` lines carry the event's number, so that a client can say how far it came."""

    def __init__(self, conversation: _Conversation, first: Event | None) -> None:
        super().__init__(None, 200)
        self._conversation = conversation
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        meta = self._first.meta if self._first is not None else {}
        headers = {**self._conversation.headers(meta), **_SSE}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for frames in self._frames():
                await send({"type": "http.response.body", "body": frames, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._conversation.end()

    async def _frames(self) -> AsyncIterator[bytes]:
        event = self._first
        while True:
            try:
                if event is None:
                    event = await self._conversation.next(self._conversation.keep_alive)
            except TimeoutError:
                yield _KEEP_ALIVE
                continue
            except Cancelled:
                return
            except AppError as error:
                yield b"data: %b\n\n" % wire.body_of(error)
                return
            match event.kind:
                case Kind.CHUNK:
                    yield b"%bid: %d\n\n" % (event.data[:-1], event.seq)
                case Kind.FAILED:
                    yield b"data: %b\nid: %d\n\n" % (wire.body_of(from_wire(event.meta["error"])), event.seq)
                    return
                case Kind.COMPLETED:
                    yield _DONE
                    return
            event = None
