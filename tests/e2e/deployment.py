"""Headrace as its users start it: real processes, found by their address."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.e2e.preloaded import Running
from tests.server_process import free_port

MASTER_KEY = "sk-e2e-master-key-1234"
_START_TIMEOUT = 90.0  # seconds; the machine may be busy with other tests
_STOP_TIMEOUT = 60.0
_POLL = 0.05


async def execute(arguments: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> Running:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api.cli", *arguments, env=environment, stdout=output, stderr=output, cwd=folder
        )


starter = execute
"""How a `Process` starts; `tests.e2e.conftest` has a faster way."""


@dataclass
class Process:
    """One `headrace` process and its log."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    folder: Path
    health: str = ""
    """The address that answers 200 once the process is ready."""
    process: Running | None = None

    async def start(self) -> None:
        """Again after its end, too: it is the same command then, on the same port."""
        self.process = await starter(self.arguments, self.environment, self.log, self.folder)

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(_START_TIMEOUT):
            while True:
                assert self.running, f"{self.arguments} ended while starting:\n{self.tail()}"
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(self.health) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(_POLL)

    def kill(self) -> None:
        """As a machine that loses power would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), _STOP_TIMEOUT)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"{self.arguments} ignored SIGTERM:\n{self.tail()}") from None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Servers:
    """The addresses of real servers; none for the embedded profile."""

    rabbitmq: str | None = None
    redis: str | None = None
    database: str | None = None
    namespace: str = "headrace"

    @property
    def distributed(self) -> bool:
        return self.rabbitmq is not None

    def environment(self) -> dict[str, str]:
        urls = {"RABBITMQ_URL": self.rabbitmq, "REDIS_URL": self.redis, "DATABASE_URL": self.database}
        return {name: url for name, url in urls.items() if url} | {"HEADRACE_NAMESPACE": self.namespace}


class Headrace:
    """Some api and worker processes around one config."""

    def __init__(self, config: Path, servers: Servers, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.servers = servers
        self.folder = folder
        self.environment = (
            _environment() | servers.environment() | {"HEADRACE_MASTER_KEY": MASTER_KEY} | dict(extra or {})
        )
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.keepers: list[Process] = []
        self.ports: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    async def start_api(self) -> None:
        port = free_port()
        self.apis.append(api := self._process("api", len(self.apis), port, "serve", "--port", str(port)))
        self.ports.append(port)
        await _started(api)

    async def start_worker(self, *options: str) -> Process:
        port = free_port()
        worker = self._process("worker", len(self.workers), port, "worker", "--health-port", str(port), *options)
        self.workers.append(worker)
        return await _started(worker)

    async def start_keeper(self, *parts: str) -> Process:
        """All parts if none is named."""
        port = free_port()
        only = [option for part in parts for option in ("--only", part)]
        keeper = self._process("keeper", len(self.keepers), port, "keeper", "--health-port", str(port), *only)
        self.keepers.append(keeper)
        return await _started(keeper)

    async def stop(self) -> None:
        for each in (*self.apis, *self.workers, *self.keepers):
            if each.process is not None:
                await each.stop()

    def _process(self, role: str, number: int, port: int, command: str, *options: str) -> Process:
        return Process(
            (command, "--config", str(self.config), *options),
            self.environment,
            self.folder / f"{role}-{number}.log",
            self.folder,
            f"http://127.0.0.1:{port}/health/readiness",
        )


@contextlib.asynccontextmanager
async def deployed(
    config: Path,
    servers: Servers,
    folder: Path,
    *,
    apis: int = 1,
    workers: int = 1,
    extra: Mapping[str, str] | None = None,
) -> AsyncIterator[Headrace]:
    """`apis` api processes and, with real servers, `workers` worker processes, ready; ended on leaving."""
    headrace = Headrace(config, servers, folder, extra)
    try:
        starts = [headrace.start_api() for _ in range(apis)]
        if servers.distributed:
            starts += [headrace.start_worker() for _ in range(workers)]  # type: ignore[misc]
        await asyncio.gather(*starts)
        yield headrace
    finally:
        await headrace.stop()


async def _started(process: Process) -> Process:
    await process.start()
    await process.ready()
    return process


def _environment() -> dict[str, str]:
    """This process's, without what would configure Headrace."""
    ours = ("HEADRACE_", "LITELLM_", "RABBITMQ_", "REDIS_", "DATABASE_")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(ours) and not name.endswith("_API_KEY")
    }
    root = Path(__file__).parents[2]
    return kept | {"PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
