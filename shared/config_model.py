"""What we read from LiteLLM's `config.yaml`, typed. Keys that are not here are in `config_keys` or default parameters.

Numbers are lenient about their spelling ("600" is 600), because values often come from environment variables.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from shared.windows import Calendar, Duration


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _alias_target(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare `off` as false


def _margin(value: Any) -> Any:
    return {"percentage": value} if isinstance(value, int | float | str) else value


def _duration(text: str) -> str:
    try:
        Duration.parse(text)
    except ValueError as exc:
        raise PydanticCustomError("duration", "not a duration") from exc
    return text


def _time_zone(name: str) -> str:
    try:
        Calendar.of(name)
    except ValueError as exc:
        raise PydanticCustomError("time_zone", "not a time zone") from exc
    return name


def _time_of_day(text: str) -> str:
    try:
        Calendar.of(reset_time=text)
    except ValueError as exc:
        raise PydanticCustomError("time_of_day", "not a time of day") from exc
    return text


Names = Annotated[list[str], BeforeValidator(_listed)]
"""A list of names; a single name may stand without brackets."""
Addresses = Annotated[list[SecretStr], BeforeValidator(_listed)]
Rate = Annotated[float | None, Field(gt=0)]
Seconds = Annotated[float | None, Field(gt=0)]
Price = Annotated[float | None, Field(ge=0)]
"""Dollars per token."""
Dollars = Annotated[float | None, Field(ge=0)]
Count = Annotated[int | None, Field(ge=0)]
DurationText = Annotated[str, AfterValidator(_duration)] | None
"""As `shared.windows.Duration` reads it: 30d, 1mo, daily."""
Fallbacks = list[dict[str, Names]]
"""`[{group: [fallback group, ...]}, ...]`"""


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_means_unset(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Costs(Section):
    """Custom costs; LiteLLM takes them from `litellm_params` and from `model_info`."""

    input_cost_per_token: Price = None
    output_cost_per_token: Price = None
    cache_read_input_token_cost: Price = None
    cache_creation_input_token_cost: Price = None
    cache_creation_input_token_cost_above_1hr: Price = None
    output_cost_per_reasoning_token: Price = None
    # Of every token of a request whose prompt is longer.
    input_cost_per_token_above_128k_tokens: Price = None
    output_cost_per_token_above_128k_tokens: Price = None
    cache_read_input_token_cost_above_128k_tokens: Price = None
    cache_creation_input_token_cost_above_128k_tokens: Price = None
    input_cost_per_token_above_200k_tokens: Price = None
    output_cost_per_token_above_200k_tokens: Price = None
    cache_read_input_token_cost_above_200k_tokens: Price = None
    cache_creation_input_token_cost_above_200k_tokens: Price = None
    input_cost_per_token_above_272k_tokens: Price = None
    output_cost_per_token_above_272k_tokens: Price = None
    cache_read_input_token_cost_above_272k_tokens: Price = None
    cache_creation_input_token_cost_above_272k_tokens: Price = None


class LiteLLMParams(Costs):
    model: str = Field(min_length=1)
    custom_llm_provider: str | None = None
    api_key: SecretStr | None = None
    api_base: str | None = Field(default=None, repr=False)
    base_url: str | None = Field(default=None, repr=False)
    """Another name of `api_base`."""
    organization: Names = []
    rpm: Rate = None
    tpm: Rate = None
    max_parallel_requests: Annotated[int | None, Field(gt=0)] = None
    weight: Annotated[float | None, Field(ge=0)] = None
    order: int = 1
    timeout: Seconds = None
    stream_timeout: Seconds = None
    num_retries: Count = None
    cooldown_time: Annotated[float | None, Field(ge=0)] = None
    drop_params: bool | None = None
    additional_drop_params: Names = []
    mock_response: str | None = None
    litellm_credential_name: str | None = None
    headers: dict[str, str] = Field(default={}, repr=False)
    extra_headers: dict[str, str] = Field(default={}, repr=False)
    provider_batch: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "off"
    provider_batch_discount: Annotated[float | None, Field(ge=0, le=1)] = None


class ModelInfo(Costs):
    id: str | None = None


class ModelEntry(Section):
    """One element of `model_list`."""

    model_name: str = Field(min_length=1)
    litellm_params: LiteLLMParams
    model_info: ModelInfo = ModelInfo()


class Credential(Section):
    """One element of `credential_list`, which entries name in `litellm_credential_name`."""

    credential_name: str
    credential_values: dict[str, str] = Field(default={}, repr=False)


class GeneralSettings(Section):
    master_key: SecretStr | None = None
    database_url: SecretStr | None = None
    disable_logging: bool = False
    disable_spend_logs: bool = False
    max_request_size_mb: Annotated[float | None, Field(gt=0)] = None
    max_parallel_requests: Annotated[int | None, Field(gt=0)] = None
    enforce_fallback_model_access: bool = True
    user_api_key_cache_ttl: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    litellm_key_header_name: str | None = None
    user_header_name: str | None = None
    store_model_in_db: bool | None = None
    store_prompts_in_spend_logs: bool = False
    maximum_spend_logs_retention_period: DurationText = None
    alerting: Names = []
    alert_to_webhook_url: dict[str, Addresses] = Field(default={}, repr=False)


class Reliability(Section):
    """Keys that LiteLLM accepts in `router_settings` and in `litellm_settings`; the former win."""

    num_retries: Count = None
    allowed_fails: Count = None
    cooldown_time: Annotated[float | None, Field(ge=0)] = None
    max_fallbacks: Count = None
    fallbacks: Fallbacks = []
    default_fallbacks: Names = []
    context_window_fallbacks: Fallbacks = []
    content_policy_fallbacks: Fallbacks = []


class KeyBounds(Section):
    """What keys may be made with at most."""

    max_budget: Dollars = None
    budget_duration: DurationText = None
    duration: DurationText = None
    max_parallel_requests: Count = None
    tpm_limit: Count = None
    rpm_limit: Count = None


class Margin(Section):
    """Added to what a provider's answers cost."""

    percentage: Annotated[float, Field(ge=0)] = 0.0
    """Of the cost: 0.1 is a tenth."""
    fixed_amount: Annotated[float, Field(ge=0)] = 0.0
    """Dollars for each request."""


