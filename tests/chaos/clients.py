"""Those who use a deployment that breaks: each asks again, at the other api, until it knows that it was heard."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from tests.e2e.deployment import MASTER_KEY
from tests.e2e.reader import Reader

CHAT = "/v1/chat/completions"
_AGAIN = 0.2  # seconds between two tries
_ANSWER = 30.0  # seconds for an answer, over what an api takes to say that a server is away
_WAIT = 100  # seconds that a client is ready to wait
_BUSY = frozenset({429, 503})
_BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass
class Clients:
    """All clients of one cell."""

    session: aiohttp.ClientSession
    urls: Sequence[str]
    """The apis'."""
    tag: str
    """The user of all their requests."""
    model: str
    jobs: list[str] = field(default_factory=list)
    """Ids of accepted background jobs."""
    readers: list[Reader] = field(default_factory=list)
    resumed: set[str] = field(default_factory=set)
    """Streams that were taken up again, by job."""
    answers: list[str] = field(default_factory=list)
    """Texts that waiting clients got."""
    failures: list[str] = field(default_factory=list)
    """What clients saw that they should not see."""
    _turn: int = 0

    async def in_background(self) -> None:
        status, found, _ = await self.ask("POST", CHAT, json=self._chat(), headers=_once(Prefer="respond-async"))
        if status == 202:
            self.jobs.append(found["id"])
        else:
            self.failures.append(f"a background job was answered {status}: {found}")

    async def waiting(self) -> None:
        """A client that waits for its answer. Should it be told to come back, the job counts as a background job."""
        headers = _once(Prefer=f"wait={_WAIT}")
        status, found, answered = await self.ask("POST", CHAT, json=self._chat(), headers=headers, timeout=_WAIT + 20)
        if status == 200:
            self.answers.append(found["choices"][0]["message"]["content"])
        if status in (200, 202):
            self.jobs.append(answered["x-headrace-job-id"])
        else:
            self.failures.append(f"a waiting client was answered {status}: {found}")

    async def streaming(self, most: int | None = None) -> None:
        """A client that reads its stream to the end, over as many connections as it takes; and over many in any case,
        if it leaves each after `most` frames."""
        reader = Reader()
        self.readers.append(reader)
        headers = _once(**{"x-headrace-on-disconnect": "continue"})
        body = self._chat() | {"stream": True}
        while not reader.ended:
            if reader.job_id:
                self.resumed.add(reader.job_id)
                last = {"Last-Event-ID": reader.last_id} if reader.last_id else {}
                await self._read(reader, most, "GET", f"/v1/jobs/{reader.job_id}/events", headers=last)
            else:
                await self._read(reader, most, "POST", CHAT, json=body, headers=headers)
        self.jobs.append(reader.job_id)

    async def batch(self, lines: int) -> str:
        """Its id."""
        requests = [self._line(number) for number in range(lines)]
        order = {"requests": requests, "endpoint": CHAT, "completion_window": "24h"}
        status, batch, _ = await self.ask("POST", "/v1/batches", json=order)
        assert status == 200, f"a batch was answered {status}: {batch}"
        return str(batch["id"])

    async def get(self, path: str, **params: Any) -> Any:
        status, found, _ = await self.ask("GET", path, params=params)
        assert status == 200, f"GET {path} was answered {status}: {found}"
        return found

    async def lines_of(self, file_id: str) -> list[dict[str, Any]]:
        status, text, _ = await self.ask("GET", f"/v1/files/{file_id}/content", whole=False)
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]

    async def ask(
        self, method: str, path: str, *, timeout: float = _ANSWER, whole: bool = True, **options: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON (unless not `whole`) and headers of the first answer that is one."""
        while True:
            try:
                async with (
                    asyncio.timeout(timeout),
                    self.session.request(method, self._url(path), **options) as response,
                ):
                    text = await response.text()
                    if response.status not in _BUSY:
                        return response.status, json.loads(text) if whole else text, response.headers
            except _BROKEN:
                pass
            await asyncio.sleep(_AGAIN)

    async def _read(self, reader: Reader, most: int | None, method: str, path: str, **options: Any) -> None:
        before = len(reader.numbers)
        try:
            async with self.session.request(method, self._url(path), **options) as response:
                if response.status == 200:
                    await reader.read(response, most)
                    response.close()
                elif response.status not in _BUSY:
                    self.failures.append(
                        f"{method} of a stream was answered {response.status}: {await response.text()}"
                    )
                    reader.failure = "refused"
        except _BROKEN:
            pass
        if not reader.ended and len(reader.numbers) == before:
            await asyncio.sleep(_AGAIN)

    def _url(self, path: str) -> str:
        self._turn += 1
        return f"{self.urls[self._turn % len(self.urls)]}{path}"

    def _chat(self) -> dict[str, Any]:
        return {"model": self.model, "user": self.tag, "messages": [{"role": "user", "content": "What is a headrace?"}]}

    def _line(self, number: int) -> dict[str, Any]:
        return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": self._chat()}


@asynccontextmanager
async def clients(urls: Sequence[str], model: str) -> AsyncIterator[Clients]:
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_WAIT)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        yield Clients(session, urls, f"cell-{uuid4().hex}", model)


def _once(**headers: str) -> dict[str, str]:
    """With them a request that is sent again is the same job."""
    return {"Idempotency-Key": uuid4().hex, **headers}
