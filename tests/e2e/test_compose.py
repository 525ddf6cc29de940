"""docker-compose.yml does what it says, proven without Docker: its commands, environment and health checks run as
processes. Only what Docker would provide is replaced: the servers' addresses, the published port, the mounted file."""

import asyncio
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from dotenv import dotenv_values

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
_PORTS = ("4000", "4001")
_HEALTHY_WITHIN = 120.0  # seconds; every look at it is a process of its own
_STOP_WITHIN = 30.0  # seconds; there is nothing to finish
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@pytest.fixture
def variables() -> dict[str, str]:
    """What `cp .env.example .env` gives."""
    return {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}


@pytest.fixture
def services(variables: dict[str, str], rabbitmq_url: str, redis_url: str, database_url: str) -> dict[str, Any]:
    """Our services, as Compose would run them, on the private servers and a free port."""
    text = _substituted((ROOT / "docker-compose.yml").read_text(), variables)
    ports = {port: str(free_port()) for port in _PORTS}
    servers = {"@rabbitmq:": rabbitmq_url, "@redis:": redis_url, "@postgres:": database_url}
    ours = {name: each for name, each in yaml.safe_load(text)["services"].items() if "build" in each}
    for service in ours.values():
        mounted = dict(reversed(mount.removesuffix(":ro").split(":")) for mount in service["volumes"])
        service["command"] = [_placed(word, ports, mounted) for word in service["command"]]
        service["healthcheck"]["test"] = [_at(word, ports) for word in service["healthcheck"]["test"]]
        for name, value in service["environment"].items():
            service["environment"][name] = next((url for host, url in servers.items() if host in value), value)
    return ours


@pytest.mark.timeout(600)
async def test_the_composed_services_come_up_healthy_and_answer_a_chat(
    services: dict[str, Any], variables: dict[str, str], tmp_path: Path, namespace: str
) -> None:
    variables["HEADRACE_NAMESPACE"] = namespace
    base = f"http://127.0.0.1:{services['api']['command'][services['api']['command'].index('--port') + 1]}"
    headers = {"Authorization": f"Bearer {variables['HEADRACE_MASTER_KEY']}"}

    async with AsyncExitStack() as stack:
        for name, service in services.items():
            await stack.enter_async_context(_running(name, service, variables, tmp_path))
        timeout = aiohttp.ClientTimeout(total=60)
        client = await stack.enter_async_context(aiohttp.ClientSession(base, headers=headers, timeout=timeout))
        async with client.get("/v1/models") as response:
            models = [model["id"] for model in (await response.json())["data"]]
        body = {"model": models[0], "messages": [{"role": "user", "content": "Hello"}]}
        async with client.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()

    assert response.status == 200, answer
    assert answer["choices"][0]["message"]["content"]


def test_the_api_is_published_on_loopback_only_unless_told_otherwise(variables: dict[str, str]) -> None:
    composed = (ROOT / "docker-compose.yml").read_text()

    for given in (variables, {**variables, "HEADRACE_PUBLISH": ""}):
        services = yaml.safe_load(_substituted(composed, given))["services"]
        published = [port for service in services.values() for port in service.get("ports", [])]
        assert published == ["127.0.0.1:4000:4000"]


@asynccontextmanager
async def _running(
    name: str, service: Mapping[str, Any], variables: Mapping[str, str], folder: Path
) -> AsyncIterator[None]:
    """The service's process, healthy; ended on the way out, as `docker stop` does."""
    env = {"PATH": _path(), **_kept(variables), **service["environment"]}
    program, *arguments = service["command"]
    executable = shutil.which(program, path=_path())
    assert executable, f"{program} is not installed beside {sys.executable}: run `make install`"
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            executable, *arguments, env=env, stdout=output, stderr=output, cwd=folder
        )
    try:
        await _healthy(service["healthcheck"]["test"], process, env, log)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


async def _healthy(test: list[str], process: asyncio.subprocess.Process, env: Mapping[str, str], log: Path) -> None:
    """Ask as Docker does, only more often."""
    deadline = time.monotonic() + _HEALTHY_WITHIN
    while True:
        check = await asyncio.create_subprocess_exec(
            *test[1:], env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        if await check.wait() == 0:
            return
        assert process.returncode is None, f"it ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not healthy in {_HEALTHY_WITHIN:.0f} s:\n{log.read_text()}"
        await asyncio.sleep(0.2)


def _substituted(text: str, variables: Mapping[str, str]) -> str:
    """Compose's ${NAME}, ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        given = variables.get(name, "")
        assert given or operator != "?", f"{name} {rest}"
        return given or (rest if operator == "-" else "")

    return _VARIABLE.sub(value, text)


def _placed(word: str, ports: Mapping[str, str], mounted: Mapping[str, str]) -> str:
    return str(ROOT / mounted[word]) if word in mounted else ports.get(word, word)


def _at(word: str, ports: Mapping[str, str]) -> str:
    """A health check's address, with the port that the process really has."""
    for published, port in ports.items():
        word = word.replace(f":{published}/", f":{port}/")
    return word


def _kept(variables: Mapping[str, str]) -> dict[str, str]:
    """`env_file` without its empty lines, which mean the default."""
    return {name: value for name, value in variables.items() if value}


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
