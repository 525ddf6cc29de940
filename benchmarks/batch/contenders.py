"""Who runs the batch: Headrace over its own API, Celery and a script in the peers' environment."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import asyncpg

from benchmarks import peers, processes
from benchmarks.load import percentile
from benchmarks.systems import KEY, System
from tests.servers import Postgres, RabbitMQ, Redis

HERE = Path(__file__).parent
Numbers = dict[str, float]

MODEL = "bench-latency-50"
_WARM = 300  # lines
_LIMIT = 900.0  # seconds for a batch
_START_RATE = 50.0  # background jobs a second
_SAMPLE = 0.5  # seconds between two looks at memory
_EARLY = 1_000  # lines after which memory is first looked at


class Contender(Protocol):
    name: str

    async def start(self) -> None: ...
    async def run(self, lines: int) -> Numbers: ...
    async def stop(self) -> None: ...


def write_lines(path: Path, lines: int, model: str = MODEL) -> Path:
    """OpenAI's batch file, about 350 bytes a line."""
    with path.open("w") as file:
        for number in range(lines):
            prompt = f"Line {number}: summarise in one sentence. " + "The quick brown fox jumps over the lazy dog. " * 3
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


class Headrace:
    """One api and one worker; the batch goes in as a file, and out as one."""

    name = "headrace"

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._folder = folder
        self._base = f"http://127.0.0.1:{system.target.port}"

    async def start(self) -> None:
        await self.run(_WARM)

    async def stop(self) -> None:
        return

    async def run(self, lines: int) -> Numbers:
        path = write_lines(self._folder / f"headrace-{lines}.jsonl", lines)
        before = self._system.cpu_seconds()
        async with self._session() as session:
            started = time.perf_counter()
            batch = await self._finished(session, await self._submit(session, path))
            right = await self._right(session, batch["output_file_id"])
            seconds = time.perf_counter() - started
        after = self._system.cpu_seconds()
        cpu = {f"cpu_{role}": (after[role] - before[role]) / lines * 1000 for role in after}
        return {"rate": lines / seconds, "right": right, "seconds": seconds, **cpu}

    async def starts(self, seconds: float) -> Numbers:
        """Background jobs in an open loop: milliseconds from the client's call to the start of the worker's attempt, as
        the ledger has it, and to the request's arrival upstream, for which each body carries the time of its call."""
        await self._upstream("POST", "/reset")
        async with self._session() as session:
            began = asyncio.get_running_loop().time()
            calls = []
            for number in range(int(_START_RATE * seconds)):
                await asyncio.sleep(max(began + number / _START_RATE - asyncio.get_running_loop().time(), 0.0))
                calls.append(asyncio.create_task(self._background(session)))
            called = dict(await asyncio.gather(*calls))
        called.pop("", None)
        async with asyncio.timeout(30):
            while len(ages := (await self._upstream("GET", "/stats"))["ages"]) < len(called):
                await asyncio.sleep(0.1)
            while len(started := await _starts(called)) < len(called):
                await asyncio.sleep(0.1)
        waits = [(started[job] - called[job]) * 1000 for job in called]
        return {
            "jobs": len(calls),
            "accepted": len(called),
            "start_p50": percentile(waits, 0.50),
            "start_p99": percentile(waits, 0.99),
            "p50": percentile(ages, 0.50),
            "p99": percentile(ages, 0.99),
        }

    async def memory(self, lines: int) -> dict[str, Numbers]:
        """MiB of each process of ours when 1,000 lines are done, at the most and at the end."""
        path = write_lines(self._folder / "memory.jsonl", lines)
        roles = self._system.own_roles
        early: Numbers = {}
        peak: Numbers = {}
        async with self._session() as session:
            batch_id = await self._submit(session, path)
            async with asyncio.timeout(_LIMIT):
                while True:
                    batch = await self._get(session, f"/v1/batches/{batch_id}")
                    now = {role: sum(processes.resident_mib(self._system.processes[role])) for role in roles}
                    if batch["request_counts"]["completed"] >= _EARLY:
                        early = early or now
                        peak = {role: max(peak.get(role, 0.0), size) for role, size in now.items()}
                    if batch["status"] in ("completed", "failed", "expired", "cancelled"):
                        break
                    await asyncio.sleep(_SAMPLE)
            right = await self._right(session, batch["output_file_id"])
        return {role: {"early": early[role], "peak": peak[role], "end": now[role]} for role in roles} | {
            "lines": {"right": right}
        }

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})

    async def _submit(self, session: aiohttp.ClientSession, path: Path) -> str:
        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", file, filename=path.name)
            async with session.post(f"{self._base}/v1/files", data=form) as response:
                uploaded = await answered(response)
        order = {"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        async with session.post(f"{self._base}/v1/batches", json=order) as response:
            return str((await answered(response))["id"])

    async def _finished(self, session: aiohttp.ClientSession, batch_id: str) -> dict[str, Any]:
        async with asyncio.timeout(_LIMIT):
            while True:
                batch = await self._get(session, f"/v1/batches/{batch_id}")
                if batch["status"] in ("completed", "failed", "expired", "cancelled"):
                    return batch
                await asyncio.sleep(0.1)

    async def _right(self, session: aiohttp.ClientSession, file_id: str) -> int:
        right = 0
        async with session.get(f"{self._base}/v1/files/{file_id}/content") as response:
            async for line in response.content:
                right += bool(json.loads(line)["response"]["body"]["choices"][0]["message"]["content"])
        return right

    async def _background(self, session: aiohttp.ClientSession) -> tuple[str, float]:
        """The job's id, empty when it was refused, and when the client made the call."""
        called = time.time()
        body = {
            "model": "bench-stamp",
            "messages": [{"role": "user", "content": "Hello"}],
            "user": f"stamp-{time.monotonic_ns()}",
        }
        headers = {"Prefer": "respond-async"}
        async with session.post(f"{self._base}/v1/chat/completions", json=body, headers=headers) as response:
            await response.read()
            return (response.headers["x-headrace-job-id"] if response.status == 202 else "", called)

    async def _get(self, session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        async with session.get(self._base + path) as response:
            return await answered(response)

    async def _upstream(self, method: str, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._system.upstream}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as response:
            return await answered(response)


async def _starts(jobs: Collection[str]) -> dict[str, float]:
    """When their attempts began, as far as the ledger has them: seconds since the epoch, by the worker's clock, which
    is this machine's."""
    connection = await asyncpg.connect(os.environ[Postgres.variable])
    try:
        rows = await connection.fetch("SELECT job_id, started_at FROM ledger WHERE job_id = ANY($1)", list(jobs))
    finally:
        await connection.close()
    return {row["job_id"]: row["started_at"] for row in rows}


class Celery:
    """A worker of one pool, tasks that call the `openai` client, results in Redis."""

    def __init__(self, pool: str, concurrency: int, upstream: str, folder: Path, run: int) -> None:
        self.name = f"celery-{pool}"
        self._node = f"{pool}-{run}@%h"  # two nodes of one name would fight for its mailbox
        self._pool = pool
        self._concurrency = concurrency
        self._folder = folder
        self._environment = dict(os.environ) | {
            "BENCH_BROKER": os.environ[RabbitMQ.variable].replace("amqp://", "pyamqp://"),
            "BENCH_BACKEND": os.environ[Redis.variable].rpartition("/")[0] + "/9",
            "BENCH_QUEUE": f"bench-{pool}-{run}",
            "BENCH_UPSTREAM": upstream,
        }
        self._worker: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._worker = await asyncio.create_subprocess_exec(
                str(peers.CELERY / "bin" / "celery"), "-A", "celery_app", "worker", "--pool", self._pool,
                "--concurrency", str(self._concurrency), "--loglevel", "ERROR", "--without-gossip",
                "--without-mingle", "--without-heartbeat", "--hostname", self._node,
                env=self._environment, cwd=HERE, stdout=log, stderr=log,
            )  # fmt: skip
        await self.run(_WARM)

    async def run(self, lines: int) -> Numbers:
        path = write_lines(self._folder / f"{self.name}-{lines}.jsonl", lines)
        assert self._worker is not None
        before = processes.cpu_seconds(self._worker.pid)
        found = await _peer(["celery_run.py", str(path)], self._environment)
        cpu = processes.cpu_seconds(self._worker.pid) - before
        return {
            "rate": lines / found["seconds"],
            "right": found["right"],
            "seconds": found["seconds"],
            "cpu_worker": cpu / lines * 1000,
            "cpu_client": found["cpu"] / lines * 1000,
        }

    async def stop(self) -> None:
        if self._worker is not None and self._worker.returncode is None:
            self._worker.terminate()
            try:
                await asyncio.wait_for(self._worker.wait(), 20)
            except TimeoutError:
                self._worker.kill()
                await self._worker.wait()


class Script:
    """asyncio over `AsyncOpenAI`, with the number of calls at a time at which it is fastest here."""

    name = "script"
    concurrency = 64

    def __init__(self, upstream: str, folder: Path) -> None:
        self._upstream = upstream
        self._folder = folder

    async def start(self) -> None:
        await self.run(_WARM)

    async def stop(self) -> None:
        return

    async def run(self, lines: int) -> Numbers:
        path = write_lines(self._folder / f"script-{lines}.jsonl", lines)
        output = str(self._folder / "script-output.jsonl")
        found = await _peer(["script.py", str(path), self._upstream, str(self.concurrency), output], dict(os.environ))
        return {
            "rate": lines / found["seconds"],
            "right": found["right"],
            "seconds": found["seconds"],
            "cpu_client": found["cpu"] / lines * 1000,
        }


async def _peer(arguments: list[str], environment: dict[str, str]) -> Numbers:
    """Run a program of ours in the peers' environment; what it printed last."""
    process = await asyncio.create_subprocess_exec(
        str(peers.CELERY / "bin" / "python"), *arguments, env=environment, cwd=HERE,
        stdout=asyncio.subprocess.PIPE, stderr=sys.stderr,
    )  # fmt: skip
    async with asyncio.timeout(_LIMIT):
        output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
    numbers: Numbers = json.loads(output.splitlines()[-1])
    return numbers


async def answered(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The body. Raises `RuntimeError` if it is an error."""
    body = await response.json(content_type=None)
    if response.status >= 300:
        raise RuntimeError(f"{response.method} {response.url.path}: {response.status} {body}")
    found: dict[str, Any] = body
    return found
