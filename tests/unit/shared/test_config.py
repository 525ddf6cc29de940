"""Reading config.yaml: what is honoured, what is listed, and the one line that each mistake earns."""

from pathlib import Path

import pytest

from shared.config import Config, default_config, load
from shared.config_variables import Reference
from shared.errors import ConfigError

ENVIRON = {
    "LITELLM_MASTER_KEY": "sk-master-0123456789",
    "DATABASE_URL": "postgresql://u:hunter2@db/headrace",
    "OPENAI_API_KEY": "sk-openai-0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
    "GEMINI_API_KEY": "AIza0123456789",
}

FROM_THE_ISSUE = """
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
  disable_logging: false
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      timeout: 60
  - model_name: claude-3-5-sonnet
    litellm_params:
      model: claude-3-5-sonnet-20240620
      api_key: os.environ/ANTHROPIC_API_KEY
      headers: {anthropic-beta: 'prompt-caching-2024-07-31'}
  - model_name: gemini-pro
    litellm_params:
      model: gemini/gemini-1.5-pro
      api_key: os.environ/GEMINI_API_KEY
      safety_settings: [{category: HARM_CATEGORY_HARASSMENT, threshold: BLOCK_NONE}]
  - model_name: best-model
    litellm_params: {model: gpt-4o}
"""


def written(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str, **environ: str) -> Config:
    return load(written(folder, text), environ)


def test_a_litellm_file_runs_unchanged_with_every_line_honoured(tmp_path: Path) -> None:
    config = loaded(tmp_path, FROM_THE_ISSUE, **ENVIRON)

    general = config.general_settings
    assert general.master_key is not None
    assert general.master_key.get_secret_value() == ENVIRON["LITELLM_MASTER_KEY"]
    assert general.database_url is not None
    assert general.database_url.get_secret_value() == ENVIRON["DATABASE_URL"]
    assert general.disable_logging is False
    gpt, claude, gemini, best = config.entries
    assert gpt.params.timeout == 60
    assert gpt.params.api_key is not None
    assert gpt.params.api_key.get_secret_value() == ENVIRON["OPENAI_API_KEY"]
    assert claude.params.headers == {"anthropic-beta": "prompt-caching-2024-07-31"}
    assert gemini.defaults == {"safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]}
    assert best.params.model == "gpt-4o"
    assert (config.unknown, config.ignored) == ([], [])


def test_no_secret_is_in_the_repr_of_a_config(tmp_path: Path) -> None:
    config = loaded(tmp_path, FROM_THE_ISSUE + "environment_variables: {EXTRA: hidden-value}\n", **ENVIRON)

    assert not [value for value in [*ENVIRON.values(), "hidden-value"] if value in repr(config)]


ENTRY = "model_list: [{model_name: a, litellm_params: {model: openai/a, %s}}]"
PARAMS = "config.yaml: model_list[0].litellm_params"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ENTRY % "rpm: many", f"{PARAMS}.rpm: expected a number, got 'many': write e.g. rpm: 600"),
        (ENTRY % "rpm: 0", f"{PARAMS}.rpm: expected a number over 0, got 0: write e.g. rpm: 600"),
        (ENTRY % "tpm: .inf", f"{PARAMS}.tpm: expected a number, got inf: write e.g. tpm: 600"),
        (ENTRY % "weight: -1", f"{PARAMS}.weight: expected a number of 0 or more, got -1: write e.g. weight: 5"),
        (ENTRY % "order: 1.5", f"{PARAMS}.order: expected a whole number, got 1.5: write e.g. order: 5"),
        (ENTRY % "drop_params: often", f"{PARAMS}.drop_params: expected true or false, got 'often': write e.g. "
         "drop_params: true"),
        (ENTRY % "api_key: [sk-1]", f'{PARAMS}.api_key: expected text, got a list: write e.g. api_key: "text"'),
        (ENTRY % "headers: no", f"{PARAMS}.headers: expected a mapping, got false: write e.g. headers: "
         "{name: value}"),
        ("model_list: {a: b}", "config.yaml: model_list: expected a list, got a mapping: write e.g. "
         "model_list: [{...}]"),
        ("model_list: [gpt-4o]", "config.yaml: model_list[0]: expected a mapping, got 'gpt-4o': write e.g. "
         "model_list: {key: value}"),
        ("model_list: [{model_name: a}]", "config.yaml: model_list[0].litellm_params: is required: write e.g. "
         "litellm_params: {model: openai/gpt-4o}"),
        ("model_list: [{litellm_params: {model: gpt-4o}}]", "config.yaml: model_list[0].model_name: is required: "
         "write e.g. model_name: gpt-4o"),
        ("general_settings: on", "config.yaml: general_settings: expected a mapping, got true: write e.g. "
         "general_settings: {key: value}"),
        ("router_settings: {fallbacks: [{a: {b: c}}]}", "config.yaml: router_settings.fallbacks[0].a: expected a list, "
         "got a mapping: write e.g. a: [a, b]"),
        ("router_settings: {model_group_alias: {a: [b]}}", "config.yaml: router_settings.model_group_alias.a: expected "
         "a mapping, got a list: write e.g. a: {name: value}"),
        ("environment_variables: {A: [b]}", "config.yaml: environment_variables.A: expected text, got a list: "
         "write e.g. A: text"),
        ("[]", "config.yaml: top level: expected a mapping, got a list: write e.g. model_list: []"),
        ("include: 5", "config.yaml: include: expected a list of files: write e.g. include: [models.yaml]"),
        ("include: [gone.yaml]", "config.yaml: include: no such file 'gone.yaml': create it, or remove the line"),
        ("include: [config.yaml]", "config.yaml: include: files include each other (config.yaml -> config.yaml): "
         "remove one of the includes"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_file_key_and_remedy(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text)

    assert str(raised.value) == line


@pytest.mark.parametrize(
    "text",
    [
        "general_settings: {master_key: [sk-hush-hush-0123]}",
        "general_settings: {master_key: sk-hush-hush-0123",
        "general_settings:\n  master_key: *sk-hush-hush-0123\n",
        "general_settings: {max_request_size_mb: sk-hush-hush-0123}",
        "router_settings: {redis_port: os.environ/HUSH}",
        "general_settings: {master_key: 'sk-hush-hush-0123', master_key: \t}",
    ],
)
def test_no_mistake_reveals_a_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text, HUSH="sk-hush-hush-0123")

    assert "hush-hush" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_wrong_value_from_the_environment_is_shown_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rpm: expected a number, got the value of os\.environ/RPM: write e\.g\."):
        loaded(tmp_path, ENTRY % "rpm: os.environ/RPM", RPM="s3cret")


