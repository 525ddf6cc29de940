"""The `headrace` command: one line and exit code 2 for what cannot run, and an end that loses nothing."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from api.response_headers import VERSION
from tests.e2e import deployment
from tests.e2e.conftest import write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Process, Servers, deployed
from tests.fakes.upstream import ANSWER, FakeUpstream

module_loop = pytest.mark.asyncio(loop_scope="module")

SIMULATED = """\
model_list:
  - model_name: simulated
    litellm_params: {model: simulated/echo}
"""


@pytest.fixture(autouse=True)
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a command is the command, imports and all."""
    monkeypatch.setattr(deployment, "starter", deployment.execute)


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


def entry(params: str) -> str:
    return f"model_list:\n  - model_name: a\n    litellm_params: {params}\n"


BAD_CONFIGS = {
    "an unknown provider": (entry("{model: nonsense/model}"), ["model_list[0]", "nonsense"]),
    "a missing variable": (
        entry("{model: gpt-4o, api_key: os.environ/NOT_SET_ANYWHERE}"),
        ["api_key", "NOT_SET_ANYWHERE"],
    ),
    "a wrong type": (entry("{model: gpt-4o, api_key: x, rpm: many}"), ["model_list[0].litellm_params.rpm", "a number"]),
    "no model": (entry("{api_key: x}"), ["model_list[0].litellm_params.model", "required"]),
    "a cycle of aliases": (
        SIMULATED + "router_settings:\n  model_group_alias: {b: c, c: b}\n",
        ["router_settings.model_group_alias", "cycle", "b -> c -> b"],
    ),
    "not YAML": ("model_list: [", ["config.yaml"]),
    "a list": ("- model_list\n", ["config.yaml"]),
}


@pytest.mark.parametrize(("command", "case"), [*(("serve", case) for case in BAD_CONFIGS), ("worker", "a wrong type")])
async def test_a_config_that_cannot_run_is_one_line_that_says_why(tmp_path: Path, command: str, case: str) -> None:
    text, expected = BAD_CONFIGS[case]

    ended = await headrace(tmp_path, command, "--config", str(written(tmp_path, text)))

    assert ended.code == 2
    assert ended.output.startswith("headrace: ")
    assert ended.output.count("\n") == 1
    assert [part for part in expected if part not in ended.output] == []


async def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = await headrace(tmp_path, "serve", "--config", str(tmp_path / "nothing.yaml"))

    assert ended.code == 2
    assert "nothing.yaml" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_open_broker_does_not_listen_to_the_world(tmp_path: Path, host: str) -> None:
    ended = await headrace(tmp_path, "serve", "--config", str(written(tmp_path, SIMULATED)), "--host", host)

    assert ended.code == 2
    assert ended.output.count("\n") == 1
    assert "HEADRACE_MASTER_KEY" in ended.output


async def test_a_worker_needs_servers(tmp_path: Path) -> None:
    ended = await headrace(tmp_path, "worker", "--config", str(written(tmp_path, SIMULATED)))

    assert ended.code == 2
    assert ended.output.count("\n") == 1
    assert "RABBITMQ_URL and REDIS_URL" in ended.output


async def test_several_api_processes_need_servers(tmp_path: Path) -> None:
    ended = await headrace(tmp_path, "serve", "--config", str(written(tmp_path, SIMULATED)), "--workers", "2")

    assert ended.code == 2
    assert "--workers 2 needs RABBITMQ_URL and REDIS_URL" in ended.output


async def test_a_wrong_variable_is_one_line_without_its_value(tmp_path: Path) -> None:
    config = str(written(tmp_path, SIMULATED))

    ended = await headrace(tmp_path, "serve", "--config", config, environment={"HEADRACE_CONCURRENCY": "many"})

    assert ended.code == 2
    assert ended.output.count("\n") == 1
    assert "HEADRACE_CONCURRENCY" in ended.output


async def test_check_finds_nothing_wrong_with_a_good_config(tmp_path: Path) -> None:
    ended = await headrace(tmp_path, "check", "--config", str(written(tmp_path, SIMULATED)))

    assert ended.code == 0
    assert all(word in ended.output for word in ("area", "server", "queue", "store", "ok"))


async def test_check_lists_all_that_is_missing_and_shows_no_secret(tmp_path: Path) -> None:
    text = entry("{model: gpt-4o, api_key: os.environ/FIRST_MISSING, timout: 5}")
    text += "  - model_name: b\n    litellm_params: {model: gpt-4o, api_key: os.environ/SECOND_MISSING}\n"
    secret = "sk-never-to-be-shown-0123456789"

    ended = await headrace(
        tmp_path, "check", "--config", str(written(tmp_path, text)), environment={"HEADRACE_MASTER_KEY": secret}
    )

    assert ended.code == 1
    assert all(word in ended.output for word in ("FIRST_MISSING", "SECOND_MISSING", "missing"))
    assert secret not in ended.output


async def test_check_says_which_server_does_not_answer(tmp_path: Path) -> None:
    urls = {"REDIS_URL": "redis://:hunter2hunter2@127.0.0.1:1/0"}

    ended = await headrace(tmp_path, "check", "--config", str(written(tmp_path, SIMULATED)), environment=urls)

    assert ended.code == 1
    assert "events" in ended.output
    assert "hunter2" not in ended.output


@pytest.mark.parametrize("argument", ["version", "--version"])
async def test_version_is_printed(tmp_path: Path, argument: str) -> None:
    assert await headrace(tmp_path, argument) == Ended(0, f"{VERSION}\n")


@module_loop
@pytest.mark.parametrize("stream", [False, True])
async def test_sigterm_finishes_what_is_running(
    servers: Servers, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory, stream: bool
) -> None:
    upstream.reset()
    upstream.latency, upstream.pace = (0.0, 0.02) if stream else (1.5, 0.0)
    folder = tmp_path_factory.mktemp("ended")
    async with deployed(write_config(folder, upstream), servers, folder) as running:
        asking = asyncio.create_task(chat(running, stream))
        await asyncio.wait_for(upstream.arrived(1), 60)

        began = time.monotonic()
        codes = await asyncio.gather(*(each.stop() for each in (*running.apis, *running.workers)))
        answer = await asking

    assert codes == [0] * len(codes)
    assert time.monotonic() - began < 25  # less than the grace period: there was no need of it
    assert len(upstream.requests) == 1
    assert answer.endswith("data: [DONE]\n\n") if stream else ANSWER in answer


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


async def headrace(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """The command run to its end, with nothing configured but what is given."""
    clean = Headrace(folder / "config.yaml", Servers(), folder).environment
    del clean["HEADRACE_MASTER_KEY"]
    process = Process(arguments, clean | {"COLUMNS": "200"} | (environment or {}), folder / "output.log", folder)
    await process.start()
    assert process.process is not None
    code = await asyncio.wait_for(process.process.wait(), 90)
    return Ended(code, process.log.read_text())


async def chat(running: Headrace, stream: bool) -> str:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {MASTER_KEY}"}) as session,
        session.post(f"{running.url}/v1/chat/completions", json=body) as answer,
    ):
        return await answer.text()
