"""`headrace import litellm`, and then the keys and models of LiteLLM at work."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.e2e.deployment import Headrace, Process, Servers, deployed
from tests.fakes.litellm_database import SALT, LiteLLMDatabase, boxed
from tests.fakes.upstream import ANSWER, FakeUpstream

KEY = "sk-a-key-of-litellm"


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


@pytest.fixture
async def theirs(database_url: str) -> AsyncIterator[LiteLLMDatabase]:
    database = await LiteLLMDatabase.made(database_url)
    yield database
    await database.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model_list": [], "general_settings": {"store_model_in_db": True}}))
    return path


async def command(config: Path, theirs: LiteLLMDatabase, *options: str, **variables: str) -> Ended:
    headrace = Headrace(config, Servers(), config.parent, {"HEADRACE_SALT_KEY": "sk-ours", **variables})
    arguments = ("import", "litellm", "--config", str(config), "--database-url", theirs.url, *options)
    log = config.parent / "import.log"
    log.unlink(missing_ok=True)
    process = Process(arguments, {**headrace.environment, "COLUMNS": "200"}, log, config.parent)
    await process.start()
    assert process.process is not None
    code = await asyncio.wait_for(process.process.wait(), 100)
    return Ended(code, process.log.read_text())


async def test_keys_and_models_of_litellm_work_after_the_import(theirs: LiteLLMDatabase, config: Path) -> None:
    async with FakeUpstream() as upstream:
        params = {"model": boxed("openai/gpt-4o"), "api_key": boxed("sk-up"), "api_base": boxed(f"{upstream.url}/v1")}
        await theirs.model("m1", "gpt", params)
        await theirs.key(KEY, key_alias="laptop", models=["gpt"], spend=0.5, max_budget=10.0)

        ended = await command(config, theirs, LITELLM_SALT_KEY=SALT)
        again = await command(config, theirs, LITELLM_SALT_KEY=SALT)

        assert (ended.code, again.code) == (0, 0), ended.output
        extra = {"HEADRACE_SALT_KEY": "sk-ours"}
        async with (
            deployed(config, Servers(), config.parent, extra=extra) as running,
            aiohttp.ClientSession() as session,
        ):
            body = {"model": "gpt", "messages": [{"role": "user", "content": "hello"}]}
            headers = {"authorization": f"Bearer {KEY}"}
            async with session.post(f"{running.url}/v1/chat/completions", json=body, headers=headers) as response:
                answer = await response.json()
                assert response.status == 200, answer
        assert answer["choices"][0]["message"]["content"] == ANSWER


async def test_a_dry_run_tells_what_would_come(theirs: LiteLLMDatabase, config: Path) -> None:
    await theirs.key(KEY, key_alias="laptop")

    ended = await command(config, theirs, "--dry-run")
    again = await command(config, theirs, "--dry-run")

    assert ended.code == 0, ended.output
    row = next(words for line in ended.output.splitlines() if (words := line.split())[:1] == ["keys"])
    assert row == ["keys", "1", "1", "0", "0", "0"]
    assert "would come" in ended.output
    assert again == ended


async def test_what_did_not_come_is_named_and_ends_with_exit_code_1(theirs: LiteLLMDatabase, config: Path) -> None:
    await theirs.model("m1", "gpt", {"model": boxed("openai/gpt-4o")})

    ended = await command(config, theirs, "--salt-key-env", "WRONG_SALT", WRONG_SALT="sk-wrong")

    assert ended.code == 1, ended.output
    assert "m1 (gpt)" in ended.output
    assert "salt key" in ended.output
    assert "sk-wrong" not in ended.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--salt-key-env", "NOT_SET"), "NOT_SET is not set"),
        (("--database-url", "mysql://x/y"), "postgresql://"),
        (("--database-url", "postgresql://u:hunter2@127.0.0.1:1/x"), "no answer from LiteLLM's database"),
    ],
)
async def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    theirs: LiteLLMDatabase, config: Path, options: tuple[str, ...], told: str
) -> None:
    ended = await command(config, theirs, *options)

    assert ended.code == 2, ended.output
    assert told in ended.output
    assert ended.output.count("\n") == 1
    assert "hunter2" not in ended.output
