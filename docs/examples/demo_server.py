"""A Headrace of one's own for the demo: a process on a free port, a temporary configuration and a temporary ledger."""

import asyncio
import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

KEYS = 4
KEY_RPM = 600  # requests a minute that each key may make
FAILURES = 0.02  # share of the provider's answers that are an HTTP 500

_REPLY = (
    "A headrace is the channel that brings water to a mill wheel at the rate the wheel can take. Too much water does "
    "not break the wheel and is not thrown away: it waits in the channel. Here the wheel is a provider's API key, the "
    "water is your requests, and the channel is a queue."
)
_WEATHER_REPLY = "It is 21 degrees and sunny in Bern, so leave the coat at home."

_START_TIMEOUT = 60.0  # seconds; a busy machine takes its time to import
_STOP_TIMEOUT = 20.0  # seconds
_POLL = 0.05  # seconds
_SETTINGS = ("HEADRACE_", "LITELLM_", "RABBITMQ_", "REDIS_", "DATABASE_", "CONFIG_FILE_PATH", "HOST", "PORT")


class ServerFailed(Exception):
    """Headrace did not start; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str


def config() -> dict[str, object]:
    """Three simulated models. The provider behind `worker` enforces the limit of each key with 429s of its own."""
    limited = {"latency": 0.4, "jitter": 0.5, "tokens": 40, "rpm": KEY_RPM, "error_rate": FAILURES}
    return {
        "model_list": [
            _model("story", "story", {"reply": _REPLY, "latency": 0.3, "pace": 0.04}, 2.5, 10),
            _model("helper", "helper", {"reply": _WEATHER_REPLY, "tool_call": True, "latency": 0.2}, 2.5, 10),
            *(
                _model("worker", "lorem", limited, 0.15, 0.6, api_key=f"demo-key-{number}", rpm=KEY_RPM)
                for number in range(1, KEYS + 1)
            ),
        ]
    }


def _model(
    name: str, model: str, script: Mapping[str, object], dollars_in: float, dollars_out: float, **params: object
) -> dict[str, object]:
    """An entry of `model_list`; prices are dollars for a million tokens."""
    prices = {"input_cost_per_token": dollars_in / 1e6, "output_cost_per_token": dollars_out / 1e6}
    return {
        "model_name": name,
        "litellm_params": {"model": f"simulated/{model}", "simulated": script, **prices, **params},
    }


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Server]:
    """Headrace, ready to answer; stopped on the way out, whatever the reason. Raises `ServerFailed`."""
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as name:
        folder = Path(name)
        key = f"sk-{secrets.token_urlsafe(16)}"
        (folder / "config.yaml").write_text(yaml.safe_dump(config()))
        log = folder / "headrace.log"
        process = await _start(folder, log, key)
        try:
            yield Server(await _address(process, log), key)
        finally:
            await _stop(process)


async def _start(folder: Path, log: Path, key: str) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    ours = {
        "HEADRACE_MASTER_KEY": key,
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.db'}",
        "HEADRACE_DISABLE_LOGGING": "true",
    }
    command = [sys.executable, "-m", "api.cli", "serve", "--config", "config.yaml", "--port", "0"]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,  # without the .env of the folder that the demo is started in
            env=inherited | ours,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops Headrace in order
        )


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    """Port 0 let the system choose; the greeting says which it was."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT):
            while process.returncode is None:
                if found := re.search(r"listens on (http://\S+)", _end(log)):
                    return found[1]
                await asyncio.sleep(_POLL)
    raise ServerFailed(f"Headrace did not start. The end of its log:\n{_end(log)}")


def _end(log: Path) -> str:
    return log.read_text()[-2000:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
