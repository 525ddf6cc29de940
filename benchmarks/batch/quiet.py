"""How long a quiet tenant waits for a worker: alone, and beside another tenant's flood of batch lines and requests."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from benchmarks import processes
from benchmarks.batch.contenders import Numbers, answered, write_lines
from benchmarks.load import Answer, Client, Target, percentile
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers
from tests.servers import Postgres, RabbitMQ, Redis

_EVERY = 0.1  # seconds between the quiet tenant's requests
_SETTLED = 3.0  # seconds of flood before anything is measured
_WARM = 30  # requests
_START = 120.0  # seconds until a batch has begun, or ended


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the bottleneck is."""

    name: str
    latency_ms: int
    """Of the upstream."""
    concurrency: int
    """Of the worker."""
    parallel: int | None = None
    """Requests at a time that the key allows."""

    @property
    def model(self) -> str:
        return f"bench-latency-{self.latency_ms}"


SETTINGS = (
    Setting("the worker's 64 slots, upstream 200 ms", 200, 64),
    Setting("the key's 16 parallel requests, upstream 100 ms", 100, 256, 16),
)


@dataclass(frozen=True, slots=True)
class Flood:
    lines: int
    burst: int
    """Requests at once; the next burst comes when the last is answered."""


async def measure(setting: Setting, flood: Flood, seconds: float, folder: Path) -> Numbers:
    """Milliseconds of `x-headrace-queue-wait-ms`, and what the flood got meanwhile."""
    async with _running(setting, folder) as headrace:
        quiet = await _Tenant.made(headrace, setting.model)
        loud = await _Tenant.made(headrace, setting.model)
        async with quiet, loud:
            for _ in range(_WARM):
                await quiet.ask()
            cpu = _Cpu(headrace)
            alone = await quiet.waits(seconds)
            cores_alone = cpu.cores("alone")
            async with loud.flooding(flood, folder) as flooding:
                await asyncio.sleep(_SETTLED)
                before = await flooding.progress()
                cpu = _Cpu(headrace)
                beside = await quiet.waits(seconds)
                cores_beside = cpu.cores("beside")
                after = await flooding.progress()
    rates = {f"flood_{name}_per_second": (after[name] - before[name]) / seconds for name in after}
    return _summary("alone", alone) | _summary("beside", beside) | rates | cores_alone | cores_beside


def _summary(name: str, waits: list[float]) -> Numbers:
    return {
        f"{name}_p50": percentile(waits, 0.50),
        f"{name}_p99": percentile(waits, 0.99),
        f"{name}_most": max(waits),
        f"{name}_answers": len(waits),
    }


class _Cpu:
    """Cores that the api and the worker take, and the machine's load: without idle cores everything waits for them."""

    def __init__(self, headrace: Headrace) -> None:
        roles = {"api": headrace.apis[0].process, "worker": headrace.workers[0].process}
        self._pids = {role: process.pid for role, process in roles.items() if process is not None}
        self._since = time.monotonic()
        self._before = self._seconds()

    def cores(self, when: str) -> Numbers:
        elapsed = time.monotonic() - self._since
        now = self._seconds()
        cores = {f"{when}_cores_{role}": (now[role] - self._before[role]) / elapsed for role in now}
        return cores | {f"{when}_load_average": os.getloadavg()[0]}

    def _seconds(self) -> dict[str, float]:
        return {role: processes.cpu_seconds(pid) for role, pid in self._pids.items()}


