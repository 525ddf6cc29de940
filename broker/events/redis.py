"""The event log on Redis: the log (a stream for each job) is the truth, pub/sub is the doorbell.

Keys, under the namespace: `job:{id}` the log, `claim:{id}:<attempt>`, `cancel:{id}`, `body:{id}` the claim check,
`worker:{id}` its life sign and report, `workers` the ids of those that announced themselves (a sorted set by the end of
the announcement, in milliseconds since the epoch), `paused` the lanes that operators have stopped (a set),
`wake:<process>` (see `redis_tailer`); channels: `reply:<process>`, `cancel` and `changes`. The braces are a hash tag:
in a cluster, all keys of a job live on one shard.

A doorbell carries the events themselves, each after its length, so the usual path never reads the log.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from typing import Any, Self

from broker.events.cancellations import CANCEL_TTL, Cancellations
from broker.events.changes import Changes
from broker.events.follower import LogFollower, Page
from broker.events.followers import Followers
from broker.events.presence import MAX_REPORTS, checked
from broker.events.redis_tailer import Tailer
from broker.redis_link import Command
from broker.redis_pipe import Pipe
from broker.redis_subscription import Subscription
from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.ids import uuid7

_MAX_EVENTS = 100_000  # of one job; Redis trims in whole nodes, so a few more may stay
_PAGE = 256  # events that a follower reads at a time
_REPLAY_PAGE = 1000
_BODY_TIMEOUT = 10.0  # seconds; a body can be tens of megabytes
_CLOCK_SKEW = 2.0  # seconds that `since`, taken on another machine, may be ahead of our clock
_MAX_FRESH = 20_000  # jobs whose last EXPIRE is remembered
_FORGET_MS = 300_000  # that an id outlasts its announcement: one worker's fast clock must not drop the others
_LENGTH = struct.Struct("!I")


def connect(url: str, *, namespace: str = "headrace", ttl: float = 600.0) -> "RedisEventLog":
    return RedisEventLog(url, namespace, ttl)


class RedisEventLog:
    def __init__(self, url: str, namespace: str, ttl: float) -> None:
        self._namespace = namespace
        self._ttl_ms = int(ttl * 1000)
        self._refresh = ttl / 4
        self._fresh: dict[str, float] = {}  # job id -> when its log needs an EXPIRE again
        self._channel = uuid7()
        self._followers = Followers(self._read)
        self._cancelled = Cancellations()
        self._changes = Changes()
        self._listening_since = float("inf")  # seconds since the epoch
        self._pipe = Pipe(url)
        self._body_pipe = Pipe(url, timeout=_BODY_TIMEOUT)  # so that a large body does not hold up the tokens
        self._subscription = Subscription(
            url,
            {
                self._reply(self._channel): self._on_doorbell,
                f"{namespace}:cancel": self._on_cancelled,
                f"{namespace}:changes": self._on_changed,
            },
            on_up=self._on_up,
            on_down=self._on_down,
        )
        wake_key = f"{namespace}:wake:{self._channel}"
        self._tailer = Tailer(url, self._pipe, self._read, partial(self._key, "job"), wake_key)
        self._checks: asyncio.Future[list[Any]] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._pipe)
            await stack.enter_async_context(self._body_pipe)
            await stack.enter_async_context(self._subscription)
            stack.push_async_callback(self._tailer.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._followers.close()
        await self._stack.aclose()

    @property
    def reply_channel(self) -> str:
        return self._channel

    def follow(self, job_id: str) -> LogFollower:
        return self._followers.follow(job_id)

    def tail(self, job_id: str, after: int = 0) -> LogFollower:
        return self._tailer.tail(job_id, after)

    async def emit(self, reply_to: str, events: Sequence[Event]) -> None:
        commands: list[Command] = []
        doorbell: list[bytes] = []
        for event in events:
            wire = event.to_wire()
            commands += self._append(event, wire)
            if event.seq:
                doorbell += (_LENGTH.pack(len(wire)), wire)
        if doorbell and reply_to:
            commands.append(("PUBLISH", self._reply(reply_to), b"".join(doorbell)))
        if commands:
            await self._pipe.submit(*commands)

    def mark_started(self, event: Event) -> "asyncio.Future[None]":
        noted = self._pipe.submit(*self._append(event, event.to_wire()))
        self._pipe.flush()
        return _without_result(noted)

    async def claim(self, job_id: str, attempt: int, ttl: float) -> bool:
        key = f"{self._key('claim', job_id)}:{attempt}"
        if ttl <= 0:
            await self._pipe.call("DEL", key)
            return True
        return await self._pipe.call("SET", key, b"1", "NX", "PX", max(1, int(ttl * 1000))) is not None

    async def replay(self, job_id: str, after: int = 0) -> list[Event]:
        events: list[Event] = []
        cursor, more = "", True
        while more:
            page, cursor, more = await self._page(job_id, cursor, _REPLAY_PAGE)
            events += [event for event in page if event.seq > after or not event.seq]
        return events

    async def cancel(self, job_id: str) -> None:
        self._cancelled.add(job_id)
        await self._pipe.submit(
            ("SET", self._key("cancel", job_id), b"1", "EX", int(CANCEL_TTL)),
            ("PUBLISH", f"{self._namespace}:cancel", job_id),
        )

    async def is_cancelled(self, job_id: str, since: float) -> bool:
        if job_id in self._cancelled:
            return True
        if self._listening_since + _CLOCK_SKEW < since:
            return False
        return bool(await self._pipe.call("EXISTS", self._key("cancel", job_id)))

    def on_cancel(self, job_id: str, callback: Callable[[], None]) -> AbstractContextManager[None]:
        return self._cancelled.watch(job_id, callback)

    async def announce_change(self, subject: str) -> None:
        self._changes.tell(subject)
        await self._pipe.submit(("PUBLISH", f"{self._namespace}:changes", subject), patient=True)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._changes.watch(callback)

    async def announce(self, worker: str, ttl: float, report: bytes = b"") -> None:
        key, workers = self._key("worker", worker), f"{self._namespace}:workers"
        if ttl <= 0:
            await self._pipe.submit(("DEL", key), ("ZREM", workers, worker))
            return
        now_ms, ttl_ms = int(time.time() * 1000), max(1, int(ttl * 1000))
        await self._pipe.submit(
            ("SET", key, checked(report), "PX", ttl_ms),
            ("ZADD", workers, now_ms + ttl_ms, worker),
            ("ZREMRANGEBYSCORE", workers, "-inf", now_ms - _FORGET_MS),
        )

    async def present(self, worker: str) -> bool:
        return bool(await self._pipe.call("EXISTS", self._key("worker", worker)))

    async def reports(self) -> list[bytes]:
        # The keys tell who is present, by the server's clock; the scores, by the workers' clocks, only whom to ask.
        workers = await self._pipe.call("ZRANGE", f"{self._namespace}:workers", 0, MAX_REPORTS - 1, "REV")
        if not workers:
            return []
        commands: list[Command] = [("GET", self._key("worker", worker.decode())) for worker in workers]
        return [report for report in await self._pipe.submit(*commands) if report]

    async def pause_lane(self, lane: str, paused: bool) -> None:
        await self._pipe.call("SADD" if paused else "SREM", f"{self._namespace}:paused", lane)

    async def paused_lanes(self) -> frozenset[str]:
        lanes = await self._pipe.call("SMEMBERS", f"{self._namespace}:paused")
        return frozenset(lane.decode() for lane in lanes)

    async def put_body(self, job_id: str, body: bytes, ttl: float) -> None:
        await self._body_pipe.call("SET", self._key("body", job_id), body, "PX", max(1, int(ttl * 1000)))

    async def get_body(self, job_id: str) -> bytes | None:
        body: bytes | None = await self._body_pipe.call("GET", self._key("body", job_id))
        return body

    async def ping(self) -> None:
        await self._pipe.call("PING")

    def _key(self, kind: str, job_id: str) -> str:
        return f"{self._namespace}:{kind}:{{{job_id}}}"

    def _reply(self, channel: str) -> str:
        return f"{self._namespace}:reply:{channel}"

    def _append(self, event: Event, wire: bytes) -> list[Command]:
        key = self._key("job", event.job_id)
        commands: list[Command] = [("XADD", key, "MAXLEN", "~", _MAX_EVENTS, "*", b"e", wire)]
        if self._expiry_due(event):
            commands.append(("PEXPIRE", key, self._ttl_ms))
        return commands

    def _expiry_due(self, event: Event) -> bool:
        """The first and the last event need an EXPIRE; between them a refresh now and then, not one a chunk."""
        now = time.monotonic()
        if event.last:
            self._fresh.pop(event.job_id, None)
            return True
        if event.kind is Kind.ACCEPTED:
            return True  # an api writes nothing else, so there would be no last event to forget the job at
        if now < self._fresh.get(event.job_id, 0.0):
            return False
        if len(self._fresh) >= _MAX_FRESH:
            del self._fresh[next(iter(self._fresh))]
        self._fresh[event.job_id] = now + self._refresh
        return True

    async def _read(self, job_id: str, cursor: str) -> Page:
        return await self._page(job_id, cursor, _PAGE)

    async def _page(self, job_id: str, cursor: str, size: int) -> Page:
        """Entries from the one at `cursor`, which was read before: finding it again proves that the log is whole."""
        seen = 1 if cursor else 0
        command: Command = ("XRANGE", self._key("job", job_id), cursor or "-", "+", "COUNT", size + seen)
        (entries,) = await self._pipe.submit(command, patient=True)
        if seen and (not entries or entries[0][0].decode() != cursor):
            raise Unavailable(f"the log of job {job_id} is gone")
        events = [Event.from_wire(fields[1]) for _, fields in entries[seen:]]
        newest = entries[-1][0].decode() if entries else ""
        return Page(events, newest, more=len(events) == size)

    def _on_doorbell(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            begin = at + _LENGTH.size
            at = begin + _LENGTH.unpack_from(payload, at)[0]
            self._followers.ring(Event.from_wire(payload[begin:at]))

    def _on_cancelled(self, payload: bytes) -> None:
        self._cancelled.add(payload.decode())

    def _on_changed(self, payload: bytes) -> None:
        self._changes.tell(payload.decode(errors="replace"))

    def _on_up(self) -> None:
        self._listening_since = time.time()
        self._changes.tell("")
        self._followers.distrust_all()
        self._check_cancellations()

    def _on_down(self) -> None:
        self._listening_since = float("inf")

    def _check_cancellations(self) -> None:
        """Ask for the watched jobs whose cancellation may have been published while nobody listened."""
        watched = self._cancelled.watched
        if not watched:
            return

        def note(replies: "asyncio.Future[list[Any]]") -> None:
            if replies.cancelled() or replies.exception() is not None:
                return
            for job_id, cancelled in zip(watched, replies.result(), strict=True):
                if cancelled:
                    self._cancelled.add(job_id)

        commands: list[Command] = [("EXISTS", self._key("cancel", job_id)) for job_id in watched]
        self._checks = self._pipe.submit(*commands, patient=True)
        self._checks.add_done_callback(note)


def _without_result(future: "asyncio.Future[list[Any]]") -> "asyncio.Future[None]":
    outer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(inner: "asyncio.Future[list[Any]]") -> None:
        if outer.done():
            return
        error = inner.exception()
        if error is None:
            outer.set_result(None)
        else:
            outer.set_exception(error)
            outer.exception()  # marks it as seen: awaiting is optional

    future.add_done_callback(settle)
    return outer
