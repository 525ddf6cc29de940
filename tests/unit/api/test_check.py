"""`headrace check`: everything that is missing is listed, nothing that is secret is shown."""

import asyncio
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from api.check import Finding, Ping, State, audit, failed, masked, render
from shared.config import Config, load
from shared.errors import Unavailable
from shared.settings import Settings, resolve

SECRETS = {
    "LITELLM_MASTER_KEY": "sk-master-secret-wxyz",
    "DATABASE_URL": "postgresql://user:hunter2@db:5432/headrace",
    "OPENAI_API_KEY": "sk-openai-secret-abcd",
}

TEXT = """
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY, database_url: os.environ/DATABASE_URL}
router_settings: {num_retry: 3, routing_strategy: least-busy, fallbacks: [{gpt-4o: [gone]}]}
litellm_settings: {cache_params: {password: os.environ/CACHE_PASSWORD}}
model_list:
  - {model_name: gpt-4o, litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_API_KEY}}
"""


async def answers() -> None:
    pass


def config_of(folder: Path, text: str, **environ: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ, missing=[])


async def findings_of(config: Config, pings: dict[str, Ping] | None = None) -> dict[tuple[str, str], Finding]:
    settings = resolve(Settings.model_construct(), config)
    return {(each.area, each.name): each for each in await audit(settings, config, Path("config.yaml"), pings or {})}


async def test_a_config_that_can_run_does_not_fail(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS), {"store": answers})

    assert not failed(findings.values())
    assert findings["provider", "openai"].state is State.OK
    assert findings["config", "config.yaml"].detail == "1 model at openai"
    assert findings["server", "store"].detail == "postgresql://db:5432"


async def test_every_variable_that_is_not_set_is_listed_instead_of_the_first(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, TEXT))

    missing = [name for (area, name), each in findings.items() if area == "variable" and each.state is State.MISSING]
    assert missing == ["LITELLM_MASTER_KEY", "DATABASE_URL", "OPENAI_API_KEY"]
    assert findings["variable", "OPENAI_API_KEY"].detail == (
        "named in config.yaml: model_list[0].litellm_params.api_key: set it, or remove the line"
    )
    assert findings["provider", "openai"].detail == "no key for gpt-4o: set OPENAI_API_KEY, or add api_key"
    assert failed(findings.values())


async def test_a_variable_that_only_ignored_keys_name_is_a_warning(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS))

    assert findings["variable", "CACHE_PASSWORD"].state is State.WARNING


async def test_unknown_and_ignored_keys_are_warnings_with_a_remedy_or_a_reason(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS))

    keys = {name: (each.state, each.detail) for (area, name), each in findings.items() if area == "key"}
    assert keys == {
        "router_settings.num_retry": (State.WARNING, "unknown, has no effect: did you mean num_retries?"),
        "litellm_settings.cache_params": (State.WARNING, "ignored: answers are not cached"),
        "router_settings.routing_strategy": (
            State.WARNING,
            "ignored: least-busy is not supported; deployments are chosen by simple-shuffle",
        ),
    }
    assert findings["config", "fallbacks.gpt-4o"].state is State.WARNING


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("modellist: []", "unknown, has no effect: did you mean model_list?"),
        ("colour: red", "unknown, has no effect: remove it"),
        ("model_list: [{model_nam: a, model_name: b, litellm_params: {model: gpt-4o}}]",
         "unknown, has no effect: did you mean model_name?"),
    ],
)  # fmt: skip
async def test_a_near_miss_is_guessed(tmp_path: Path, path: str, detail: str) -> None:
    findings = await findings_of(config_of(tmp_path, path))

    assert [each.detail for (area, _), each in findings.items() if area == "key"] == [detail]


async def test_models_that_cannot_be_routed_are_an_error(tmp_path: Path) -> None:
    config = config_of(tmp_path, "model_list: [{model_name: a, litellm_params: {model: bedrock/x}}]")

    findings = await findings_of(config)

    assert findings["config", "config.yaml"].state is State.ERROR
    assert "unknown provider 'bedrock'" in findings["config", "config.yaml"].detail


async def test_a_server_that_does_not_answer_is_an_error_without_its_password(tmp_path: Path) -> None:
    async def refuses() -> None:
        raise Unavailable("cannot connect to postgresql://user:hunter2@db:5432/headrace: refused")

    findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS), {"store": refuses, "queue": answers})

    assert findings["server", "queue"] == Finding("server", "queue", State.OK, "in this process")
    assert findings["server", "store"].state is State.ERROR
    assert findings["server", "store"].detail == (
        "postgresql://db:5432: cannot connect to postgresql://***@db:5432/headrace: refused: "
        "start it, or correct its address"
    )


async def test_silent_servers_are_given_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.check.PING_TIMEOUT", 0.01)

    async def silent() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS), {"queue": silent, "events": silent})

    assert findings["server", "queue"].state is State.ERROR
    assert findings["server", "events"].detail == (
        "in this process did not answer within 0.01 s: start it, or correct its address"
    )


async def test_the_embedded_store_is_named_by_its_file(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, ""), {"store": answers})

    assert findings["server", "store"].detail == "sqlite:headrace.db"


async def test_running_without_a_master_key_is_a_warning(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, ""))

    assert findings["settings", "master key"].state is State.WARNING
    assert not failed(findings.values())


async def test_no_secret_is_printed_and_brackets_survive(tmp_path: Path) -> None:
    findings = await findings_of(config_of(tmp_path, TEXT, **SECRETS), {"store": answers})
    console = Console(width=300, file=StringIO())

    console.print(render([*findings.values(), Finding("key", "n[bold]", State.OK, "d[red]")]))

    printed = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert not [value for value in (*SECRETS.values(), "hunter2", "secret") if value in printed]
    assert "sk-...abcd" in printed
    assert "n[bold]" in printed
    assert "d[red]" in printed


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("sk-0123456789abcd", "sk-...abcd"), ("0123456789abcdef", "...cdef"), ("sk-1234", "set"), ("", "set")],
)
def test_at_most_four_characters_of_a_key_are_shown(secret: str, shown: str) -> None:
    assert masked(secret) == shown


@pytest.mark.parametrize(
    ("state", "fails"),
    [(State.OK, False), (State.WARNING, False), (State.MISSING, True), (State.ERROR, True)],
)
def test_what_is_missing_or_wrong_fails_the_check(state: State, fails: bool) -> None:
    assert failed([Finding("area", "name", state, "")]) is fails
