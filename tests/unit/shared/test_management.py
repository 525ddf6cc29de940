"""What the config says about keys and budgets: typed, and carried to whom it concerns."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import load
from shared.config_model import Margin
from shared.errors import ConfigError
from shared.management import Management
from shared.settings import Settings, resolve
from shared.windows import Calendar


def settings(folder: Path, **sections: Any) -> Settings:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    config = load(path, {})
    assert (config.unknown, config.ignored) == ([], [])
    return resolve(Settings(_env_file=None), config)  # type: ignore[call-arg]  # pydantic-settings' own argument


def test_without_a_word_about_it_there_are_litellms_defaults(tmp_path: Path) -> None:
    managed = settings(tmp_path, general_settings={}).management

    assert managed == Management()
    assert (managed.budget_exceeded_status_code, managed.user_api_key_cache_ttl) == (422, 60.0)


def test_everything_arrives(tmp_path: Path) -> None:
    general = {
        "max_parallel_requests": 5,
        "enforce_fallback_model_access": False,
        "user_api_key_cache_ttl": 7,
        "litellm_key_header_name": "X-My-Key",
        "user_header_name": "X-My-User",
        "store_prompts_in_spend_logs": True,
        "maximum_spend_logs_retention_period": "30d",
        "alerting": ["slack"],
        "alert_to_webhook_url": {
            "budget_alerts": "https://hooks.example/1",
            "spend_reports": ["https://hooks.example/2"],
        },
    }
    litellm = {
        "max_budget": 100,
        "budget_duration": "30d",
        "max_internal_user_budget": 5,
        "internal_user_budget_duration": "1mo",
        "max_end_user_budget": 0.5,
        "max_end_user_budget_id": "small",
        "budget_exceeded_status_code": 429,
        "timezone": "Europe/Berlin",
        "budget_reset_time": "04:30",
        "default_key_generate_params": {"max_budget": 1},
        "upperbound_key_generate_params": {"max_budget": 10, "tpm_limit": 5, "duration": "30d"},
        "cost_discount_config": {"openai": 0.05},
        "cost_margin_config": {"openai": 0.1, "global": {"fixed_amount": 0.001}},
    }

    managed = settings(tmp_path, general_settings=general, litellm_settings=litellm).management

    assert managed == Management(
        calendar=Calendar.of("Europe/Berlin", "04:30"),
        budget_exceeded_status_code=429,
        max_budget=100.0,
        budget_duration="30d",
        max_internal_user_budget=5.0,
        internal_user_budget_duration="1mo",
        max_end_user_budget=0.5,
        max_end_user_budget_id="small",
        default_key_generate_params={"max_budget": 1},
        upperbound_key_generate_params={"max_budget": 10.0, "tpm_limit": 5, "duration": "30d"},
        max_parallel_requests=5,
        enforce_fallback_model_access=False,
        user_api_key_cache_ttl=7.0,
        litellm_key_header_name="x-my-key",
        user_header_name="x-my-user",
        store_prompts_in_spend_logs=True,
        maximum_spend_logs_retention_period="30d",
        alerting=("slack",),
        alert_to_webhook_url={
            "budget_alerts": ("https://hooks.example/1",),
            "spend_reports": ("https://hooks.example/2",),
        },
        cost_discount_config={"openai": 0.05},
        cost_margin_config={"openai": Margin(percentage=0.1), "global": Margin(fixed_amount=0.001)},
    )
    assert "hooks.example" not in repr(managed)


def test_messages_that_are_not_logged_are_not_kept_with_the_bill(tmp_path: Path) -> None:
    general, litellm = {"store_prompts_in_spend_logs": True}, {"turn_off_message_logging": True}

    managed = settings(tmp_path, general_settings=general, litellm_settings=litellm).management

    assert not managed.store_prompts_in_spend_logs


def test_a_budget_of_zero_for_everybody_is_none(tmp_path: Path) -> None:
    assert settings(tmp_path, litellm_settings={"max_budget": 0}).management.max_budget is None


def test_models_in_the_database_are_off_unless_the_config_or_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = {"store_model_in_db": True}

    assert not settings(tmp_path).store_model_in_db
    assert settings(tmp_path, general_settings=on).store_model_in_db
    monkeypatch.setenv("STORE_MODEL_IN_DB", "False")
    assert not settings(tmp_path, general_settings=on).store_model_in_db


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("litellm_settings", "budget_duration", "30 days", "a number with s, m, h, d, w or mo"),
        ("litellm_settings", "timezone", "Berlin", "a time zone"),
        ("litellm_settings", "budget_reset_time", "4", "a time of day"),
        ("litellm_settings", "max_budget", -1, "a number of 0 or more"),
        ("litellm_settings", "max_budget", ".nan", "a number"),
        ("litellm_settings", "budget_exceeded_status_code", 500, "a number of 499 or less"),
        ("litellm_settings", "cost_discount_config", {"openai": 2}, "a number of 1 or less"),
        ("general_settings", "max_parallel_requests", 0, "a number over 0"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, section: str, key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **{section: {key: float("nan") if value == ".nan" else value}})

    assert f"{section}.{key}" in str(caught.value)
    assert says in str(caught.value)
