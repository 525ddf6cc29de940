"""The systems that are measured: how each is configured and started, and which processes it consists of."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import peers, processes
from benchmarks.load import Target
from tests.server_process import exchange, free_port
from tests.servers import Postgres, RabbitMQ, Redis

ROOT = Path(__file__).parents[1]
KEY = "sk-bench-master-key-1234"
MODELS = ("bench", "bench-latency-50", "bench-paced", "bench-stamp")
_START_TIMEOUT = 120.0  # seconds; LiteLLM needs about 15 on an idle machine
_STOP_TIMEOUT = 10.0
_AMPLE = 100_000_000  # a limit that is kept and never reached


@dataclass(slots=True)
class System:
    """A running system."""

    name: str
    target: Target
    processes: dict[str, int] = field(default_factory=dict)
    """The root process of each role; `upstream` is always one of them."""
    own_roles: Sequence[str] = ()
    """The roles whose memory is compared."""
    upstream: int = 0
    """The port of the upstream that it shares with the others."""
    limited: Target | None = None
    limited_upstream: int = 0
    """The port of the upstream that only this system's limited requests reach."""

    def cpu_seconds(self) -> dict[str, float]:
        return {role: processes.cpu_seconds(pid) for role, pid in self.processes.items()}

    async def limited_stats(self) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.limited_upstream)
        writer.write(b"GET /stats HTTP/1.1\r\nHost: upstream\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
        writer.close()
        stats: dict[str, Any] = json.loads(body)
        return stats


class Stage:
    """Starts systems around one upstream, and ends them together."""

    def __init__(self, stack: AsyncExitStack, folder: Path, run: int) -> None:
        self._stack = stack
        self._folder = folder
        self._run = run

    async def start(self, names: Sequence[str]) -> list[System]:
        starts = {
            "direct": self._direct,
            "embedded": self._embedded,
            "distributed": self._distributed,
            "litellm": self._litellm,
            "portkey": self._portkey,
            "tensorzero": self._tensorzero,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        self._upstream, self._upstream_pid = await self._start_upstream()
        started = await asyncio.gather(*(starts[name]() for name in names), return_exceptions=True)
        systems = []
        for name, system in zip(names, started, strict=True):
            if isinstance(system, BaseException):
                print(f"{name} did not start and is left out: {system!r}", file=sys.stderr)
                continue
            system.processes["upstream"] = self._upstream_pid
            system.upstream = self._upstream
            systems.append(system)
        return systems

    async def _direct(self) -> System:
        return System("direct", Target(self._upstream, headers=_bearer("sk-bench")))

    async def _embedded(self) -> System:
        limited, _ = await self._start_upstream()
        folder, config = self._headrace("embedded", limited)
        port, pid = await self._headrace_process(folder, config, "serve", "--port", {})
        target = Target(port, headers=_bearer(KEY))
        return System("embedded", target, {"embedded": pid}, ("embedded",), limited=target, limited_upstream=limited)

    async def _distributed(self) -> System:
        limited, _ = await self._start_upstream()
        folder, config = self._headrace("distributed", limited)
        urls = {
            "RABBITMQ_URL": os.environ[RabbitMQ.variable],
            "REDIS_URL": os.environ[Redis.variable],
            "DATABASE_URL": os.environ[Postgres.variable],
            "HEADRACE_NAMESPACE": f"bench{self._run}",
        }
        (port, api), (_, worker) = await asyncio.gather(
            self._headrace_process(folder, config, "serve", "--port", urls),
            self._headrace_process(folder, config, "worker", "--health-port", urls),
        )
        commands = {"rabbitmq": "rabbitmq-server", "redis": "redis-server", "postgres": "bin/postgres"}
        servers = {role: processes.child(os.getppid(), command) for role, command in commands.items()}
        target = Target(port, headers=_bearer(KEY))
        own = {"api": api, "worker": worker}
        return System("distributed", target, own | servers, tuple(own), limited=target, limited_upstream=limited)

    def _headrace(self, name: str, limited: int) -> tuple[Path, Path]:
        """Its folder and config."""
        folder = self._folder / name
        folder.mkdir()
        # Limits that are kept and never reached: every request passes the buckets.
        ample = {"rpm": _AMPLE, "tpm": _AMPLE * 100, "max_parallel_requests": _AMPLE}
        return folder, self._config(folder, ample, limited)

    async def _headrace_process(
        self, folder: Path, config: Path, role: str, port_option: str, urls: Mapping[str, str]
    ) -> tuple[int, int]:
        """The port and process id of an api or a worker that is ready."""
        port = free_port()
        command = [sys.executable, "-m", "api.cli", role, "--config", str(config), port_option, str(port)]
        keys = {"HEADRACE_MASTER_KEY": KEY, "LITELLM_MASTER_KEY": KEY, "PYTHONPATH": str(ROOT)}
        process = await self._spawn(folder, command, {**keys, **urls})
        await _answers(port, "/health/readiness", process, folder)
        return port, process.pid

    async def _litellm(self) -> System:
        limited, _ = await self._start_upstream()
        folder = self._folder / "litellm"
        folder.mkdir()
        port = free_port()
        config = self._config(folder, {}, limited)
        process = await self._spawn(
            folder, [str(peers.LITELLM / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1",
                     "--port", str(port), "--num_workers", "1", "--telemetry", "False"],
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY},
        )  # fmt: skip
        await _answers(port, "/health/liveliness", process, folder)
        target = Target(port, headers=_bearer(KEY))
        return System(
            "litellm", target, {"litellm": process.pid}, ("litellm",), limited=target, limited_upstream=limited
        )

    async def _portkey(self) -> System:
        folder = self._folder / "portkey"
        folder.mkdir()
        port = free_port()
        process = await self._spawn(folder, ["node", str(peers.PORTKEY_SERVER), f"--port={port}", "--headless"], {})
        await _answers(port, "/", process, folder)
        upstream = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{self._upstream}/v1"}
        target = Target(port, headers=_bearer("sk-bench") | upstream)
        return System("portkey", target, {"portkey": process.pid}, ("portkey",))

    async def _tensorzero(self) -> System:
        folder = self._folder / "tensorzero"
        folder.mkdir()
        (folder / "tensorzero.toml").write_text("[gateway]\nobservability.enabled = false\n" + "".join(
            f'[models."{model}"]\nrouting = ["upstream"]\n'
            f'[models."{model}".providers.upstream]\ntype = "openai"\nmodel_name = "{model}"\n'
            f'api_base = "http://127.0.0.1:{self._upstream}/v1/"\napi_key_location = "none"\n'
            for model in MODELS
        ))  # fmt: skip
        command = [str(peers.TENSORZERO / "bin" / "python"), str(ROOT / "benchmarks" / "tensorzero_gateway.py")]
        process = await self._spawn(folder, [*command, "tensorzero.toml", "port"], {})
        async with asyncio.timeout(_START_TIMEOUT):
            while not (folder / "port").exists():
                _require_running(process, folder)
                await asyncio.sleep(0.1)
        port = int((folder / "port").read_text())
        target = Target(port, "/openai/v1/chat/completions", model_prefix="tensorzero::model_name::")
        return System("tensorzero", target, {"tensorzero": process.pid}, ("tensorzero",))

    def _config(self, folder: Path, limits: Mapping[str, int], limited: int) -> Path:
        """One file for LiteLLM and Headrace, which reads LiteLLM's."""
        models = [
            {"model_name": model, "litellm_params": _deployment(model, self._upstream, "sk-bench") | dict(limits)}
            for model in MODELS
        ]
        models += [
            {
                "model_name": "bench-limit",
                "litellm_params": _deployment("bench-limit", limited, f"sk-{key}") | {"rpm": 600},
            }
            for key in range(3)
        ]
        config = {"model_list": models, "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"}}
        if not limits:
            config["router_settings"] = {"num_retries": 2}
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    async def _start_upstream(self) -> tuple[int, int]:
        """The port and process id of an upstream."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.upstream", "--port", "0", stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        self._stack.push_async_callback(_end, process)
        assert process.stdout is not None
        return int((await process.stdout.readline()).rpartition(b":")[2]), process.pid

    async def _spawn(
        self, folder: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        with (folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=_environment() | dict(environment), stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=folder, start_new_session=True,
            )  # fmt: skip
        self._stack.push_async_callback(_end, process)
        return process


def _deployment(model: str, port: int, key: str) -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": key}


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _environment() -> dict[str, str]:
    """This process's, without what would configure a system; no proxy can be reached from here."""
    configures = ("HEADRACE_", "LITELLM_", "RABBITMQ_", "REDIS_", "DATABASE_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(configures) and not name.lower().endswith(("_api_key", "_proxy"))
    }


async def _answers(port: int, path: str, process: asyncio.subprocess.Process, folder: Path) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    async with asyncio.timeout(_START_TIMEOUT):
        while not (await exchange(port, request)).startswith(b"HTTP/1.1 200"):
            _require_running(process, folder)
            await asyncio.sleep(0.2)


def _require_running(process: asyncio.subprocess.Process, folder: Path) -> None:
    if process.returncode is not None:
        raise RuntimeError(f"{folder.name} ended while starting:\n{(folder / 'log').read_text()[-2000:]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
