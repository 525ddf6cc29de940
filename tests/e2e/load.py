"""A bounded load on one or more apis. It retries nothing and remembers how every request ended."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp

from tests.e2e.deployment import MASTER_KEY


class End(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"  # a whole answer: JSON with a finish reason, or a stream up to its [DONE]
    REFUSED = "refused"  # a status other than 200
    IN_BAND = "in-band"  # a stream that ended with an error event and without [DONE]
    DROPPED = "dropped"  # anything else: a broken connection, a stream that just stops, no end before the time limit


@dataclass(frozen=True, slots=True)
class Answer:
    number: int
    """The request's place in the load."""
    end: End
    seconds: float
    job_id: str = ""
    detail: str = ""
    """The text of a whole answer; else the status and the error, or what broke."""


@dataclass
class Load:
    """Sends `bodies` to `urls` in turn, `concurrency` at a time. `answers` grows while `run` runs."""

    urls: Sequence[str]
    concurrency: int
    time_limit: float = 120.0
    """Seconds for one request; well over any deadline, so that reaching it is a hang."""
    pause: float = 0.0
    """Seconds that a client rests between two requests: with it the load has a rate."""
    answers: list[Answer] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first answer has a head: a stream's has one with its first token."""

    async def run(self, bodies: Iterable[Mapping[str, Any]]) -> list[Answer]:
        """Every answer, in the order in which they ended. Stops early, with what is under way, after `stop`."""
        self._next = enumerate(bodies)
        self._stopped = False
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, headers=_HEADERS) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self.concurrency):
                group.create_task(self._client(session))
        return self.answers

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    async def _client(self, session: aiohttp.ClientSession) -> None:
        for number, body in self._next:
            if self._stopped:
                return
            self.answers.append(await self._ask(session, number, body))
            await asyncio.sleep(self.pause)

    async def _ask(self, session: aiohttp.ClientSession, number: int, body: Mapping[str, Any]) -> Answer:
        started = time.monotonic()
        job_id = ""
        try:
            async with (
                asyncio.timeout(self.time_limit),
                session.post(f"{self.urls[number % len(self.urls)]}/v1/chat/completions", json=body) as response,
            ):
                self.opened.set()
                job_id = response.headers.get("x-headrace-job-id", "")
                end, detail = await _read(response, bool(body.get("stream")))
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            end, detail = End.DROPPED, repr(error)
        return Answer(number, end, time.monotonic() - started, job_id, detail)


def tally(answers: Sequence[Answer]) -> dict[str, int]:
    """How many requests ended in each way."""
    counts = Counter(answer.end for answer in answers)
    return {end.value: counts[end] for end in End}


def failures(answers: Sequence[Answer]) -> Counter[str]:
    """The errors, without what differs from job to job."""
    return Counter(f"{each.end}: {each.detail[:160]}" for each in answers if each.end is not End.OK)


def slowest(answers: Sequence[Answer]) -> float:
    return max((answer.seconds for answer in answers), default=0.0)


def chats(count: int | None, *, stream_every: int = 4, model: str = "chat") -> Iterable[dict[str, Any]]:
    """Requests with prompts that tell them apart, every `stream_every`th of them a stream; endless for None."""
    number = 0
    while count is None or number < count:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": f"request {number}"}]}
        number += 1
        yield body | {"stream": True} if number % stream_every == 0 else body


_HEADERS = {"Authorization": f"Bearer {MASTER_KEY}"}


async def _read(response: aiohttp.ClientResponse, stream: bool) -> tuple[End, str]:
    if response.status != 200:
        return End.REFUSED, f"{response.status} {_message(await response.json(content_type=None))}"
    if not stream:
        return End.OK, (await response.json())["choices"][0]["message"]["content"]
    text = []
    async for data in _events(response):
        if data == b"[DONE]":
            return End.OK, "".join(text)
        event = json.loads(data)
        if "error" in event:
            return End.IN_BAND, _message(event)
        text += [choice["delta"].get("content") or "" for choice in event["choices"]]
    return End.DROPPED, "the stream stopped without an end"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").strip()


def _message(body: Mapping[str, Any]) -> str:
    return str(body["error"]["message"])
