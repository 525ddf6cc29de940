"""One call to a provider: translate, send, turn the answer into events, know what it cost."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from broker.interfaces import EventLog
from shared import token_estimates
from shared.catalog import Deployment
from shared.clock import Clock
from shared.errors import AppError, UpstreamBroken, UpstreamTimeout
from shared.events import Event, Kind
from shared.jobs import Job, Usage
from shared.turns import Turns
from workers import hints
from workers.line import standing
from workers.providers.base import Adapter, Call, Chunk, StreamDecoder
from workers.sse import SseDecoder
from workers.transcript import Transcript
from workers.upstream import Response, Upstream

DEFAULT_STREAM_TIMEOUT = 120.0  # seconds to the first content and between contents; reasoning models think long
_SLACK = 1.25  # a stream may be silent for up to so many times its limit
_DRAIN_AFTER_FINISH = 2.0  # seconds to wait for usage and the terminator once the finish reason is there
_MAX_HELD = 64  # chunks held back before the first content; lifecycle frames, never more than a few
_SECRET_HEADERS = frozenset({"set-cookie", "authorization", "x-api-key", "x-goog-api-key"})
_MAX_HEADERS = 50
_ANSWERS = 4  # that are worked on in one turn of the event loop; a millisecond or two


@dataclass(slots=True)
class Attempt:
    """What is known of an attempt while it runs; after a failure, what is known so far."""

    job: Job
    deployment: Deployment
    queue_wait: float
    """Seconds."""
    started: float
    """Monotonic seconds."""
    started_at: float
    """Seconds since the epoch."""
    usage: Usage | None = None
    ttft: float | None = None
    characters: int = 0
    response_id: str = ""
    """The answer's `id`, as the client sees it."""
    seq: int = 0
    """Events delivered; after the first one a silent restart is no longer possible."""
    headers: dict[str, str] = field(default_factory=dict)
    """The provider's response headers, names in lower case."""
    dispatched: bool = False
    """The provider may have seen it."""
    transcript: Transcript | None = None
    """Of a durable stream: takes down what is streamed."""

    @property
    def committed(self) -> bool:
        return self.seq > 0

    def best_usage(self) -> Usage:
        """The provider's figures, else an estimate that says so."""
        if self.usage is not None:
            return self.usage
        return Usage(
            input=token_estimates.prompt_tokens(self.job.body),
            output=token_estimates.output_tokens(self.characters),
            estimated=True,
        )

    def served(self) -> dict[str, object]:
        """What the api turns into response headers."""
        return {
            "deployment": self.deployment.id,
            "group": self.deployment.group,
            "provider": self.deployment.provider,
            "attempt": self.job.attempt,
            "leg": self.job.leg,
            "queue_wait": self.queue_wait,
            "ttft": self.ttft,
            "headers": self.headers,
        }


class Caller:
    """Performs attempts."""

    def __init__(self, upstream: Upstream, log: EventLog, clock: Clock, worker_id: str) -> None:
        self._upstream = upstream
        self._log = log
        self._clock = clock
        self._worker_id = worker_id
        self._turns = Turns(_ANSWERS)

    async def perform(self, attempt: Attempt, adapter: Adapter, call: Call) -> bytes:
        """The answer's body; empty for a stream, whose chunks have been emitted on the way.

        Raises `AppError` of the class that says what to do next.
        """
        request = adapter.request(call)
        # A provider's support, or a fake one in a test, can tell attempts apart by these.
        request.headers["x-headrace-job-id"] = attempt.job.id
        request.headers["x-headrace-attempt"] = str(attempt.job.attempt)
        limit = max(min(call.deployment.timeout, attempt.job.deadline - self._clock.now()), 0.001)
        try:
            async with asyncio.timeout(limit) as total:
                end = total.when()
                if call.stream:  # silence counts from here; once there is a head, `_read_stream` goes on with it
                    total.reschedule(asyncio.get_running_loop().time() + min(limit, _patience(attempt)))
                attempt.dispatched = True
                async with self._upstream.send(request, lambda: self._note_start(attempt)) as response:
                    if call.stream:
                        total.reschedule(end)
                    # First jobs are few, and others' answers shall not delay them.
                    await self._turns.wait(attempt.job.tenant, first=standing(attempt.job).first)
                    attempt.headers = _public(response.headers)
                    if response.status >= 300:
                        raise await self._error(adapter, response)
                    if call.stream:
                        await self._stream(attempt, call, adapter.decoder(call), response)
                        return b""
                    return await self._whole(attempt, adapter, call, response)
        except TimeoutError as exc:
            raise UpstreamTimeout(_timeout_message(attempt, limit)) from exc
        except AppError as error:
            if error.retry_after is None and error.retryable:
                error.retry_after = hints.retry_after(attempt.headers, self._clock.now())
            raise

    def _note_start(self, attempt: Attempt) -> None:
        """Leave a note for whoever finds this job, should this process be killed from here on. Made at the last moment,
        for every note without an end becomes a row on the bill."""
        self._log.mark_started(
            Event(
                attempt.job.id,
                0,
                Kind.STARTED,
                meta={
                    "attempt": attempt.job.attempt,
                    "deployment": attempt.deployment.id,
                    "worker": self._worker_id,
                    "at": attempt.started_at,
                    "queue_wait": attempt.queue_wait,
                    "key": attempt.job.key,  # whose it is, for who asks any api process about the job
                },
            )
        )

    async def _whole(self, attempt: Attempt, adapter: Adapter, call: Call, response: Response) -> bytes:
        completion = adapter.completion(call, await response.read())
        attempt.usage = completion.usage
        attempt.response_id = completion.id
        attempt.characters = len(completion.body) if completion.usage is not None else _written(completion.body)
        attempt.ttft = self._clock.monotonic() - attempt.started
        return completion.body

    async def _error(self, adapter: Adapter, response: Response) -> AppError:
        if response.status < 400:
            return UpstreamBroken(f"The provider answered with a redirect ({response.status}).", status=response.status)
        return adapter.error(response.status, response.headers, await response.read())

    async def _stream(self, attempt: Attempt, call: Call, decoder: StreamDecoder, response: Response) -> None:
        relay = _StreamRelay(attempt, self._log, self._clock)
        try:
            await self._read_stream(relay, decoder, response)
        except (TimeoutError, UpstreamBroken):
            if not relay.finished:
                raise
            # The answer is whole; only its usage or its terminator is missing.
        await relay.forward(list(decoder.close()))
        if call.include_usage and attempt.usage is None:
            await relay.forward([_estimated_usage(attempt, call)])

    async def _read_stream(self, relay: "_StreamRelay", decoder: StreamDecoder, response: Response) -> None:
        """Read to the dialect's end. Only content resets the limit on silence; pings and comments do not, and neither
        does the answer's head, which some providers send at once and some with the first token."""
        events = SseDecoder()
        patience = _patience(relay.attempt)
        now = asyncio.get_running_loop().time
        async with asyncio.timeout(patience - (self._clock.monotonic() - relay.attempt.started)) as silence:
            async for data in response.iter_bytes():
                chunks = [chunk for event in events.feed(data) for chunk in decoder.feed(event)]
                if any(chunk.content for chunk in chunks):
                    _prolong(silence, now(), patience)
                await relay.forward(chunks)
                if decoder.done:
                    return
                if relay.finished:
                    silence.reschedule(now() + _DRAIN_AFTER_FINISH)
            await relay.forward([chunk for event in events.close() for chunk in decoder.feed(event)])