def test_numbers_and_booleans_may_come_from_the_environment(tmp_path: Path) -> None:
    config = loaded(tmp_path, ENTRY % "rpm: os.environ/RPM, drop_params: os.environ/DROP", RPM="600", DROP="true")

    assert (config.entries[0].params.rpm, config.entries[0].params.drop_params) == (600, True)


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config\.yaml: line 2, column \d+: "):
        loaded(tmp_path, "model_list:\n  - {model_name: a, b: c: d}\n")


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}], ids=["unset", "empty"])
def test_a_missing_variable_is_an_error_that_says_where(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, ENTRY % "api_key: os.environ/OPENAI_API_KEY", **environ)

    assert str(raised.value) == (
        f"{PARAMS}.api_key: environment variable OPENAI_API_KEY is not set or empty: set it, or remove the line"
    )


def test_a_lenient_load_collects_every_missing_variable_instead(tmp_path: Path) -> None:
    path = written(tmp_path, FROM_THE_ISSUE)
    missing: list[Reference] = []

    config = load(path, {}, missing)

    assert [each.variable for each in missing] == [
        "LITELLM_MASTER_KEY", "DATABASE_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY",
    ]  # fmt: skip
    assert len(config.entries) == 4
    assert config.general_settings.master_key is None


def test_a_lenient_load_skips_an_entry_whose_model_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "model_list: [{model_name: a, litellm_params: {model: os.environ/MODEL}}]")
    missing: list[Reference] = []

    config = load(path, {}, missing)

    assert config.entries == ()
    assert [each.key for each in missing] == ["model_list[0].litellm_params.model"]


def test_a_variable_that_only_an_ignored_key_names_may_be_missing(tmp_path: Path) -> None:
    config = loaded(tmp_path, "litellm_settings: {cache_params: {password: os.environ/NOBODY_SET_IT}}")

    (reference,) = config.references
    assert (reference.variable, reference.present, reference.used) == ("NOBODY_SET_IT", False, False)


