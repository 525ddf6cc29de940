"""How a running batch gets on, as a stream of events that look at the store: any api process can tell, at any time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from api import openai_objects
from api.response_headers import NANO
from api.sse import KEEP_ALIVE
from broker.records import BatchRecord, BatchStatus
from shared.clock import Clock
from shared.errors import Unavailable

_PERIOD = 0.5  # seconds between looks
_WINDOW = 10.0  # seconds that the rate is taken over

Read = Callable[[], Awaitable[BatchRecord | None]]


@dataclass
class Pace:
    """Lines per second, from the last seconds' observations: of a batch that was not watched so far or is over, from
    all the time that it ran."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def observe(self, record: BatchRecord, now: float) -> float:
        done = record.completed + record.failed
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        if len(self._seen) == 1 or record.status.final:
            since, before = record.stamps.get(BatchStatus.IN_PROGRESS, now), 0
            now = record.stamps.get(record.status, now) if record.status.final else now
        return max(0.0, (done - before) / (now - since)) if now > since else 0.0


def progress(record: BatchRecord, rate: float) -> dict[str, Any]:
    """The batch's object, with its `progress`: lines per second, seconds to go, dollars, failed lines."""
    left = record.total - record.completed - record.failed
    running = record.status is BatchStatus.IN_PROGRESS
    return {
        **openai_objects.batch(record),
        "progress": {
            "rate": round(rate, 2),
            "eta_seconds": round(left / rate, 1) if running and rate > 0 else None,
            "cost": record.cost / NANO,
            "errors": record.failed,
        },
    }


async def events(read: Read, clock: Clock, stopping: asyncio.Event, keep_alive: float) -> AsyncIterator[bytes]:
    """Server-sent events: `progress` whenever something has changed, `done` at the batch's end; a comment after
    `keep_alive` seconds of silence. The stream ends without `done` when the batch is gone or this process stops: ask
    again then. While the store is away there are comments only."""
    pace, number = Pace(), 0
    shown: BatchRecord | None = None
    silent_since = clock.monotonic()
    while not stopping.is_set():
        record = shown
        try:
            record = await read()
            if record is None:
                return
        except Unavailable:
            pass  # it comes back, or the client loses patience
        now = clock.monotonic()
        if record is not None:
            rate = pace.observe(record, clock.now())
            if record != shown:
                number += 1
                shown, silent_since = record, now
                yield _event(record, rate, number)
                if record.status.final:
                    return
        if now - silent_since >= keep_alive:
            silent_since = now
            yield KEEP_ALIVE
        await _pause(stopping)


def _event(record: BatchRecord, rate: float, number: int) -> bytes:
    name = b"done" if record.status.final else b"progress"
    return b"event: %b\nid: %d\ndata: %b\n\n" % (name, number, orjson.dumps(progress(record, rate)))


async def _pause(stopping: asyncio.Event) -> None:
    """Until it is time to look again, or this process stops."""
    try:
        async with asyncio.timeout(_PERIOD):
            await stopping.wait()
    except TimeoutError:
        pass
