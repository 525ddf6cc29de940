"""A model without a provider: an upstream of OpenAI's dialect inside the process.

It answers bytes, so that everything above it - SSE decoding, errors, limits, headers - runs as it does for a real one.
`simulated/echo` answers the last user message and `simulated/lorem` words; the body's `simulated` object (see `Script`)
sets text, pace, faults and limits. It comes from the deployment's `litellm_params` or from the request, key by key.
"""

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.clock import Clock, SystemClock
from shared.errors import UpstreamError
from shared.providers import Provider
from workers.providers.base import Call, Completion, StreamDecoder, UpstreamRequest
from workers.providers.openai import OpenAI, base_body, headers, set_stream_options, with_extra_body
from workers.simulated_plan import BadScript, Plan, Script, plan

SCHEME = "simulated://"

_MAX_KEYS = 1024  # buckets kept; the one that was used longest ago goes first

_ERROR_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
}

Sleep = Callable[[float], Awaitable[None]]


class Simulated:
    """The adapter: OpenAI's, aimed at `respond`."""

    def __init__(self, row: Provider) -> None:
        self._openai = OpenAI(row)

    def request(self, call: Call) -> UpstreamRequest:
        body = base_body(call)
        set_stream_options(body, accepted=True)
        configured = call.deployment.params.get("simulated")
        asked = call.body.get("simulated")
        if isinstance(configured, dict) and isinstance(asked, dict):
            body["simulated"] = {**configured, **asked}
        reply = call.body.get("mock_response", call.deployment.params.get("mock_response"))
        if reply is not None:
            body.pop("mock_response", None)
            script = body.get("simulated")
            body["simulated"] = {**(script if isinstance(script, dict) else {}), "reply": str(reply)}
        return UpstreamRequest(
            url=SCHEME + "chat/completions",
            headers=headers(call.deployment),
            body=orjson.dumps(with_extra_body(body, call)),
        )

    def completion(self, call: Call, body: bytes) -> Completion:
        return self._openai.completion(call, body)

    def decoder(self, call: Call) -> StreamDecoder:
        return self._openai.decoder(call)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return self._openai.error(status, headers, body)


async def respond(request: UpstreamRequest) -> "SimulatedResponse":
    """Answer one request. Limits are kept per key and model for the life of the process."""
    return _MODEL.respond(request)


@dataclass(frozen=True, slots=True)
class SimulatedResponse:
    status: int
    headers: dict[str, str]
    """Lower-case names."""
    _frames: Iterator[tuple[float, bytes]]
    """Seconds to wait before it, and what is sent. They are made as they are read, and read once."""
    _sleep: Sleep = field(repr=False)

    async def read(self) -> bytes:
        return b"".join([frame async for frame in self.iter_bytes()])

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        """Frames at their pace. Every wait can be cancelled; at pace 0 the event loop still gets its turn."""
        for wait, frame in self._frames:
            await self._sleep(wait)
            yield frame


