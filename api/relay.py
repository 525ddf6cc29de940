"""Events -> one JSON answer or an SSE stream.

Nothing is committed before the first event: until then an error still gets its own status. A stream that waits longer
than the keep-alive interval is opened all the same, and errors after that are sent in-band.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import errors as wire
from api import response_headers, sse
from api.admission import Followed
from api.backpressure import Backpressure
from api.job_follower import JobFollower
from broker.interfaces import EventLog
from broker.records import JobRecord
from broker.store_interfaces import Store
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import AppError, Cancelled, DeadlineExceeded, Unavailable, from_wire
from shared.events import Event, Kind
from shared.jobs import Job

_UNWATCHED = 0.25  # seconds a request may run before somebody watches whether its client is still there
_GRACE = 5.0  # seconds after the deadline in which a worker may still say so itself


@dataclass(frozen=True, slots=True)
class Relay:
    log: EventLog
    store: Store
    catalog: Catalog
    clock: Clock
    pressure: Backpressure
    keep_alive: float
    """Seconds between comments on a stream that is waiting."""

    async def answer(self, request: Request, followed: Followed, keep: bool = False) -> Response:
        """The whole answer, or the stream once its first event decides what it is. Unless the job shall `keep` on, it
        is cancelled when the client leaves."""
        job = followed.job
        if job.stream and not job.durable:  # of a durable job the store tells
            note_accepted(self.log, job)
        conversation = _Conversation(self, followed, request.receive, keep)
        answer = await self._begun(conversation, self.keep_alive if job.stream else None)
        return answer or _EventStream(conversation)

    async def answer_within(self, request: Request, followed: Followed, seconds: float) -> Response | None:
        """The whole answer of a job that is no stream; None when the time is up. The job goes on, then and when the
        client leaves."""
        conversation = _Conversation(self, followed, request.receive, keep=True)
        answer = await self._begun(conversation, seconds)
        if answer is None:
            await conversation.end()
        return answer

    async def attached(self, request: Request, record: JobRecord) -> Response:
        """The answer of a durable job that another request brought, as that request gets it: live while the job is
        unfinished, else from `record`, which then has its bodies. The job goes on when this client leaves."""
        return await self.answer(request, Followed(record.job, JobFollower(self.log, self.store, record)), keep=True)

    def events(self, request: Request, followed: Followed, after: int) -> Response:
        """The job's frames after number `after`, as a stream that begins at once, whatever the job's own request was.
        The job goes on when this client leaves."""
        return _EventStream(_Conversation(self, followed, request.receive, keep=True), after=after)

    async def _begun(self, conversation: "_Conversation", limit: float | None) -> Response | None:
        """What the job's first event makes of the answer; None if there is none within `limit` seconds."""
        try:
            event = await conversation.next(limit)
        except TimeoutError:
            return None
        except AppError as error:
            await conversation.end()
            return wire.response(error, conversation.headers({}))
        except BaseException:
            await conversation.end()
            raise
        if event.kind is Kind.CHUNK or (event.kind is Kind.COMPLETED and conversation.job.stream):
            return _EventStream(conversation, event)
        await conversation.end()
        if event.kind is Kind.FAILED:
            return wire.response(from_wire(event.meta["error"]), conversation.headers(event.meta))
        return _Answer(event.data, conversation.headers(event.meta))


def note_accepted(log: EventLog, job: Job) -> None:
    """Let every api process know whose job this is, so that its client can go on with any of them."""
    meta = {
        "key": job.key,
        "stream": job.stream,
        "deadline": job.deadline,
        "accepted_at": job.accepted_at,
        "model": job.model,
    }
    log.mark_started(Event(job.id, 0, Kind.ACCEPTED, meta=meta))


