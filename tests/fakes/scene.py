"""One attempt at a fake provider and the moves that every answer is made of."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.fakes.dialects import Ask, Dialect, Reply, Script
from tests.fakes.wire import Exchange


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. These are Failover Bench's fast profile; a test with short timeouts of its own may shorten them."""

    retry_after: int = 2
    first_token: float = 3.0
    """S07's pause between the head and the first event."""
    stall: float = 4.0
    """S09's pause after word 20."""
    silence: float = 15.0
    """S06's, and how long F07's comments and F20's open sockets go on."""
    outage: float = 6.0
    """How long S15 fails after the first request."""
    pace: float = 0.005
    """Between two words."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One attempt, and all that an answer to it needs."""

    exchange: Exchange
    dialect: Dialect
    ask: Ask
    reply: Reply
    script: Script
    nth: int
    """Attempts at this model so far, this one included."""
    since_first: float
    """Seconds since the first attempt at this model."""
    variant: str
    """What follows the tag, lower-case: `b` in `fb-f14-b`."""
    timings: Timings
    headers: dict[str, str]
    """The provider's rate-limit headers for this answer."""
    bill: list[Reply] = field(default_factory=list)
    """What was answered in whole."""

    async def healthy(self, pace: float | None = None) -> None:
        """The whole answer, as it should be."""
        if not self.ask.stream:
            await self.exchange.json(200, self.script.body, self.headers)
        else:
            await self.opened()
            await self.words(self.script.words, pace)
            await self.ended()
        self.bill.append(self.reply)

    async def opened(self) -> None:
        await self.exchange.stream_head(self.headers)
        await self.send(self.script.prelude)

    async def words(self, words: Sequence[bytes], pace: float | None = None) -> None:
        seconds = self.timings.pace if pace is None else pace
        for word in words:
            await self.exchange.chunk(word)
            if seconds:
                await asyncio.sleep(seconds)

    async def ended(self) -> None:
        await self.send(self.script.finish + self.script.usage + self.script.terminator)
        await self.exchange.end_chunks()

    async def send(self, events: Sequence[bytes]) -> None:
        for each in events:
            await self.exchange.chunk(each)

    async def error(
        self, status: int, kind: str, code: str | None = None, message: str = "The fake provider fails on request.",
        param: str | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        payload = self.dialect.error(status, kind, code, message, param)
        await self.exchange.json(status, payload, {**self.headers, **(headers or {})})

    async def rate_limited(self, headers: dict[str, str] | None = None) -> None:
        message = "Rate limit reached for requests."
        await self.error(429, "rate_limit_error", "rate_limit_exceeded", message, headers=headers)

    async def overloaded(self, headers: dict[str, str] | None = None) -> None:
        message = "The server is overloaded. Please try again later."
        await self.error(503, "overloaded_error", "overloaded", message, headers=headers)

    async def half_a_body(self, then_silent: float = 0.0) -> None:
        """A plain answer's twin of a cut or stalled stream: the full length is promised, and 60 % of it comes."""
        body = json.dumps(self.script.body).encode()
        part = b"" if then_silent else body[: len(body) * 6 // 10]
        await self.exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}, part)
        await asyncio.sleep(then_silent)
        self.exchange.close()
