"""A deployment whose every part can be killed: servers of its own, and a process for each role."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random

import asyncpg
import yaml

from tests.e2e.books import RPM, TPM, UpstreamProcess
from tests.e2e.deployment import Headrace, Process, Servers
from tests.fakes.upstream import FakeUpstream
from tests.server_process import Server
from tests.servers import Postgres, RabbitMQ, Redis

WIDE, NARROW = "wide", "narrow"
"""Two models: all calls of one go at once, and eight at a time of the other, so that its jobs queue."""
_NARROW = 8
_NO_KEEPER = "--no-keeper"


class Victim(StrEnum):
    API = "api"  # one of two
    WORKER = "worker"  # one of two
    FEEDER = "feeder"  # the only one; it is the reaper too, and makes the batches' files
    RECORDER = "recorder"  # the only one
    RABBITMQ = "RabbitMQ"
    REDIS = "Redis"  # without persistence, as it comes back empty: the harder case
    POSTGRESQL = "PostgreSQL"


@dataclass
class Fleet:
    headrace: Headrace
    upstream: FakeUpstream
    attempts: UpstreamProcess
    """The same provider, by its log."""
    rabbitmq: RabbitMQ
    redis: Redis
    postgres: Postgres
    rng: Random
    _down: Process | Server | None = field(default=None, init=False)

    @property
    def servers(self) -> Servers:
        return self.headrace.servers

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.headrace.ports]

    async def kill(self, victim: Victim) -> None:
        self._down = self._pick(victim)
        if isinstance(self._down, Server):
            await self._down.kill()
        else:
            self._down.kill()
            assert self._down.process is not None
            await self._down.process.wait()

    async def restart(self) -> None:
        """As a supervisor would: the same command, on the same port."""
        assert self._down is not None
        await self._down.start()

    async def whole(self) -> None:
        """All processes are ready."""
        await asyncio.gather(*(each.ready() for each in self._processes()))

    async def forget(self) -> None:
        """Take what the ledger and the provider have written out of the books, as the next cell has its own."""
        self.upstream.reset()
        self.attempts.log.write_text("")
        connection = await asyncpg.connect(self.servers.database, timeout=30)
        try:
            await connection.execute("DELETE FROM ledger")
        finally:
            await connection.close(timeout=30)

    def tails(self, lines: int = 15) -> str:
        """The ends of the processes' logs."""
        return "\n\n".join(f"--- {each.log.name}\n{each.tail(lines)}" for each in self._processes())

    def _pick(self, victim: Victim) -> Process | Server:
        pick: dict[Victim, Callable[[], Process | Server]] = {
            Victim.API: lambda: self.rng.choice(self.headrace.apis),
            Victim.WORKER: lambda: self.rng.choice(self.headrace.workers),
            Victim.FEEDER: lambda: self.headrace.keepers[0],
            Victim.RECORDER: lambda: self.headrace.keepers[1],
            Victim.RABBITMQ: lambda: self.rabbitmq,
            Victim.REDIS: lambda: self.redis,
            Victim.POSTGRESQL: lambda: self.postgres,
        }
        return pick[victim]()

    def _processes(self) -> list[Process]:
        return [*self.headrace.apis, *self.headrace.workers, *self.headrace.keepers]


@contextlib.asynccontextmanager
async def fleet(folder: Path, rng: Random) -> AsyncIterator[Fleet]:
    """Two apis, two workers, a recorder and a keeper of all other parts, on servers of their own; all ready."""
    log = folder / "attempts.jsonl"
    async with (
        contextlib.AsyncExitStack() as stack,
        FakeUpstream(log=log) as upstream,
    ):
        rabbitmq, redis, postgres = RabbitMQ(), Redis(), Postgres()
        async with asyncio.TaskGroup() as group:
            for each in (rabbitmq, redis, postgres):
                group.create_task(stack.enter_async_context(each))
        servers = Servers(rabbitmq.url, redis.url, postgres.url)
        headrace = Headrace(_config(folder, upstream), servers, folder)
        stack.push_async_callback(headrace.stop)
        # Two at a time: on a busy machine six at once would each take longer than a process may.
        await asyncio.gather(
            headrace.start_keeper("feeder", "batches", "reaper", "dead"), headrace.start_keeper("recorder")
        )
        await asyncio.gather(headrace.start_api(), headrace.start_api())
        await asyncio.gather(headrace.start_worker(_NO_KEEPER), headrace.start_worker(_NO_KEEPER))
        yield Fleet(headrace, upstream, UpstreamProcess(upstream.url, log), rabbitmq, redis, postgres, rng)


def _config(folder: Path, upstream: FakeUpstream) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model_list": [_model(WIDE, upstream, 1000), _model(NARROW, upstream, _NARROW)]}))
    return path


def _model(name: str, upstream: FakeUpstream, parallel: int) -> dict[str, object]:
    limits = {"rpm": int(RPM), "tpm": int(TPM), "max_parallel_requests": parallel}
    base = {"model": f"openai/{name}", "api_key": "sk-upstream", "api_base": f"{upstream.url}/v1"}
    return {"model_name": name, "litellm_params": base | limits}