class _Conversation:
    """One client and the job it waits for."""

    def __init__(self, relay: Relay, followed: Followed, receive: Receive, keep: bool) -> None:
        self._relay = relay
        self._followed = followed  # as long as this lives, the job is published again should the queue lose it
        self.job = followed.job
        self._follower = followed.follower
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._over = keep  # or else it is cancelled when nobody waits for it any more
        self._cancelled: ExitStack | None = None
        if keep:  # others may cancel it
            self._cancelled = ExitStack()
            self._cancelled.enter_context(relay.log.on_cancel(self.job.id, self._hear_of_cancel))
        self.client_left = False
        # Most requests are over before this fires, and never pay for a task that watches their client.
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED, self._begin_watch)

    async def next(self, limit: float | None = None) -> Event:
        """The job's next event.

        Raises `TimeoutError` after `limit` seconds, `DeadlineExceeded`, `Cancelled` when the client has left or the job
        was cancelled, and whatever kept the job from running.
        """
        event = await self._follower.next(limit)
        self._over = self._over or event.last
        return event

    async def end(self) -> None:
        """Let go of the job: if it is not over and shall not go on, nobody wants it any more, and its worker hangs up
        on the provider."""
        self._follower.close()
        self._timer.cancel()
        if self._followed.seat is not None:
            self._followed.seat.leave()
        if self._cancelled is not None:
            self._cancelled.close()
        if self._followed.entering is not None:
            self._followed.entering.cancel()
            await asyncio.gather(self._followed.entering, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if not self._over:
            self._over = True
            with suppress(Unavailable):  # the job then ends at its deadline; the client shall hear of its own error
                await self._relay.log.cancel(self.job.id)

    def headers(self, meta: dict[str, object]) -> dict[str, str]:
        relay = self._relay
        headers = response_headers.of(self.job, meta, relay.catalog, relay.clock.now())
        relay.pressure.tell(headers, self.job, self._followed.outlook)
        headers.update(self._followed.told)
        return headers

    @property
    def keep_alive(self) -> float:
        return self._relay.keep_alive

    def _begin_watch(self) -> None:
        left = self.job.deadline + _GRACE - self._relay.clock.now()
        self._timer = asyncio.get_running_loop().call_later(max(left, 0.0), self._run_out)
        self._watch = asyncio.create_task(self._watch_client(), name=f"client of {self.job.id}")

    def _run_out(self) -> None:
        self._follower.fail(DeadlineExceeded("Request timed out."))

    def _hear_of_cancel(self) -> None:
        self._follower.fail(Cancelled("The job was cancelled."))

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self._follower.fail(Cancelled("The client closed the connection."))


class _Answer(Response):
    """A whole answer."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        # Not the base's initialiser: it looks at each of thirty headers.
        self.status_code = 200
        self.background = None
        self.body = body
        headers["content-length"] = str(len(body))
        headers["content-type"] = "application/json"
        self.raw_headers = response_headers.raw(headers)


class _EventStream(Response):
    """An SSE answer. `id:` lines carry each frame's number, so that a client can say how far it came."""

    def __init__(self, conversation: _Conversation, first: Event | None = None, after: int = 0) -> None:
        # Not the base's initialiser: it would give the answer a length.
        headers = {**conversation.headers(first.meta if first is not None else {}), **sse.HEADERS}
        self.status_code = 200
        self.background = None
        self.raw_headers = response_headers.raw(headers)
        self._conversation = conversation
        self._first = first
        self._frames = sse.Frames(conversation.job.id, after)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for body in self._bodies():
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._conversation.end()

    async def _bodies(self) -> AsyncIterator[bytes]:
        conversation, frames = self._conversation, self._frames
        event, opening = self._first, frames.opening()
        if event is None:
            yield opening
            opening = b""
        while True:
            try:
                if event is None:
                    event = await conversation.next(conversation.keep_alive)
            except TimeoutError:
                yield sse.KEEP_ALIVE
                continue
            except StopAsyncIteration:
                return
            except AppError as error:
                if not conversation.client_left:
                    yield sse.frame_of(error)
                return
            body = opening + frames.of(event)
            if body:  # none is left of what the client has seen
                yield body
            if event.last:
                return
            event, opening = None, b""