class _StreamRelay:
    """Holds chunks back until the first content, so that any fault before it can still be retried in silence."""

    def __init__(self, attempt: Attempt, log: EventLog, clock: Clock) -> None:
        self.attempt = attempt
        self._log = log
        self._clock = clock
        self._held: list[bytes] = []
        self.finished = False

    async def forward(self, chunks: list[Chunk]) -> None:
        """Emit what is in `chunks`, as one event: what arrived together travels together."""
        attempt = self.attempt
        for chunk in chunks:
            if chunk.data:
                self._held.append(chunk.data)
            if chunk.usage is not None:
                attempt.usage = chunk.usage
            attempt.characters += chunk.text
            self.finished = self.finished or chunk.finish
            if attempt.ttft is None and chunk.content:
                attempt.ttft = self._clock.monotonic() - attempt.started
        ready = attempt.committed or self.finished or attempt.ttft is not None
        if not self._held or not ready:
            if len(self._held) > _MAX_HELD:
                raise UpstreamBroken(f"The stream began with over {_MAX_HELD} events without content.")
            return
        meta = None
        if not attempt.committed:
            attempt.response_id = orjson.loads(self._held[0])["id"]
            meta = attempt.served()
        frames = b"".join([b"data: %b\n\n" % data for data in self._held])
        self._held.clear()
        attempt.seq += 1
        event = Event(attempt.job.id, attempt.seq, Kind.CHUNK, frames, meta)
        if attempt.transcript is not None:
            attempt.transcript.add(event)
        await self._log.emit(attempt.job.reply_to, [event])


def _estimated_usage(attempt: Attempt, call: Call) -> Chunk:
    """The usage chunk that the client asked for and the provider did not send."""
    usage = attempt.best_usage()
    chunk = {
        "id": attempt.response_id,
        "object": "chat.completion.chunk",
        "created": call.created,
        "model": call.deployment.model,
        "choices": [],
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
        },
    }
    return Chunk(orjson.dumps(chunk))


def _prolong(silence: asyncio.Timeout, now: float, patience: float) -> None:
    """The silence begins anew. Setting a timer costs more than the rest of a token's way through here, so it is set a
    quarter longer than it must be, and again only when it would end too soon."""
    end = silence.when()
    if end is None or end < now + patience:
        silence.reschedule(now + patience * _SLACK)


def _patience(attempt: Attempt) -> float:
    """Seconds that a stream may be without content."""
    return attempt.deployment.stream_timeout or DEFAULT_STREAM_TIMEOUT


def _written(body: bytes) -> int:
    """Characters that the model wrote, for the estimate that stands in for a usage that the vendor did not send."""
    messages = [choice.get("message") or {} for choice in orjson.loads(body).get("choices") or ()]
    texts = [message.get(name) for message in messages for name in ("content", "reasoning_content", "refusal")]
    texts += [
        (call.get("function") or {}).get("arguments")
        for message in messages
        for call in message.get("tool_calls") or ()
    ]
    return max(sum(len(text) for text in texts if isinstance(text, str)), 1)


def _timeout_message(attempt: Attempt, limit: float) -> str:
    if attempt.committed:
        return "The provider's stream stalled."
    if attempt.job.stream:
        patience = min(_patience(attempt), limit)
        return f"APITimeoutError - Request timed out. No content within {patience:g} s."
    return f"APITimeoutError - Request timed out. No answer within {limit:g} s."


def _public(headers: Mapping[str, str]) -> dict[str, str]:
    public = {name.lower(): value for name, value in headers.items()}
    for name in _SECRET_HEADERS.intersection(public):
        del public[name]
    return public if len(public) <= _MAX_HEADERS else dict(list(public.items())[:_MAX_HEADERS])
