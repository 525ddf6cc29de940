"""The queue and the event log; the limiter is in `broker.limiter_interfaces`, the store in `broker.store_interfaces`,
what callers may use in `broker.account_interfaces`. Each docstring is a promise, and `tests/conformance/` checks it on
every implementation.

Errors: every method raises `shared.errors.Unavailable` when its server cannot be reached within its timeout, and
translates the foreign library's exceptions at its own file. Every implementation is an async context manager that
connects on entry and, on exit, ends what it started.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from broker.limiter_interfaces import BucketState as BucketState
from broker.limiter_interfaces import Candidate as Candidate
from broker.limiter_interfaces import Grant as Grant
from broker.limiter_interfaces import Limiter as Limiter
from broker.limiter_interfaces import Limits as Limits
from broker.limiter_interfaces import Refusal as Refusal
from broker.records import DeadLetter
from shared.errors import AppError
from shared.events import Event
from shared.jobs import Ending, Job, Lane, Outcome

# --- JobQueue -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaneStats:
    provider: str
    lane: Lane
    depth: int
    """Jobs waiting, those on delay levels not counted."""
    in_flight: int
    """Jobs delivered and not settled, as far as the backend knows: see `local`."""
    oldest: float | None
    """Seconds that the job at the head has been waiting; None when unknown or the lane is empty."""
    drain_rate: float
    """Jobs per second settled, a moving average as far as the backend knows: see `local`."""
    bound: int
    consumers: int
    paused: bool = False
    local: bool = False
    """True when `in_flight` and `drain_rate` tell of this process only, so that `EventLog.reports` knows better."""
    first: int = 0
    """Those of `depth` that go before all others: interactive ones of precedence `FIRST`."""
    drained: int | None = None
    """Jobs that left it since its workers started, as they report it; less than before when one of them is gone."""

    @property
    def estimated_wait(self) -> float:
        """Seconds until a job published now would start; 0 for an empty lane, `depth` seconds while nothing drains."""
        return self.depth / self.drain_rate if self.drain_rate > 0 else float(self.depth)


class Delivery(Protocol):
    """A job in a worker's hands. Either of the two settles it; settling twice is an error, settling after the
    connection was lost does nothing, because the queue delivers the job again."""

    @property
    def job(self) -> Job: ...

    @property
    def redelivered(self) -> bool:
        """True when the queue gave this job to a consumer before, who left without settling it."""
        ...

    async def ack(self) -> None:
        """The job is finished, or its successor is safely published."""
        ...

    async def dead(self, reason: str) -> None:
        """Move the job to `headrace.dead.<provider>` with the reason, then ack."""
        ...


class OutcomeBatch(Protocol):
    @property
    def outcomes(self) -> Sequence[Outcome]: ...

    @property
    def endings(self) -> Sequence[Ending]: ...

    async def ack(self) -> None:
        """The outcomes and endings are committed in the store."""
        ...


class DeadDelivery(Protocol):
    """A message from `headrace.dead.<provider>`, on its way to the store, where operators find it."""

    @property
    def letter(self) -> DeadLetter: ...

    @property
    def abandoned(self) -> bool:
        """True when the queue gave the job up itself (delivered too often, unreadable), so that no worker has recorded
        its end."""
        ...

    async def ack(self) -> None:
        """The letter is committed in the store."""
        ...


class Consumer(Protocol):
    """Deliveries of one worker from its lanes. While several lanes have jobs it serves them by weighted deficit round
    robin, interactive to batch as 8 to 1, and the interactive jobs of a lane in the order of their precedence. At most
    `prefetch` deliveries are unsettled at a time, and of those at most seven eighths (but at least one) from batch
    lanes, so that a client never waits for a batch to give up a slot. Where `prefetch` is 48 or more, the last
    sixteenth (rounded down) is kept for interactive jobs of precedence `FIRST`."""

    async def get(self) -> Delivery:
        """The next delivery; waits for one. Survives a reconnect. Raises `asyncio.CancelledError` only."""
        ...

    async def add(self, providers: Sequence[str]) -> None:
        """Take jobs of these providers as well, declaring what they need; those that it takes already stay as they
        are."""
        ...

    async def pause(self, provider: str, seconds: float, lane: Lane | None = None) -> None:
        """Stop taking jobs of this provider for so long: all its keys are at their limits. With a `lane`, jobs of that
        lane only, and never interactive ones of precedence `FIRST`: many wait already. A second call for the same
        prolongs or shortens it; 0 resumes."""
        ...

    async def pause_lanes(self, lanes: Collection[str]) -> None:
        """Take jobs of none of these lanes (`shared.lane_reports.lane_id`), which an operator has paused, until they
        are left out of a later call. What was handed out goes on."""
        ...

    async def stop(self) -> None:
        """Take nothing more. Deliveries already handed out can still be settled; those prefetched and not yet handed
        out go back to the queue."""
        ...


class JobQueue(Protocol):
    def publish(self, job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        """Send `job` to the lane `headrace.jobs.<provider>.<lane>` of its current leg, now or after `delay` seconds
        (0 to 3,600, rounded up to a power of two over a fraction of a second).

        Writes at once and returns a future that resolves when the queue has taken responsibility: awaiting it is
        optional for a client that is itself waiting for events, and mandatory before acking a predecessor. The future
        raises `QueueFull` (with `retry_after` = depth / drain rate, clamped to 1..3,600 s) when the lane is at its
        bound (an eighth over it for an interactive job of precedence `FIRST`) and `Unavailable` when the connection is
        lost before the confirm. A delayed job ignores the bound. A durable job's message is persistent on every lane.
        """
        ...

    def consume(
        self, providers: Sequence[str], prefetch: int, lanes: Sequence[Lane] = (Lane.INTERACTIVE, Lane.BATCH)
    ) -> AbstractAsyncContextManager[Consumer]:
        """Take jobs from these lanes. A job whose consumer leaves without settling it is delivered again, marked
        `redelivered`."""
        ...

    def on_loss(self, callback: Callable[[], None]) -> None:
        """`callback` is called whenever interactive jobs that the queue had accepted may be lost: its server was away
        and is back. Whoever waits for such a job publishes it again, marked `suspect`."""
        ...

    def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> "asyncio.Future[None]":
        """Put outcomes, and the endings of durable jobs, on the durable `headrace.outcomes` queue as one message. The
        future resolves when they are safe; only then may their jobs be acked. What is large travels as several
        messages; one ending with its answer may have 128 MiB (16 MiB on RabbitMQ 4), and fails with `RequestTooLarge`
        beyond, nothing having been sent."""
        ...

    def outcomes(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[OutcomeBatch]]:
        """Batches for the recorder, each one message as `record` sent it (at most 4 MiB, or one ending); unacked ones
        come again."""
        ...

    async def outcomes_waiting(self) -> int:
        """Messages with outcomes that no recorder has acked yet; on RabbitMQ without those in a recorder's hands."""
        ...

    def dead_letters(self, prefetch: int) -> AbstractAsyncContextManager[AsyncIterator[DeadDelivery]]:
        """What lands in the dead-letter queues of the providers that this process has declared or will declare, for
        the store; unacked ones come again. At most `prefetch` are unacked, on RabbitMQ one from each queue at least."""
        ...

    async def declare(self, providers: Sequence[str]) -> None:
        """Make the exchange, lanes, delay levels, dead letters and outcomes queue of these providers. Idempotent."""
        ...

    async def stats(self, lanes: Collection[str] | None = None) -> list[LaneStats]:
        """One entry for each declared lane; only for those of `lanes` (`shared.lane_reports.lane_id`) when given.
        RabbitMQ needs about half a millisecond for each."""
        ...

    async def ping(self) -> None:
        """Return when the queue answers; raise `Unavailable` when it does not."""
        ...


