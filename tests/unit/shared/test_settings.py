"""Settings: whose variable wins, what the config fills, and what a wrong value earns."""

from base64 import b64encode
from pathlib import Path

import pytest

from shared.config import Config, load
from shared.errors import ConfigError
from shared.settings import MEGABYTE, Settings, environment, load_settings, resolve


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env but the test's own
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]  # every field has AliasChoices
            monkeypatch.delenv(str(name), raising=False)


def config_of(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def test_without_a_variable_everything_is_embedded() -> None:
    settings = load_settings()

    assert (settings.queue_url, settings.events_url, settings.limits_url) == ("memory://", "memory://", "memory://")
    assert settings.store_url == "sqlite:///headrace.db"
    assert (settings.host, settings.port, settings.namespace) == ("127.0.0.1", 4000, "headrace")
    assert (settings.queue_bound, settings.concurrency, settings.max_body_bytes) == (10_000, 256, 100 * MEGABYTE)
    assert (settings.keepalive_seconds, settings.grace_seconds, settings.request_timeout) == (5, 30, 600)
    assert settings.master_key is None


def test_urls_of_servers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://u:p@mq/")
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379/1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@db/x")

    settings = load_settings()

    assert settings.queue_url == "amqp://u:p@mq/"
    assert (settings.events_url, settings.limits_url) == ("redis://cache:6379/1", "redis://cache:6379/1")
    assert settings.store_url == "postgresql://u:p@db/x"


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "7000", "REDIS_PASSWORD": "a/b@c"}, "redis://:a%2Fb%40c@cache:7000/0"),
        ({"REDIS_HOST": "cache", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p", "REDIS_SSL": "true"},
         "rediss://u:p@cache:6379/0"),
        ({"REDIS_HOST": "::1", "REDIS_DB": "2"}, "redis://[::1]:6379/2"),
        ({"REDIS_HOST": "cache", "REDIS_URL": "redis://wins"}, "redis://wins"),
        ({"REDIS_PASSWORD": "alone"}, None),
    ],
)  # fmt: skip
def test_redis_may_be_given_in_parts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert load_settings().redis_url == url


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({"PORT": "1"}, 1),
        ({"PORT": "1", "LITELLM_PORT": "2"}, 2),
        ({"PORT": "1", "LITELLM_PORT": "2", "HEADRACE_PORT": "3"}, 3),
        ({"HEADRACE_PORT": "", "LITELLM_PORT": "2"}, 2),
    ],
)
def test_our_variable_wins_over_litellms_and_that_over_the_general_one(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], port: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert load_settings().port == port


def test_variables_that_applications_use_to_reach_a_proxy_mean_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    monkeypatch.setenv("LITELLM_API_BASE", "http://localhost:4000")
    monkeypatch.setenv("LITELLM_API_KEY", "sk-1234")

    assert load_settings() == before


def test_a_dotenv_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADRACE_PORT=5000\nHEADRACE_HOST=0.0.0.0\nOPENAI_API_KEY=sk-1\n")
    monkeypatch.setenv("HEADRACE_PORT", "6000")

    settings = load_settings()

    assert (settings.port, settings.host) == (6000, "0.0.0.0")
    assert environment()["HEADRACE_PORT"] == "6000"
    assert environment()["HEADRACE_HOST"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("HEADRACE_PORT", "http", "expected a whole number, got 'http': write e.g. HEADRACE_PORT=4000"),
        ("LITELLM_PORT", "70000", "expected a number of 65535 or less, got '70000': write e.g. LITELLM_PORT=4000"),
        ("HEADRACE_QUEUE_BOUND", "0", "expected a number over 0, got '0': write e.g. HEADRACE_QUEUE_BOUND=10000"),
        ("REDIS_SSL", "perhaps", "expected true or false, got 'perhaps': write e.g. REDIS_SSL=False"),
        ("LITELLM_LOG", "loud", "expected 'debug', 'info', 'warning', 'error' or 'critical', got 'loud': "
         "write e.g. LITELLM_LOG=info"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as raised:
        load_settings()

    assert str(raised.value) == f"environment: {name}: {line}"


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_webhook_secret_is_the_base64_of_24_to_64_bytes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    secret = f"whsec_{b64encode(bytes(size)).decode()}"
    monkeypatch.setenv("HEADRACE_WEBHOOK_SECRET", secret)

    settings = load_settings()

    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == secret
    assert not settings.webhook_allow_private


@pytest.mark.parametrize(
    "secret",
    ["whsec_", b64encode(bytes(32)).decode(), "whsec_hush!", f"whsec_{b64encode(bytes(23)).decode()}",
     f"whsec_{b64encode(bytes(65)).decode()}"],
    ids=["empty", "no prefix", "no base64", "short", "long"],
)  # fmt: skip
def test_another_webhook_secret_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("HEADRACE_WEBHOOK_SECRET", secret)

    with pytest.raises(ConfigError) as raised:
        load_settings()

    assert str(raised.value) == (
        "environment: HEADRACE_WEBHOOK_SECRET: expected 'whsec_' and the base64 of 24 to 64 bytes, got a text: "
        "write e.g. HEADRACE_WEBHOOK_SECRET=whsec_$(head -c 32 /dev/urandom | base64)"
    )


def test_secrets_are_not_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_MASTER_KEY", "LITELLM_SALT_KEY", "RABBITMQ_URL", "REDIS_URL", "DATABASE_URL",
                 "REDIS_PASSWORD"):  # fmt: skip
        monkeypatch.setenv(name, "amqp://hush")

    assert "hush" not in repr(load_settings())


CONFIG = """
general_settings: {master_key: sk-config, database_url: 'postgresql://config', max_request_size_mb: 2,
                   disable_logging: true}
router_settings: {redis_host: config, redis_password: pw, timeout: 30}
litellm_settings: {json_logs: true}
environment_variables: {RABBITMQ_URL: 'amqp://config', HEADRACE_CONCURRENCY: 7}
"""


def test_the_config_fills_what_the_environment_leaves_unset(tmp_path: Path) -> None:
    settings = resolve(load_settings(), config_of(tmp_path, CONFIG))

    assert settings.master_key is not None
    assert settings.master_key.get_secret_value() == "sk-config"
    assert (settings.store_url, settings.queue_url) == ("postgresql://config", "amqp://config")
    assert settings.redis_url == "redis://:pw@config:6379/0"
    assert (settings.concurrency, settings.log_format, settings.disable_logging) == (7, "json", True)
    assert (settings.request_timeout, settings.max_body_bytes) == (30, 2 * MEGABYTE)


def test_the_environment_wins_over_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-environment")
    monkeypatch.setenv("REDIS_HOST", "environment")
    monkeypatch.setenv("DATABASE_URL", "postgresql://environment")
    monkeypatch.setenv("HEADRACE_CONCURRENCY", "9")

    settings = resolve(load_settings(), config_of(tmp_path, CONFIG))

    assert settings.master_key is not None
    assert settings.master_key.get_secret_value() == "sk-environment"
    assert settings.redis_url == "redis://environment:6379/0"
    assert (settings.store_url, settings.concurrency) == ("postgresql://environment", 9)


def test_a_wrong_setting_among_the_configs_variables_names_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, "environment_variables: {HEADRACE_PORT: high}")

    with pytest.raises(ConfigError, match=r"^config\.yaml: environment_variables: HEADRACE_PORT: expected a whole"):
        resolve(load_settings(), config)
