"""What the key routes are sent: LiteLLM's fields, and two of Headrace's own (`on_limit`, `max_queue_wait`)."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.management.access import DEFAULT_USER
from api.management.bodies import (
    Body,
    Budget,
    Count,
    Duration,
    Identifier,
    Metadata,
    ModelCounts,
    ModelNames,
    Money,
    Name,
    Names,
    refuse,
)
from api.management.shapes import IN_METADATA

FOREVER = "-1"
"""As `duration`: the key does not expire."""

_KEY = re.compile(r"sk-[!-~]{13,253}")
_LEAST_KEY, _MOST_KEY = 16, 256  # characters
_MOST_WINDOWS = 7  # and the key's own budget: an account has at most 8
_MOST_WAIT = 86_400.0  # seconds


def _own_key(key: str) -> str:
    if not key.startswith("sk-"):
        shown = f"{key[:4]}****{key[-4:]}" if len(key) >= _LEAST_KEY else "****"
        raise refuse(f"Invalid key format. LiteLLM Virtual Key must start with 'sk-'. Received: {shown}")
    if not _LEAST_KEY <= len(key) <= _MOST_KEY:
        raise refuse(
            f"Invalid key format. LiteLLM Virtual Key must be at least {_LEAST_KEY} characters long, "
            f"and at most {_MOST_KEY}."
        )
    if _KEY.fullmatch(key) is None:
        raise refuse("Invalid key format. A key has printable ASCII characters only, and no spaces.")
    return key


def _wait(seconds: float) -> float:
    if not 0.001 <= seconds <= _MOST_WAIT:
        raise refuse(f"max_queue_wait must be from 0.001 to {_MOST_WAIT:.0f} seconds.")
    return seconds


def _nobody(user: Any) -> Any:
    return None if user in ("", DEFAULT_USER) else user


def _unset(value: Any) -> Any:
    return None if value == "" else value


OwnKey = Annotated[str, AfterValidator(_own_key)]
"""Begins with `sk-` and has 16 to 256 characters; 400 otherwise."""
KeyDuration = Annotated[Literal["-1"] | Duration | None, BeforeValidator(_unset)]
UserId = Annotated[Name | None, BeforeValidator(_nobody)]
TeamId = Annotated[Identifier | None, BeforeValidator(_unset)]
LimitType = Literal["guaranteed_throughput", "best_effort_throughput", "dynamic"]


class BudgetWindow(Body):
    budget_duration: Duration
    max_budget: Money


class ModelBudget(Body):
    """LiteLLM has two names for each of its fields."""

    budget_limit: Money
    time_period: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, sent: Any) -> Any:
        if isinstance(sent, int | float):
            return {"budget_limit": sent}
        if not isinstance(sent, dict):
            return sent
        names = {"max_budget": "budget_limit", "budget_duration": "time_period"}
        return {names.get(name, name): value for name, value in sent.items()}


class KeyFields(Body):
    """What generate, update and regenerate have in common."""

    key_alias: Name | None = None
    duration: KeyDuration = None
    models: ModelNames | None = None
    aliases: Annotated[dict[Name, Name], Field(max_length=1000)] | None = None
    user_id: UserId = None
    team_id: TeamId = None
    organization_id: Name | None = None
    project_id: Name | None = None
    agent_id: Name | None = None
    spend: Money | None = None
    max_budget: Budget = None
    soft_budget: Budget = None
    budget_duration: Duration | None = None
    budget_limits: Annotated[list[BudgetWindow], Field(max_length=_MOST_WINDOWS)] | None = None
    budget_id: Name | None = None
    end_user_budget_id: Name | None = None
    model_max_budget: Annotated[dict[Name, ModelBudget], Field(max_length=1000)] | None = None
    budget_fallbacks: Annotated[dict[Name, Names], Field(max_length=1000)] | None = None
    max_parallel_requests: Count | None = None
    tpm_limit: Count | None = None
    rpm_limit: Count | None = None
    tpd_limit: Count | None = None
    tpm_limit_type: LimitType | None = None
    rpm_limit_type: LimitType | None = None
    model_tpm_limit: ModelCounts | None = None
    model_rpm_limit: ModelCounts | None = None
    tag_rpm_limit: ModelCounts | None = None
    mcp_rpm_limit: ModelCounts | None = None
    metadata: Metadata | None = None
    tags: Names | None = None
    blocked: bool | None = None
    allowed_routes: Names | None = None
    allowed_passthrough_routes: Names | None = None
    allowed_cache_controls: Names | None = None
    access_group_ids: Names | None = None
    guardrails: Names | None = None
    policies: Names | None = None
    prompts: Names | None = None
    enforced_params: Names | None = None
    config: Metadata | None = None
    permissions: Metadata | None = None
    router_settings: Metadata | None = None
    object_permission: Metadata | None = None
    auto_rotate: bool | None = None
    rotation_interval: Duration | None = None
    service_account_id: Name | None = None

    on_limit: Literal["refuse", "wait"] | None = None
    """Whether a request over a limit is refused, or queued until its deadline."""
    max_queue_wait: Annotated[float, AfterValidator(_wait)] | None = None
    """Seconds that a request of this key may wait for a worker."""

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, sent: Any) -> Any:
        """LiteLLM keeps some fields within `metadata`, and takes them from there."""
        metadata = sent.get("metadata") if isinstance(sent, dict) else None
        if not isinstance(metadata, dict):
            return sent
        inside = {name: metadata[name] for name in IN_METADATA if name in metadata}
        rest = {name: value for name, value in metadata.items() if name not in inside}
        return {**inside, **sent, "metadata": rest}


class GenerateKey(KeyFields):
    key: OwnKey | None = None
    """The key itself, if it shall not be made here."""
    key_type: Literal["llm_api", "management", "read_only", "default"] | None = None


class UpdateKey(KeyFields):
    """A merge patch: what is null is cleared, what is not there stays. It names its key by its text, hash or alias."""

    key: str | None = None
    temp_budget_increase: Money | None = None
    temp_budget_expiry: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _blank_team(cls, sent: Any) -> Any:
        """A team that is "" says nothing; null takes the key out of its team."""
        if isinstance(sent, dict) and sent.get("team_id") == "":
            return {name: value for name, value in sent.items() if name != "team_id"}
        return sent

    @model_validator(mode="after")
    def _complete(self) -> "UpdateKey":
        if self.key is None and not self.key_alias:
            raise ValueError("either key or key_alias must be provided")
        if (self.temp_budget_increase is None) != (self.temp_budget_expiry is None):
            raise ValueError("temp_budget_increase and temp_budget_expiry must be set together")
        return self


class RegenerateKey(KeyFields):
    key: str | None = None
    new_key: OwnKey | None = None
    key_type: Literal["llm_api", "management", "read_only", "default"] | None = None
    grace_period: str | None = None
    new_master_key: str | None = None


class KeysNamed(Body):
    """Keys (or their hashes), or aliases of keys."""

    keys: Annotated[list[str], Field(max_length=1000)] | None = None
    key_aliases: Annotated[list[Name], Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _some(self) -> "KeysNamed":
        if not self.keys and not self.key_aliases:
            raise ValueError("At least one of 'keys' or 'key_aliases' must be provided.")
        return self


class KeyNamed(Body):
    key: str


class ResetSpend(Body):
    reset_to: float

    @model_validator(mode="before")
    @classmethod
    def _number(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and isinstance(sent.get("reset_to"), bool):
            raise ValueError("reset_to must be a number, not a boolean")
        return sent


class BulkUpdate(Body):
    keys: list[dict[str, Any]]
    """Each as `UpdateKey`; checked one by one, so that a bad one fails alone."""