def test_keys_that_nobody_knows_are_listed_and_never_fail(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "colour: red\nrouter_settings: {num_retry: 3}\nmodel_list:\n"
        "  - {model_name: a, litellm_params: {model: gpt-4o}, comment: x}\n",
    )

    assert sorted(config.unknown) == ["colour", "model_list[0].comment", "router_settings.num_retry"]


def test_keys_of_litellm_that_are_not_used_are_listed_with_a_reason(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "guardrails: []\nlitellm_settings: {callbacks: [langfuse]}\nrouter_settings: {routing_strategy: least-busy}\n"
        + ENTRY % "aws_secret_access_key: hush",
    )

    assert [each.key for each in config.ignored] == [
        "guardrails",
        "litellm_settings.callbacks",
        "router_settings.routing_strategy",
        "model_list[0].litellm_params.aws_secret_access_key",
    ]
    assert all(each.reason for each in config.ignored)
    assert config.entries[0].defaults == {}


def test_null_means_unset(tmp_path: Path) -> None:
    text = "router_settings:\nlitellm_settings: {drop_params: null}\n" + ENTRY % "rpm: null, top_p: "

    config = loaded(tmp_path, text)

    assert config.litellm_settings.drop_params is False
    assert config.entries[0].params.rpm is None
    assert config.entries[0].defaults == {}


def test_environment_variables_of_the_file_are_seen_by_references_and_exported(tmp_path: Path) -> None:
    text = "environment_variables: {KEY: os.environ/OUTER, PORT: 4001}\n" + ENTRY % "api_key: os.environ/KEY"
    environ = {"OUTER": "sk-1", "KEY": "old"}

    config = load(written(tmp_path, text), environ)

    key = config.entries[0].params.api_key
    assert key is not None
    assert key.get_secret_value() == "sk-1"
    assert (config.environ["KEY"], config.environ["PORT"]) == ("sk-1", "4001")
    assert environ == {"OUTER": "sk-1", "KEY": "old"}


def test_included_files_add_models_and_fill_settings(tmp_path: Path) -> None:
    models = "model_list: [{model_name: b, litellm_params: {model: gpt-4o}}]\ninclude: [deeper/more.yaml]\n"
    written(tmp_path, models + "router_settings: {num_retries: 9, timeout: 7}", "parts/models.yaml")
    written(tmp_path, "model_list: [{model_name: c, litellm_params: {model: gpt-4o}}]", "parts/deeper/more.yaml")

    config = loaded(tmp_path, "include: [parts/models.yaml]\nrouter_settings: {num_retries: 1}\n" + ENTRY % "rpm: 1")

    assert [each.name for each in config.entries] == ["a", "b", "c"]
    assert (config.router_settings.num_retries, config.router_settings.timeout) == (1, 7)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("model_list: [{model_name: b, litellm_params: {model: b, rpm: x}}]", "model_list[0].litellm_params.rpm"),
        ("router_settings: {timeout: x}", "router_settings.timeout"),
    ],
)
def test_a_mistake_in_an_included_file_names_that_file(tmp_path: Path, text: str, place: str) -> None:
    written(tmp_path, text, "parts/models.yaml")

    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, "include: [parts/models.yaml]\nrouter_settings: {num_retries: 1}\n" + ENTRY % "rpm: 1")

    assert str(raised.value).startswith(f"parts/models.yaml: {place}: expected a number")


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "include: config.yaml", "b.yaml")

    with pytest.raises(ConfigError, match=r"\(config\.yaml -> b\.yaml -> config\.yaml\)"):
        loaded(tmp_path, "include: b.yaml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"model_list: \xff\xfe")

    with pytest.raises(ConfigError, match=r"^config\.yaml: not a text in UTF-8: save it as UTF-8$"):
        load(path, {})


def test_without_a_file_the_simulated_model_and_providers_with_a_key_are_there() -> None:
    config = default_config({"OPENAI_API_KEY": "sk-1", "OLLAMA_API_BASE": "http://gpu:11434", "GROQ_API_KEY": ""})

    assert [each.name for each in config.entries] == ["simulated", "ollama/*", "openai/*"]
