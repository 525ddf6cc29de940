"""Every provider that Headrace speaks to, faked on loopback at the level of bytes.

In a test:

    async with FakeUpstream() as upstream:
        ... api_base = upstream.url ...
        assert upstream.attempts("gpt-4o-mini") == 1

As a process that outlives the broker under test, with one JSON line for each attempt:

    python -m tests.fakes.upstream --port 9000 --log attempts.jsonl
    python -m tests.fakes.upstream --log attempts.jsonl --summary
"""

import argparse
import asyncio
import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self, TextIO

from tests.fakes import failover_bench, faults
from tests.fakes.dialects import Anthropic, Ask, Dialect, Gemini, OpenAI, Reply
from tests.fakes.quota import Quota, Verdict
from tests.fakes.scene import Scene, Timings
from tests.fakes.wire import Exchange, Request, Server

ANSWER = (
    "A headrace brings the water of a river to the wheel of a mill at just the rate that the wheel can take and when "
    "more water comes than the mill can use a gate holds it back until there is room so that nothing is lost and "
    "every drop that came down from the hills does its own work"
)
"""Exactly 60 words. Complete means equal to this."""

_FAULTS = {**failover_bench.FAULTS, **faults.FAULTS}
_PREFIX = "fb-"


@dataclass(slots=True)
class Attempt:
    """One request that arrived."""

    at: float
    """Seconds since the epoch."""
    path: str
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: dict[str, Any]
    model: str
    key: str = field(repr=False)
    """The provider key that was sent, whichever header carried it."""
    connection: int
    job_id: str = ""
    attempt: str = ""
    status: int = 0
    """What was answered; 0 when nothing was."""
    ended_at: float | None = None
    """When the answer was complete, or broken off on purpose."""
    hung_up_at: float | None = None
    """When the client closed the connection with the answer still under way; None when it stayed."""
    billed: tuple[int, int] | None = None
    """Tokens of the prompt and of an answer that was sent in whole."""

    def to_line(self) -> str:
        """For the log: everything that tells attempts apart, and no key."""
        prompt = _prompt(self.body)
        names = ("at", "path", "model", "job_id", "attempt", "connection")
        return json.dumps({**{name: getattr(self, name) for name in names}, "prompt": prompt[:200]})

    def to_bill(self) -> str:
        """For the other log: how it ended."""
        names = ("job_id", "attempt", "model", "at", "status", "billed")
        until = self.ended_at or self.hung_up_at or self.at
        more = {"until": until, "hung_up": self.hung_up_at is not None, "prompt": _prompt(self.body)[:200]}
        return json.dumps({name: getattr(self, name) for name in names} | more)