class _Tenant:
    """A virtual key and its connections."""

    def __init__(self, port: int, key: str, model: str) -> None:
        self.port = port
        self.model = model
        self.headers = {"Authorization": f"Bearer {key}"}
        self._session = aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", headers=self.headers, connector=aiohttp.TCPConnector(limit=0)
        )

    @classmethod
    async def made(cls, headrace: Headrace, model: str) -> "_Tenant":
        headers = {"Authorization": f"Bearer {MASTER_KEY}"}
        async with (
            aiohttp.ClientSession(headrace.url, headers=headers) as session,
            session.post("/key/generate", json={}) as response,
        ):
            return cls(headrace.ports[0], (await answered(response))["key"], model)

    async def __aenter__(self) -> "_Tenant":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def ask(self) -> float:
        """Milliseconds that the request waited for a worker and its key."""
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
        async with self._session.post("/v1/chat/completions", json=body) as response:
            await answered(response)
            return float(response.headers["x-headrace-queue-wait-ms"])

    async def waits(self, seconds: float) -> list[float]:
        """Of requests in an open loop: one every `_EVERY` seconds, whatever became of those before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = []
        for number in range(int(seconds / _EVERY)):
            await asyncio.sleep(began + number * _EVERY - loop.time())
            asked.append(asyncio.create_task(self.ask()))
        return list(await asyncio.gather(*asked))

    @asynccontextmanager
    async def flooding(self, flood: Flood, folder: Path) -> AsyncIterator["_Flooding"]:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        lines = write_lines(folder / "flood.jsonl", flood.lines, self.model).read_bytes()
        form.add_field("file", lines, filename="flood.jsonl")
        async with self._session.post("/v1/files", data=form) as response:
            file = await answered(response)
        order = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        async with self._session.post("/v1/batches", json=order) as response:
            flooding = _Flooding(self, (await answered(response))["id"], flood.burst)
        async with asyncio.timeout(_START):
            while not (await flooding.progress())["lines"]:
                await asyncio.sleep(0.2)
        try:
            flooding.burst()
            yield flooding
        finally:
            await flooding.end()

    async def completed_lines(self, batch: str) -> int:
        return int((await self._batch(batch))["request_counts"]["completed"])

    async def cancel(self, batch: str) -> None:
        """Or else the next deployment goes on with what is left of it."""
        async with self._session.post(f"/v1/batches/{batch}/cancel") as response:
            await response.read()  # perhaps it is over
        async with asyncio.timeout(_START):
            while (await self._batch(batch))["status"] not in ("cancelled", "completed"):
                await asyncio.sleep(0.2)

    async def _batch(self, batch: str) -> dict[str, Any]:
        async with self._session.get(f"/v1/batches/{batch}") as response:
            return await answered(response)


class _Flooding:
    """A batch, and bursts from clients that cost next to nothing."""

    def __init__(self, tenant: _Tenant, batch: str, requests: int) -> None:
        self._tenant = tenant
        self._batch = batch
        target = Target(tenant.port, headers=tenant.headers)
        self._request = target.request(tenant.model)
        self._clients = [Client(target, self._answered) for _ in range(requests)]
        self._left = 0
        self._answers = 0
        self._ended = False

    def burst(self) -> None:
        self._left = len(self._clients)
        for client in self._clients:
            client.ask(self._request)

    async def progress(self) -> dict[str, int]:
        return {"requests": self._answers, "lines": await self._tenant.completed_lines(self._batch)}

    async def end(self) -> None:
        self._ended = True
        await asyncio.gather(*(client.close() for client in self._clients))
        await self._tenant.cancel(self._batch)

    def _answered(self, client: Client, answer: Answer) -> None:
        self._answers += answer.status == 200
        self._left -= 1
        if not self._left and not self._ended:
            self.burst()


@asynccontextmanager
async def _running(setting: Setting, folder: Path) -> AsyncIterator[Headrace]:
    """One api and one worker, which keeps as well, before an upstream that costs next to nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.upstream", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert upstream.stdout is not None
        port = int((await upstream.stdout.readline()).rpartition(b":")[2])
        params = {"model": f"openai/{setting.model}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "sk-bench"}
        if setting.parallel is not None:
            params["max_parallel_requests"] = setting.parallel
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"model_list": [{"model_name": setting.model, "litellm_params": params}]}))
        urls = [os.environ[server.variable] for server in (RabbitMQ, Redis, Postgres)]
        headrace = Headrace(config, Servers(*urls, namespace=f"quiet{setting.latency_ms}"), folder)
        try:
            await headrace.start_api()
            await headrace.start_worker("--concurrency", str(setting.concurrency))
            yield headrace
        finally:
            await headrace.stop()
    finally:
        upstream.terminate()
        await upstream.wait()