class LiteLLMSettings(Reliability):
    drop_params: bool = False
    request_timeout: Seconds = None
    json_logs: bool = False
    max_budget: Annotated[float, Field(ge=0)] = 0.0
    budget_duration: DurationText = None
    max_internal_user_budget: Dollars = None
    internal_user_budget_duration: DurationText = None
    max_end_user_budget: Dollars = None
    max_end_user_budget_id: str | None = None
    budget_exceeded_status_code: Annotated[int, Field(ge=400, le=499)] = 422
    timezone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    budget_reset_time: Annotated[str, AfterValidator(_time_of_day)] = ""
    turn_off_message_logging: bool = False
    default_key_generate_params: dict[str, Any] = {}
    upperbound_key_generate_params: KeyBounds = KeyBounds()
    cost_discount_config: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    cost_margin_config: dict[str, Annotated[Margin, BeforeValidator(_margin)]] = {}


class AliasTarget(Section):
    model: str
    hidden: bool = False


class RouterSettings(Reliability):
    routing_strategy: str = "simple-shuffle"
    timeout: Seconds = None
    stream_timeout: Seconds = None
    retry_after: Annotated[float, Field(ge=0)] = 0.0
    disable_cooldowns: bool = False
    default_max_parallel_requests: Annotated[int | None, Field(gt=0)] = None
    model_group_alias: dict[str, Annotated[AliasTarget, BeforeValidator(_alias_target)]] = {}
    redis_url: SecretStr | None = None
    redis_host: str | None = None
    redis_port: Annotated[int, Field(gt=0, lt=65536)] = 6379
    redis_password: SecretStr | None = None
    redis_db: Count = None
