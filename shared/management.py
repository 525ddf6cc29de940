"""What the config says about keys, budgets and the bill, for everybody who deals with them: `Settings.management`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.config_model import GeneralSettings, LiteLLMSettings, Margin
from shared.windows import Calendar


@dataclass(frozen=True, slots=True)
class Management:
    """Names are LiteLLM's, as are durations: text for `shared.windows.Duration`. Money is in dollars."""

    calendar: Calendar = field(default_factory=Calendar)
    """`timezone` and `budget_reset_time`."""
    budget_exceeded_status_code: int = 422
    max_budget: float | None = None
    """Of everybody together; None: no such budget."""
    budget_duration: str | None = None
    max_internal_user_budget: float | None = None
    """What new users get that are made without a budget."""
    internal_user_budget_duration: str | None = None
    max_end_user_budget: float | None = None
    """Of each customer that has no budget of its own, whether the directory knows it or not."""
    max_end_user_budget_id: str = ""
    """The budget of customers that name none."""
    default_key_generate_params: Mapping[str, Any] = field(default_factory=dict)
    upperbound_key_generate_params: Mapping[str, Any] = field(default_factory=dict)
    """Those alone that are set."""
    max_parallel_requests: int | None = None
    """Of keys that have no such limit of their own."""
    enforce_fallback_model_access: bool = True
    user_api_key_cache_ttl: float = 60.0
    """Seconds."""
    litellm_key_header_name: str = ""
    """In lower case; empty for none."""
    user_header_name: str = ""
    """Likewise."""
    store_prompts_in_spend_logs: bool = False
    """Also not `turn_off_message_logging`, which wins."""
    maximum_spend_logs_retention_period: str | None = None
    alerting: tuple[str, ...] = ()
    """slack, webhook, email."""
    alert_to_webhook_url: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """By LiteLLM's type of alert: `budget_alerts` ... The addresses may hold secrets."""
    cost_discount_config: Mapping[str, float] = field(default_factory=dict)
    """By provider, what is taken off its prices: 0.05 is a twentieth."""
    cost_margin_config: Mapping[str, Margin] = field(default_factory=dict)
    """By provider, or `global`, what is added."""


def management(general: GeneralSettings, litellm: LiteLLMSettings) -> Management:
    return Management(
        calendar=Calendar.of(litellm.timezone, litellm.budget_reset_time),
        budget_exceeded_status_code=litellm.budget_exceeded_status_code,
        max_budget=litellm.max_budget or None,  # LiteLLM's 0 means that there is none
        budget_duration=litellm.budget_duration,
        max_internal_user_budget=litellm.max_internal_user_budget,
        internal_user_budget_duration=litellm.internal_user_budget_duration,
        max_end_user_budget=litellm.max_end_user_budget,
        max_end_user_budget_id=litellm.max_end_user_budget_id or "",
        default_key_generate_params=litellm.default_key_generate_params,
        upperbound_key_generate_params=litellm.upperbound_key_generate_params.model_dump(exclude_none=True),
        max_parallel_requests=general.max_parallel_requests,
        enforce_fallback_model_access=general.enforce_fallback_model_access,
        user_api_key_cache_ttl=general.user_api_key_cache_ttl,
        litellm_key_header_name=(general.litellm_key_header_name or "").lower(),
        user_header_name=(general.user_header_name or "").lower(),
        store_prompts_in_spend_logs=general.store_prompts_in_spend_logs and not litellm.turn_off_message_logging,
        maximum_spend_logs_retention_period=general.maximum_spend_logs_retention_period,
        alerting=tuple(general.alerting),
        alert_to_webhook_url={
            kind: tuple(url.get_secret_value() for url in urls) for kind, urls in general.alert_to_webhook_url.items()
        },
        cost_discount_config=litellm.cost_discount_config,
        cost_margin_config=litellm.cost_margin_config,
    )