class Model:
    """The simulated upstream: plans the answer, counts it against the key's limits, and paces it out."""

    def __init__(self, clock: Clock, sleep: Sleep = asyncio.sleep, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._sleep = sleep
        self._random = rng or random.Random()
        self._limits = _Limits(clock)

    def respond(self, request: UpstreamRequest) -> SimulatedResponse:
        try:
            body: dict[str, Any] = orjson.loads(request.body)
            script = Script.parse(body.get("simulated") or {})
            answer = plan(body, script)
        except (BadScript, orjson.JSONDecodeError) as exc:
            return self._error(400, {}, str(exc))
        key = (request.headers.get("Authorization", ""), answer.model)
        limits, wait = self._limits.take(key, script, answer.usage["total_tokens"])
        if wait > 0:
            hint = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
            return self._error(429, limits | hint, f"Rate limit reached: try again in {wait:.3f}s.")
        if script.mock_error is not None:
            status, code = script.mock_error
            return self._error(status, limits, f"Simulated error {status}.", code)
        fails = self._random.random() < script.failure_rate
        if fails and script.error_after is None:
            hint = {} if script.retry_after is None else {"retry-after": f"{script.retry_after:g}"}
            status = script.error_status or 500
            return self._error(status, limits | hint, f"Simulated error {status}.")
        return self._answer(body, script, answer, limits, cut=script.error_after if fails else None)

    def _answer(
        self, body: dict[str, Any], script: Script, answer: Plan, limits: dict[str, str], *, cut: int | None
    ) -> SimulatedResponse:
        envelope = {
            "id": f"chatcmpl-{self._random.getrandbits(96):024x}",
            "created": int(self._clock.now()),
            "model": answer.model,
            "system_fingerprint": "fp_simulated",
        }
        call_id = f"call_{self._random.getrandbits(96):024x}"
        waits = [self._vary(script.latency, script.jitter)]
        waits += [self._vary(script.pace, script.jitter) for _ in answer.pieces[1:]]
        if body.get("stream"):
            kind = "text/event-stream; charset=utf-8"
            options = body.get("stream_options")
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            frames = _stream(answer, envelope, call_id, waits, usage=usage, cut=cut)
        else:
            kind = "application/json"
            whole = orjson.dumps(_completion(answer, envelope, call_id))
            sent = whole if cut is None else whole[: len(whole) // 2]
            frames = iter([(sum(waits if cut is None else waits[:cut]), sent)])
        request_id = {"x-request-id": f"req_{self._random.getrandbits(96):024x}"}
        return SimulatedResponse(200, {"content-type": kind, **request_id, **limits}, frames, self._sleep)

    def _vary(self, seconds: float, jitter: float) -> float:
        return seconds * (1 + self._random.uniform(-jitter, jitter)) if jitter else seconds

    def _error(self, status: int, headers: dict[str, str], message: str, code: str | None = None) -> SimulatedResponse:
        kind, usual_code = _ERROR_TYPES.get(
            status, ("server_error" if status >= 500 else "invalid_request_error", None)
        )
        error = {"message": message, "type": kind, "param": None, "code": code or usual_code}
        headers = {"content-type": "application/json", **headers}
        return SimulatedResponse(status, headers, iter([(0.0, orjson.dumps({"error": error}))]), self._sleep)


def _completion(answer: Plan, envelope: dict[str, Any], call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool is not None:
        function = {"name": answer.tool, "arguments": answer.text}
        message |= {"content": None, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
    choice = {"message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {
        **envelope,
        "object": "chat.completion",
        "choices": [{"index": index, **choice} for index in range(answer.choices)],
        "usage": answer.usage,
    }


def _stream(
    answer: Plan, envelope: dict[str, Any], call_id: str, waits: list[float], *, usage: bool, cut: int | None
) -> Iterator[tuple[float, bytes]]:
    """Role, tokens, finish, usage if asked for, `[DONE]`: as OpenAI sends them, one event a frame. The choices take
    turns token by token. A cut stream just ends."""
    envelope = {**envelope, "object": "chat.completion.chunk"} | ({"usage": None} if usage else {})

    def frames(wait: float, delta: dict[str, Any], finish: str | None = None) -> Iterator[tuple[float, bytes]]:
        for index in range(answer.choices):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield (0.0 if index else wait), _frame({**envelope, "choices": [choice]})

    opening: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if answer.tool is not None:
        function = {"name": answer.tool, "arguments": ""}
        opening["content"] = None
        opening["tool_calls"] = [{"index": 0, "id": call_id, "type": "function", "function": function}]
    yield from frames(waits[0], opening)
    for position, piece in enumerate(answer.pieces):
        if position == cut:
            return
        delta: dict[str, Any] = {"content": piece}
        if answer.tool is not None:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        yield from frames(waits[position] if position else 0.0, delta)
    if cut is not None:
        return
    yield from frames(0.0, {}, answer.finish_reason)
    if usage:
        yield 0.0, _frame({**envelope, "choices": [], "usage": answer.usage})
    yield 0.0, b"data: [DONE]\n\n"


def _frame(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


@dataclass(slots=True)
class _Bucket:
    balance: float
    at: float


class _Limits:
    """Token buckets that hold one minute's worth, as providers' do, and say so in their headers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()

    def take(self, key: tuple[str, str], script: Script, tokens: int) -> tuple[dict[str, str], float]:
        """Headers, and the seconds to wait; nothing is taken unless they are 0."""
        asked = [
            (name, per_minute, min(cost, per_minute), self._refilled((*key, name), per_minute))
            for name, per_minute, cost in (("requests", script.rpm, 1.0), ("tokens", script.tpm, float(tokens)))
            if per_minute is not None
        ]
        wait = max(
            ((cost - bucket.balance) * 60 / per_minute for _, per_minute, cost, bucket in asked),
            default=0.0,
        )
        wait = wait if wait > 1e-9 else 0.0  # what is left of a refill after rounding
        headers: dict[str, str] = {}
        for name, per_minute, cost, bucket in asked:
            if not wait:
                bucket.balance = max(0.0, bucket.balance - cost)
            reset = (per_minute - bucket.balance) * 60 / per_minute
            headers[f"x-ratelimit-limit-{name}"] = f"{per_minute:.0f}"
            headers[f"x-ratelimit-remaining-{name}"] = str(int(bucket.balance))
            headers[f"x-ratelimit-reset-{name}"] = f"{reset:.3f}s"
        return headers, wait

    def _refilled(self, key: tuple[str, ...], per_minute: float) -> _Bucket:
        now = self._clock.monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(per_minute, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MAX_KEYS:
            self._buckets.popitem(last=False)
        bucket.balance = min(per_minute, bucket.balance + (now - bucket.at) * per_minute / 60)
        bucket.at = now
        return bucket


_MODEL = Model(SystemClock())
