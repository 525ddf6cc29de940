"""The event log of the embedded profile: the same bytes and promises as on Redis, in one process."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Self

from broker.events.cancellations import Cancellations
from broker.events.changes import Changes
from broker.events.follower import LogFollower, Page
from broker.events.followers import Followers
from broker.events.presence import MAX_REPORTS, checked
from shared.errors import Unavailable
from shared.events import Event
from shared.ids import uuid7

TTL = 600.0  # seconds that a log is kept after its newest event
MAX_FINISHED = 10_000  # logs of finished jobs; the oldest go first
MAX_FINISHED_BYTES = 256 * 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024 * 1024  # all claim checks together
MAX_EVENTS = 100_000  # of one job; after that the oldest go
_TRIM = 1_000  # events that go at a time
_PAGE = 256  # events that a follower reads at a time


def connect(url: str = "memory://") -> "MemoryEventLog":
    return MemoryEventLog()


class _Log:
    __slots__ = ("events", "size", "touched", "trimmed")

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.trimmed = 0  # events that were taken off the front
        self.size = 0  # bytes
        self.touched = 0.0

    def trim(self) -> None:
        self.size -= sum(map(len, self.events[:_TRIM]))
        del self.events[:_TRIM]
        self.trimmed += _TRIM


class MemoryEventLog:
    def __init__(self, ttl: float = TTL) -> None:
        self._ttl = ttl
        self._live: OrderedDict[str, _Log] = OrderedDict()  # the longest silent first
        self._finished: OrderedDict[str, _Log] = OrderedDict()  # likewise
        self._finished_bytes = 0
        self._bodies: dict[str, tuple[float, bytes]] = {}  # job id -> (until, body)
        self._body_bytes = 0
        self._followers = Followers(self._read)
        self._tails = Followers(self._read)
        self._cancelled = Cancellations()
        self._changes = Changes()
        self._claims: dict[tuple[str, int], float] = {}  # (job id, attempt) -> until; of the last few seconds
        self._paused: set[str] = set()
        self._workers: dict[str, tuple[float, bytes]] = {}  # id -> (until, report); as many as this process has had
        self._channel = uuid7()

    async def __aenter__(self) -> Self:
        self._now = asyncio.get_running_loop().time
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._followers.close()
        self._tails.close()

    @property
    def reply_channel(self) -> str:
        return self._channel

    def follow(self, job_id: str) -> LogFollower:
        return self._followers.follow(job_id)

    def tail(self, job_id: str, after: int = 0) -> LogFollower:
        return self._tails.tail(job_id, after)

    async def emit(self, reply_to: str, events: Sequence[Event]) -> None:
        here = reply_to == self._channel
        for event in events:
            wire = event.to_wire()
            self._append(event, wire)
            if not event.seq:
                continue
            following = self._followers.of(event.job_id) if here else ()
            tailing = self._tails.of(event.job_id)
            if following or tailing:
                received = Event.from_wire(wire)
                for follower in (*following, *tailing):
                    follower.ring(received)

    def mark_started(self, event: Event) -> "asyncio.Future[None]":
        # The log dies with the process that writes it, so there is nothing more durable to hand the note to.
        self._append(event, event.to_wire())
        noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        noted.set_result(None)
        return noted

    async def claim(self, job_id: str, attempt: int, ttl: float) -> bool:
        now = self._now()
        if ttl <= 0:
            self._claims.pop((job_id, attempt), None)
            return True
        self._claims = {key: until for key, until in self._claims.items() if until > now}
        if (job_id, attempt) in self._claims:
            return False
        self._claims[job_id, attempt] = now + ttl
        return True

    async def replay(self, job_id: str, after: int = 0) -> list[Event]:
        log = self._find(job_id)
        events = [Event.from_wire(wire) for wire in log.events] if log else []
        return [event for event in events if event.seq > after or not event.seq]

    async def cancel(self, job_id: str) -> None:
        self._cancelled.add(job_id)

    async def is_cancelled(self, job_id: str, since: float) -> bool:
        return job_id in self._cancelled

    def on_cancel(self, job_id: str, callback: Callable[[], None]) -> AbstractContextManager[None]:
        return self._cancelled.watch(job_id, callback)

    async def announce_change(self, subject: str) -> None:
        self._changes.tell(subject)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._changes.watch(callback)

    async def announce(self, worker: str, ttl: float, report: bytes = b"") -> None:
        if ttl > 0:
            self._workers[worker] = (self._now() + ttl, bytes(checked(report)))
        else:
            self._workers.pop(worker, None)

    async def present(self, worker: str) -> bool:
        until, _ = self._workers.get(worker, (0.0, b""))
        return until > self._now()

    async def reports(self) -> list[bytes]:
        now = self._now()
        return [report for until, report in self._workers.values() if report and until > now][:MAX_REPORTS]

    async def pause_lane(self, lane: str, paused: bool) -> None:
        if paused:
            self._paused.add(lane)
        else:
            self._paused.discard(lane)

    async def paused_lanes(self) -> frozenset[str]:
        return frozenset(self._paused)

    async def put_body(self, job_id: str, body: bytes, ttl: float) -> None:
        now = self._now()
        for expired in [key for key, (until, _) in self._bodies.items() if until <= now]:
            self._drop_body(expired)
        self._drop_body(job_id)
        if self._body_bytes + len(body) > MAX_BODY_BYTES:
            raise Unavailable("too many large requests are waiting")
        self._bodies[job_id] = (now + ttl, bytes(body))
        self._body_bytes += len(body)

    async def get_body(self, job_id: str) -> bytes | None:
        until, body = self._bodies.get(job_id, (0.0, b""))
        return body if until > self._now() else None

    async def ping(self) -> None:
        return

    def _append(self, event: Event, wire: bytes) -> None:
        job_id = event.job_id
        log = self._live.get(job_id)
        if log is None:
            log = self._revive(job_id)
        log.touched = self._now()
        log.events.append(wire)
        log.size += len(wire)
        if len(log.events) > MAX_EVENTS:
            log.trim()
        if event.last:
            del self._live[job_id]
            self._finished[job_id] = log
            self._finished_bytes += log.size
            self._evict()
        else:
            self._live.move_to_end(job_id)

    def _revive(self, job_id: str) -> _Log:
        """A new log; or the finished one, when a second worker adds to it."""
        log = self._finished.pop(job_id, None)
        if log is None:
            log = _Log()
        else:
            self._finished_bytes -= log.size
        self._live[job_id] = log
        self._evict()
        return log

    def _evict(self) -> None:
        oldest = self._now() - self._ttl
        while self._live and (log := next(iter(self._live.values()))).touched < oldest and log.events:
            self._live.popitem(last=False)
        while self._finished and (
            len(self._finished) > MAX_FINISHED
            or self._finished_bytes > MAX_FINISHED_BYTES
            or next(iter(self._finished.values())).touched < oldest
        ):
            _, log = self._finished.popitem(last=False)
            self._finished_bytes -= log.size

    def _find(self, job_id: str) -> _Log | None:
        log = self._live.get(job_id) or self._finished.get(job_id)
        return log if log is not None and log.touched >= self._now() - self._ttl else None

    async def _read(self, job_id: str, cursor: str) -> Page:
        log = self._find(job_id)
        if log is None and not cursor:
            return Page([], "", more=False)
        if log is None or (cursor and int(cursor) < log.trimmed):
            raise Unavailable(f"the log of job {job_id} is gone")
        begin = int(cursor) if cursor else log.trimmed
        wires = log.events[begin - log.trimmed : begin - log.trimmed + _PAGE]
        events = [Event.from_wire(wire) for wire in wires]
        return Page(events, str(begin + len(wires)), more=len(wires) == _PAGE)

    def _drop_body(self, job_id: str) -> None:
        _, body = self._bodies.pop(job_id, (0.0, b""))
        self._body_bytes -= len(body)