class FakeUpstream:
    """OpenAI (`/v1/chat/completions`), Anthropic (`/v1/messages`) and Gemini (`/v1beta/models/...`) at one address."""

    def __init__(
        self,
        *,
        latency: float = 0.0,
        pace: float = 0.0,
        timings: Timings | None = None,
        quotas: Mapping[str, Quota] | None = None,
        log: Path | None = None,
        bills: Path | None = None,
    ) -> None:
        """`latency` is seconds before any answer, `pace` seconds between the words of models without a fault; models
        with one take theirs from `timings`. `quotas` belong to keys; the quota of `*` is shared by all other keys."""
        self.text = ANSWER
        self.latency = latency
        self.pace = pace
        self.timings = timings or Timings()
        self.quotas = dict(quotas or {})
        self.gate = asyncio.Event()
        """No answer begins while it is clear."""
        self.gate.set()
        self.dead_keys: set[str] = set()
        """Keys that are answered 401."""
        self.cache_read = 0
        """Prompt tokens that every answer reports as read from a cache; `cache_write` likewise."""
        self.cache_write = 0
        self.requests: list[Attempt] = []
        self.port = 0
        self._arrived = asyncio.Condition()
        self._server = Server(self._handle)
        self._log_path, self._bills_path = log, bills
        self._log: TextIO | None = None
        self._bills: TextIO | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._server.connections

    def attempts(self, model: str) -> int:
        return sum(1 for each in self.requests if each.model == model)

    def reset(self) -> None:
        """Forget all attempts, so that "first" means first again."""
        self.requests.clear()

    async def arrived(self, count: int) -> None:
        """Wait until so many attempts have arrived."""
        await self._until(lambda: len(self.requests) >= count)

    async def ended(self, attempt: Attempt) -> None:
        """Wait until an attempt was answered, or its client hung up."""
        await self._until(lambda: attempt.ended_at is not None or attempt.hung_up_at is not None)

    async def start(self, port: int = 0) -> None:
        if self._log_path is not None:
            self._log = self._log_path.open("a", buffering=1)  # a line is on its way once written
        if self._bills_path is not None:
            self._bills = self._bills_path.open("a", buffering=1)
        self.port = await self._server.start(port)

    async def stop(self) -> None:
        await self._server.stop()
        for each in (self._log, self._bills):
            if each is not None:
                each.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._arrived:
            await self._arrived.wait_for(condition)

    async def _handle(self, exchange: Exchange) -> None:
        dialect = _dialect(exchange.request.path)
        if dialect is None or exchange.request.method != "POST":
            await exchange.json(404, {"error": {"message": "no such path", "type": "invalid_request_error"}})
            return
        body = json.loads(exchange.request.body)
        ask = dialect.ask(exchange.request.path, body)
        attempt = _attempt(exchange.request, body, ask.model)
        await self._note(attempt)
        try:
            await self._answer(exchange, dialect, ask, attempt)
            attempt.ended_at = time()
        except (asyncio.CancelledError, ConnectionError):
            attempt.hung_up_at = time()
            raise
        finally:
            attempt.status = exchange.status
            if self._bills is not None:
                self._bills.write(attempt.to_bill() + "\n")
            async with self._arrived:
                self._arrived.notify_all()

    async def _note(self, attempt: Attempt) -> None:
        self.requests.append(attempt)
        if self._log is not None:
            self._log.write(attempt.to_line() + "\n")
        async with self._arrived:
            self._arrived.notify_all()

    async def _answer(self, exchange: Exchange, dialect: Dialect, ask: Ask, attempt: Attempt) -> None:
        await self.gate.wait()
        await asyncio.sleep(self.latency)
        headers: dict[str, str] = {}
        quota = self.quotas.get(attempt.key) or self.quotas.get("*")
        if attempt.key in self.dead_keys:
            error = dialect.error(401, "authentication_error", "invalid_api_key", "The key is not valid.")
            await exchange.json(401, error)
            return
        if quota is not None:
            verdict = quota.take()
            headers = _limit_headers(dialect, quota, verdict)
            if not verdict.allowed:
                await _refuse(exchange, dialect, verdict, headers)
                return
        for reply in await self._play(exchange, dialect, ask, headers):
            attempt.billed = (reply.prompt_tokens, reply.output_tokens)

    async def _play(self, exchange: Exchange, dialect: Dialect, ask: Ask, headers: dict[str, str]) -> Sequence[Reply]:
        """What was answered in whole."""
        same = [each for each in self.requests if each.model == ask.model]
        name = ask.model.rpartition("/")[2]
        tag, _, variant = name.removeprefix(_PREFIX).partition("-")
        reply = self._reply(ask)
        scene = Scene(
            exchange=exchange,
            dialect=dialect,
            ask=ask,
            reply=reply,
            script=dialect.script(reply),
            nth=len(same),
            since_first=time() - same[0].at,
            variant=variant.lower() or "a",
            timings=self.timings,
            headers=headers,
        )
        if not name.startswith(_PREFIX):
            await scene.healthy(self.pace)
        elif (fault := _FAULTS.get(tag.lower())) is not None:
            await fault(scene)
        else:
            await scene.error(404, "invalid_request_error", "model_not_found", f"The model {name!r} does not exist.")
        return scene.bill

    def _reply(self, ask: Ask) -> Reply:
        role, last = ask.turns[-1] if ask.turns else ("user", "")
        prompt_tokens = sum(len(text.split()) + 4 for _, text in ask.turns) + self.cache_read + self.cache_write
        text = self.text
        # A last message by the assistant is a prefill: the answer goes on where it stops.
        if role in ("assistant", "model") and last.strip() and text.startswith(last.strip()):
            text = text[len(last.strip()) :]
        tool, words = "", _deltas(text)
        if ask.tools and (ask.forced_tool or "use the tool" in last.lower()):
            tool, words = ask.tools[0]["name"], _pieces(json.dumps(_arguments(ask.tools[0].get("parameters") or {})))
        return Reply(
            model=ask.model,
            words=words,
            prompt_tokens=prompt_tokens,
            tool=tool,
            thinking=("Let me", " think.") if ask.thinks else (),
            include_usage=ask.include_usage,
            cache_read=self.cache_read,
            cache_write=self.cache_write,
        )