# --- EventLog -------------------------------------------------------------------------------------------------------


class Follower(Protocol):
    """Live events of one job, in order, none missing and none twice, ending after the last one."""

    def __aiter__(self) -> "AsyncIterator[Event]": ...

    async def next(self, timeout: float | None = None) -> Event:  # noqa: ASYNC109 - it ends the wait, not the follower
        """The next event. Raises `TimeoutError` when none comes within `timeout` seconds (nothing is lost by it), and
        `shared.errors.Unavailable` when the log lost events that it had promised (say, flushed)."""
        ...

    def fail(self, error: AppError) -> None:
        """The job will not run: `next` raises `error` once the events that came before are read."""
        ...

    def close(self) -> None:
        """Stop following. Safe to call twice."""
        ...


class EventLog(Protocol):
    @property
    def reply_channel(self) -> str:
        """This process's own channel; `Job.reply_to` of jobs that it publishes."""
        ...

    def follow(self, job_id: str) -> Follower:
        """Follow a job whose `reply_to` is this process's channel; synchronous, call it before publishing the job so
        that nothing can be missed. A follower that does not read has a bounded buffer (256 events) and then reads the
        log instead; it never blocks others."""
        ...

    def tail(self, job_id: str, after: int = 0) -> Follower:
        """Follow any job from its log, whichever process accepted it: the events with a sequence over `after`, those
        logged and those to come, live. Any number of tails may follow one job. Synchronous; a job whose log does not
        exist (yet) is waited for."""
        ...

    async def emit(self, reply_to: str, events: Sequence[Event]) -> None:
        """Append to the job's log (kept for `ttl` after the last event, 10 minutes by default) and ring the doorbell
        on `reply_to`, in one round trip. Events with the number 0 (STARTED, ACCEPTED) are logged only."""
        ...

    def mark_started(self, event: Event) -> "asyncio.Future[None]":
        """Log a note: a STARTED or an ACCEPTED event. The bytes are handed to the operating system before this returns,
        so that a process killed right afterwards has still left its note. Awaiting the future is optional."""
        ...

    async def claim(self, job_id: str, attempt: int, ttl: float) -> bool:
        """Whether the caller may begin this attempt: of all who ask within `ttl` seconds, one gets True. For jobs of
        which two copies may exist; the claim's holder makes it last with `mark_started`, or
        gives it up with a `ttl` of 0 when the job goes back to the queue."""
        ...

    async def replay(self, job_id: str, after: int = 0) -> list[Event]:
        """Logged events with a sequence over `after`, and all notes (number 0), in the order they were appended."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Tell every worker, now and for the next 10 minutes, that nobody wants this job."""
        ...

    async def is_cancelled(self, job_id: str, since: float) -> bool:
        """Whether `cancel` was called. Local knowledge answers when this process has listened since before `since`
        (seconds since the epoch), else the server is asked."""
        ...

    def on_cancel(self, job_id: str, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """While inside, `callback` is called, on the event loop, as soon as somebody cancels the job."""
        ...

    async def announce_change(self, subject: str) -> None:
        """Tell every process within a second that something changed which they may remember: `key:<hash>`,
        `user:<id>`, `team:<id>`, `member:<team>/<user>`, `budget:<id>`, `customer:<id>`, `models`. This process has
        heard of it when the call returns, and even when it raises."""
        ...

    def on_change(self, callback: Callable[[str], None]) -> None:
        """From now on `callback` is called, on the event loop, with the subject of each change, perhaps twice; with an
        empty one when changes may have been missed. It must be quick and must not raise."""
        ...

    async def announce(self, worker: str, ttl: float, report: bytes = b"") -> None:
        """The worker is alive, for `ttl` seconds more; 0 withdraws it. `report` is what it says of itself, at most
        64 KiB (`ValueError` beyond); it replaces the one before."""
        ...

    async def present(self, worker: str) -> bool:
        """Whether the worker's last announcement still holds."""
        ...

    async def reports(self) -> list[bytes]:
        """The reports of all workers whose announcement holds, at most 1,000, in no order; workers that gave none are
        left out."""
        ...

    async def pause_lane(self, lane: str, paused: bool) -> None:
        """An operator stops a lane (`shared.lane_reports.lane_id`), or lets it go on; kept until changed."""
        ...

    async def paused_lanes(self) -> frozenset[str]:
        """The lanes that are stopped now."""
        ...

    async def put_body(self, job_id: str, body: bytes, ttl: float) -> None:
        """Claim check: keep a large body for `ttl` seconds."""
        ...

    async def get_body(self, job_id: str) -> bytes | None: ...

    async def ping(self) -> None: ...
