"""An api on the memory backends, with a worker that answers what the test tells it to."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.types import ASGIApp

from api.app import asgi, create_app
from broker.accounts.memory import MemoryAccounts
from broker.backends import Backends
from broker.events.memory import MemoryEventLog
from broker.interfaces import Consumer
from broker.limits.memory import MemoryLimiter
from broker.queues.memory import MemoryQueue
from broker.store import database
from shared.catalog import Catalog, Deployment, Routing, Wildcard
from shared.clock import Clock, SystemClock
from shared.errors import AppError
from shared.events import Event, Kind
from shared.jobs import Job
from shared.settings import Settings
from tests.fakes import asgi as client
from tests.fakes.asgi import Exchange
from tests.fakes.schema import make_schema

KEY = "sk-test-master-key"
SERVED = {"deployment": "d", "group": "chat", "provider": "openai", "attempt": 1, "leg": 0, "queue_wait": 0.001,
          "ttft": 0.002, "headers": {"x-request-id": "r-1", "x-ratelimit-limit-requests": "10"}}  # fmt: skip


@dataclass
class Api:
    app: ASGIApp
    backends: Backends
    queue: MemoryQueue
    log: MemoryEventLog
    worker: Consumer

    def chat(
        self, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None, **body: Any
    ) -> Exchange:
        """Start a chat request; whatever is not given is fine."""
        request = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **body}
        return client.start(self.app, "POST", path, orjson.dumps(request), {**AUTHORIZED, **(headers or {})})

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Exchange:
        return await client.ask(self.app, method, path, body, AUTHORIZED if headers is None else headers)

    async def next_job(self) -> Job:
        """What the worker gets."""
        delivery = await self.worker.get()
        await delivery.ack()
        return delivery.job

    async def chunk(self, job: Job, seq: int, text: str) -> None:
        await self._emit(
            job, Event(job.id, seq, Kind.CHUNK, f"data: {text}\n\n".encode(), SERVED if seq == 1 else None)
        )

    async def completed(self, job: Job, seq: int = 1, body: bytes = b"") -> None:
        outcome = {"duration": 0.5, "cost": 1_500_000}
        await self._emit(job, Event(job.id, seq, Kind.COMPLETED, body, {**SERVED, "outcome": outcome}))

    async def failed(self, job: Job, error: AppError, seq: int = 1) -> None:
        await self._emit(job, Event(job.id, seq, Kind.FAILED, b"", {"error": error.to_wire()}))

    async def _emit(self, job: Job, event: Event) -> None:
        await self.log.emit(job.reply_to, [event])


AUTHORIZED = {"authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def api(folder: Path, *, bound: int = 100, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Api]:
    catalog = Catalog(
        [Deployment("d", "chat", "openai", "gpt", api_key="sk-upstream-secret", api_base="https://up.example/v1?k=v")],
        [Wildcard("any/*", "*", {"openai": Deployment("w", "any/*", "openai", "*", credential="c")})],
        routing=Routing(num_retries=2),
    )
    given = Settings(_env_file=None, master_key=KEY, disable_logging=True, **settings)  # type: ignore[call-arg]
    async with (
        MemoryQueue(bound) as queue,
        MemoryEventLog() as log,
        database.connect(f"sqlite:///{folder}/ledger.db") as store,
    ):
        await make_schema(store)
        await queue.declare(["openai"])
        backends = Backends(
            queue, log, MemoryLimiter(clock or SystemClock()), store, MemoryAccounts(clock or SystemClock())
        )
        app = create_app(backends, catalog, given, clock)
        context = app.state.context
        async with context.board, context.rates, context.durable, queue.consume(["openai"], 100) as worker:
            yield Api(asgi(app), backends, queue, log, worker)
            await context.admission.gate.close()