def _dialect(path: str) -> Dialect | None:
    if path.endswith("/chat/completions"):
        return OpenAI()
    if path.endswith("/messages"):
        return Anthropic()
    if path.endswith((":generateContent", ":streamGenerateContent")):
        return Gemini()
    return None


def _attempt(request: Request, body: dict[str, Any], model: str) -> Attempt:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return Attempt(
        at=time(),
        path=request.target,
        headers=request.headers,
        body=body,
        model=model,
        key=request.headers.get("x-api-key") or request.headers.get("x-goog-api-key") or bearer,
        connection=request.connection,
        job_id=request.headers.get("x-headrace-job-id", ""),
        attempt=request.headers.get("x-headrace-attempt", ""),
    )


async def _refuse(exchange: Exchange, dialect: Dialect, verdict: Verdict, headers: Mapping[str, str]) -> None:
    error = dialect.error(429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached for requests.")
    if isinstance(dialect, Gemini):  # says in the body how long to wait
        hint = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{verdict.wait:.3f}s"}
        error["error"]["details"] = [hint]
        await exchange.json(429, error)
        return
    await exchange.json(429, error, {**headers, "Retry-After": str(math.ceil(verdict.wait))})


def _limit_headers(dialect: Dialect, quota: Quota, verdict: Verdict) -> dict[str, str]:
    limit, remaining = str(quota.requests), str(verdict.remaining)
    if isinstance(dialect, OpenAI):
        return {
            "x-ratelimit-limit-requests": limit,
            "x-ratelimit-remaining-requests": remaining,
            "x-ratelimit-reset-requests": f"{verdict.wait:.3f}s",
        }
    if isinstance(dialect, Anthropic):
        return {
            "anthropic-ratelimit-requests-limit": limit,
            "anthropic-ratelimit-requests-remaining": remaining,
            "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(time() + verdict.wait, UTC).isoformat(),
        }
    return {}  # Google sends none


def _deltas(text: str) -> tuple[str, ...]:
    """Words; each but the first brings the space before it."""
    first, *rest = text.split(" ")
    return (first, *(f" {word}" for word in rest)) if first else tuple(f" {word}" for word in rest)


def _pieces(text: str, size: int = 8) -> tuple[str, ...]:
    return tuple(text[at : at + size] for at in range(0, len(text), size))


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Something of the right type for every property."""
    samples = {"integer": 7, "number": 1.5, "boolean": True, "array": [], "object": {}}
    properties: dict[str, dict[str, Any]] = schema.get("properties") or {}
    return {
        name: (each.get("enum") or [samples.get(str(each.get("type")).lower(), "Paris")])[0]
        for name, each in properties.items()
    }


def _prompt(body: dict[str, Any]) -> str:
    turns = body.get("messages") or body.get("contents") or [{}]
    content = turns[-1].get("content") or turns[-1].get("parts") or ""
    return content if isinstance(content, str) else json.dumps(content)


def summary(log: Path) -> dict[str, Any]:
    """What a log says: attempts in all, by model, and the prompts that were sent more than once."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    prompts = Counter(line["prompt"] for line in lines)
    return {
        "attempts": len(lines),
        "models": Counter(line["model"] for line in lines),
        "prompts": len(prompts),
        "repeated": {prompt: count for prompt, count in prompts.items() if count > 1},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fakes.upstream", description="A fake of every provider on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, help="append one JSON line for each attempt")
    parser.add_argument("--bills", type=Path, help="append one JSON line for each answer, with its tokens")
    parser.add_argument("--summary", action="store_true", help="print what the log says, and end")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between two words of a stream")
    parser.add_argument("--rpm", type=int, help="requests a minute allowed to all keys together")
    options = parser.parse_args()
    if options.summary:
        print(json.dumps(summary(options.log), indent=2))
        return
    asyncio.run(_serve_until_signal(options))


async def _serve_until_signal(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    quotas = {"*": Quota(options.rpm)} if options.rpm else None
    upstream = FakeUpstream(
        latency=options.latency, pace=options.pace, quotas=quotas, log=options.log, bills=options.bills
    )
    await upstream.start(options.port)
    print(f"listening on {upstream.url}", flush=True)
    await ended.wait()
    await upstream.stop()


if __name__ == "__main__":
    main()
