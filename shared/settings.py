"""What a process needs to know from its environment: addresses, secrets, sizes. A profile is three URLs; unset means
embedded. LiteLLM's variable names are accepted beside ours."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared.config import Config
from shared.config_errors import expectation, shown
from shared.errors import ConfigError
from shared.management import Management, management
from shared.webhooks import is_secret

MEGABYTE = 1024 * 1024


def _variable(*names: str, **rules: Any) -> Any:
    """A field read from the first of these variables that is set."""
    return Field(validation_alias=AliasChoices(*names), **rules)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _signing(secret: SecretStr) -> SecretStr:
    if not is_secret(secret.get_secret_value()):
        raise PydanticCustomError("webhook_secret", "not a secret of Standard Webhooks")
    return secret


LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)]


class Settings(BaseSettings):
    """Build it with `load_settings`, which turns a wrong value into a `ConfigError`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        case_sensitive=True,  # a shell variable `host` is none of ours
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    master_key: SecretStr | None = _variable("HEADRACE_MASTER_KEY", "LITELLM_MASTER_KEY", default=None)
    salt_key: SecretStr | None = _variable("HEADRACE_SALT_KEY", "LITELLM_SALT_KEY", default=None)
    host: str = _variable("HEADRACE_HOST", "HOST", default="127.0.0.1")
    port: int = _variable("HEADRACE_PORT", "LITELLM_PORT", "PORT", default=4000, ge=0, le=65535)
    """0 lets the operating system choose."""
    config: Path | None = _variable("HEADRACE_CONFIG", "CONFIG_FILE_PATH", default=None)

    rabbitmq_url: SecretStr | None = _variable("RABBITMQ_URL", default=None)
    redis_url_given: SecretStr | None = _variable("REDIS_URL", default=None)
    redis_host: str | None = _variable("REDIS_HOST", default=None)
    redis_port: int = _variable("REDIS_PORT", default=6379, gt=0, le=65535)
    redis_username: str = _variable("REDIS_USERNAME", default="")
    redis_password: SecretStr | None = _variable("REDIS_PASSWORD", default=None)
    redis_db: int = _variable("REDIS_DB", default=0, ge=0)
    redis_ssl: bool = _variable("REDIS_SSL", default=False)
    database_url: SecretStr | None = _variable("DATABASE_URL", default=None)
    namespace: str = _variable("HEADRACE_NAMESPACE", default="headrace", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """First part of every queue's, key's and channel's name; installations that share servers must differ in it."""

    queue_bound: int = _variable("HEADRACE_QUEUE_BOUND", default=10_000, gt=0)
    """Jobs that may wait in one lane."""
    concurrency: int = _variable("HEADRACE_CONCURRENCY", default=256, gt=0)
    """Jobs that one worker process runs at a time."""
    max_body_bytes: int = _variable("HEADRACE_MAX_BODY_BYTES", default=100 * MEGABYTE, gt=0)
    max_file_bytes: int = _variable("HEADRACE_MAX_FILE_BYTES", default=512 * MEGABYTE, gt=0)
    max_batch_file_bytes: int = _variable("HEADRACE_MAX_BATCH_FILE_BYTES", default=200 * MEGABYTE, gt=0)
    max_uploads: int = _variable("HEADRACE_MAX_UPLOADS", default=16, gt=0)
    """Files that one api process takes in at a time, about 2 MiB of memory each."""
    request_timeout: float = _variable("HEADRACE_REQUEST_TIMEOUT", default=600.0, gt=0)
    """Seconds for a request, waiting and retries included, when neither it nor the config sets a time."""
    keepalive_seconds: float = _variable("HEADRACE_KEEPALIVE_SECONDS", default=5.0, gt=0)
    """Seconds of silence on a stream after which a comment is sent."""
    grace_seconds: float = _variable("HEADRACE_GRACE_SECONDS", default=30.0, ge=0)
    """Seconds that running jobs get to finish after SIGTERM."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_signing)] | None = _variable(
        "HEADRACE_WEBHOOK_SECRET", default=None
    )
    """Signs webhooks; none are sent without it."""
    webhook_allow_private: bool = _variable("HEADRACE_WEBHOOK_ALLOW_PRIVATE", default=False)
    """Webhooks may go to private, loopback and link-local addresses."""
    slack_webhook_url: SecretStr | None = _variable("SLACK_WEBHOOK_URL", default=None)
    """Where `alerting: [slack]` sends alerts."""
    alert_webhook_url: SecretStr | None = _variable("WEBHOOK_URL", default=None)
    """Where `alerting: [webhook]` sends them."""

    log_level: LogLevel = _variable("HEADRACE_LOG_LEVEL", "LITELLM_LOG", default="info")
    log_format: LogFormat = _variable("HEADRACE_LOG_FORMAT", default="auto")
    """auto: console on a terminal, else JSON."""
    disable_logging: bool = _variable("HEADRACE_DISABLE_LOGGING", default=False)
    """No log line for each request."""
    disable_spend_logs: bool = _variable("HEADRACE_DISABLE_SPEND_LOGS", default=False)
    """The ledger is not written."""
    store_model_in_db: bool = _variable("HEADRACE_STORE_MODEL_IN_DB", "STORE_MODEL_IN_DB", default=False)
    """Models may be added and changed while Headrace runs."""

    _management: Management = PrivateAttr(default=Management())

    @property
    def management(self) -> Management:
        """What the config says about keys and budgets."""
        return self._management

    def managed(self, management: Management) -> Self:
        """A copy with this."""
        copy = self.model_copy()
        copy._management = management
        return copy

    @property
    def queue_url(self) -> str:
        return _plain(self.rabbitmq_url) or "memory://"

    @property
    def redis_url(self) -> str | None:
        given = _plain(self.redis_url_given)
        if given or not self.redis_host:
            return given
        password = _plain(self.redis_password) or ""
        credentials = f"{quote(self.redis_username, safe='')}:{quote(password, safe='')}@"
        scheme = "rediss" if self.redis_ssl else "redis"
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        at = credentials if self.redis_username or password else ""
        return f"{scheme}://{at}{host}:{self.redis_port}/{self.redis_db}"

    @property
    def events_url(self) -> str:
        return self.redis_url or "memory://"

    @property
    def limits_url(self) -> str:
        return self.redis_url or "memory://"

    @property
    def store_url(self) -> str:
        return _plain(self.database_url) or "sqlite:///headrace.db"

    def with_defaults(self, values: Mapping[str, Any]) -> Self:
        """A copy in which `values` (by field name) fill what nobody has set. They are not validated."""
        unset = {name: value for name, value in values.items() if name not in self.model_fields_set}
        return self.model_copy(update=unset)


def environment(env_file: Path | None = Path(".env")) -> dict[str, str]:
    """The process's environment over the variables in `.env`: what `config.load` should see."""
    from_file = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    return {name: value for name, value in from_file.items() if value is not None} | dict(os.environ)


def load_settings() -> Settings:
    """Settings from the environment and `.env`. Raises `ConfigError` that names the variable with a wrong value."""
    try:
        return Settings()
    except ValidationError as exc:
        raise _wrong_variable(exc, "environment", environment()) from None  # the cause would show the value


def resolve(settings: Settings, config: Config) -> Settings:
    """The settings, completed by the config: what the environment leaves unset comes from `environment_variables`, then
    from `general_settings`, `router_settings` and `litellm_settings`.

    `max_request_size_mb` is the exception: it overrides the environment.
    """
    settings = settings.with_defaults(_from_variables(config))

    general, router = config.general_settings, config.router_settings
    filled: dict[str, Any] = {"disable_logging": general.disable_logging}
    filled["disable_spend_logs"] = general.disable_spend_logs
    if general.master_key is not None:
        filled["master_key"] = general.master_key
    if general.database_url is not None:
        filled["database_url"] = general.database_url
    if config.litellm_settings.json_logs:
        filled["log_format"] = "json"
    timeout = router.timeout or config.litellm_settings.request_timeout
    if timeout is not None:
        filled["request_timeout"] = timeout
    if settings.redis_url is None:
        filled["redis_url_given"] = router.redis_url
        filled |= {name: getattr(router, name) for name in _REDIS if name in router.model_fields_set}

    if general.store_model_in_db is not None:
        filled["store_model_in_db"] = general.store_model_in_db

    settings = settings.with_defaults(filled).managed(management(general, config.litellm_settings))
    if general.max_request_size_mb is not None:
        settings = settings.model_copy(update={"max_body_bytes": int(general.max_request_size_mb * MEGABYTE)})
    return settings


_REDIS = ("redis_host", "redis_port", "redis_password", "redis_db")


def _from_variables(config: Config) -> dict[str, Any]:
    """Settings that the config's `environment_variables` make, by field name."""
    ours = {name for field in Settings.model_fields.values() for name in _names(field.validation_alias)}
    given = {name: value for name, value in config.environment_variables.items() if name in ours and value}
    try:
        made = _Given.model_validate(given)
    except ValidationError as exc:
        raise _wrong_variable(exc, f"{config.name}: environment_variables", given) from None
    return {name: getattr(made, name) for name in made.model_fields_set}


class _Given(Settings):
    """Settings from the given values alone."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **more: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _names(alias: Any) -> list[str]:
    return [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else []


def _wrong_variable(exc: ValidationError, where: str, given: Mapping[str, str]) -> ConfigError:
    error = exc.errors(include_url=False, include_input=False)[0]
    field = next(
        each for each in Settings.model_fields.values() if str(error["loc"][0]) in _names(each.validation_alias)
    )
    name = next(each for each in _names(field.validation_alias) if given.get(each))
    wanted = expectation(error)
    example = wanted.example if field.default is None else field.default
    return ConfigError(
        f"{where}: {name}: expected {wanted.expected}, got {shown(given[name], name)}: write e.g. {name}={example}"
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
