"""Clients with virtual keys, and the operator who hands them out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import aiohttp

from tests.e2e.deployment import MASTER_KEY, Headrace

NANO = 1_000_000_000
PATIENCE = 60.0  # seconds for what settles by itself, on a busy machine
_POLL = 0.05
_TIME_LIMIT = 120.0  # seconds for one request


@dataclass(frozen=True, slots=True)
class Key:
    text: str = field(repr=False)

    @property
    def hash(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


@dataclass(frozen=True, slots=True)
class Said:
    """What a client was answered."""

    status: int
    body: Any
    headers: Mapping[str, str]
    seconds: float

    @property
    def kind(self) -> str:
        """The error's type; empty for an answer."""
        return str(self.body["error"]["type"]) if self.status != 200 else ""

    @property
    def job_id(self) -> str:
        return self.headers.get("x-headrace-job-id", "")


@dataclass(frozen=True, slots=True)
class Callers:
    """All apis of a deployment, by number."""

    headrace: Headrace
    session: aiohttp.ClientSession

    def url(self, api: int) -> str:
        ports = self.headrace.ports
        return f"http://127.0.0.1:{ports[api % len(ports)]}"

    async def manage(self, path: str, api: int = 0, /, **body: Any) -> Any:
        """What the operator is answered."""
        async with self.session.post(f"{self.url(api)}{path}", json=body, headers=_OPERATOR) as answer:
            assert answer.status == 200, f"{path}: {await answer.text()}"
            return await answer.json()

    async def key(self, **fields: Any) -> Key:
        return Key((await self.manage("/key/generate", **fields))["key"])

    async def chat(self, key: Key, api: int = 0, /, **body: Any) -> Said:
        started = time.monotonic()
        request = {"model": "chat", "messages": QUESTION, "max_tokens": 60, **body}
        url = f"{self.url(api)}/v1/chat/completions"
        async with self.session.post(url, json=request, headers=key.headers) as answer:
            return Said(answer.status, await answer.json(), answer.headers, time.monotonic() - started)

    async def chats(self, key: Key, count: int, **body: Any) -> list[Said]:
        """So many at once, over all apis in turn."""
        return await asyncio.gather(*(self.chat(key, number, **body) for number in range(count)))

    async def spent(self, key: Key, api: int = 0) -> int:
        """Nano-dollars that the ledger has for the key."""
        url = f"{self.url(api)}/key/info"
        async with self.session.get(url, params={"key": key.hash}, headers=_OPERATOR) as answer:
            assert answer.status == 200, await answer.text()
            spend: float = (await answer.json())["info"]["spend"]
            return round(spend * NANO)

    async def recorded(self, key: Key, nano: int) -> None:
        """Wait until the ledger has so much."""
        async with asyncio.timeout(PATIENCE):
            while await self.spent(key) < nano:
                await asyncio.sleep(_POLL)


QUESTION = [{"role": "user", "content": "What is a headrace?"}]
_OPERATOR = {"Authorization": f"Bearer {MASTER_KEY}"}


@contextlib.asynccontextmanager
async def callers(headrace: Headrace) -> AsyncIterator[Callers]:
    timeout = aiohttp.ClientTimeout(total=_TIME_LIMIT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield Callers(headrace, session)


def billed(answers: Sequence[Said]) -> int:
    """Nano-dollars, as the answers' headers say."""
    return sum(round(float(each.headers["x-litellm-response-cost"]) * NANO) for each in answers if each.status == 200)
