"""Rows as LiteLLM shows them: its columns' names, dates in ISO 8601, money in dollars."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from api.management.access import DEFAULT_USER
from broker.account_records import AuditRecord
from broker.records import KeyRecord

NANO = 1_000_000_000  # nano-dollars in a dollar

IN_METADATA = (
    "model_rpm_limit", "model_tpm_limit", "tag_rpm_limit", "mcp_rpm_limit", "rpm_limit_type", "tpm_limit_type", "tags",
    "guardrails", "policies", "prompts", "enforced_params", "allowed_passthrough_routes", "end_user_budget_id",
    "temp_budget_increase", "temp_budget_expiry", "service_account_id",
)  # fmt: skip
"""Fields that LiteLLM takes and shows inside `metadata` as well; here they are fields like all others."""

_KEY_COLUMNS: dict[str, Any] = {
    "models": [], "aliases": {}, "config": {}, "router_settings": None, "agent_id": None, "project_id": None,
    "permissions": {}, "max_parallel_requests": None, "tpm_limit": None, "rpm_limit": None, "tpd_limit": None,
    "max_budget": None, "budget_duration": None, "budget_limits": None, "budget_id": None, "budget_fallbacks": None,
    "allowed_cache_controls": [], "allowed_routes": [], "key_type": None, "policies": [], "access_group_ids": [],
    "model_max_budget": {}, "organization_id": None, "object_permission": None, "object_permission_id": None,
    "auto_rotate": False, "rotation_interval": None, "rotation_count": 0, "last_rotation_at": None,
    "key_rotation_at": None,
}  # fmt: skip
"""Columns of `LiteLLM_VerificationToken` that `KeyRecord.fields` keep, and what they are when nobody set them."""

_NOT_COLUMNS = frozenset({"spend_base", "spend_since", "total_spend_base", *IN_METADATA})


def iso(seconds: float | None) -> str | None:
    """As `2026-01-31T12:00:00Z`; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def dollars(nano: int) -> float:
    return nano / NANO


def key_row(
    record: KeyRecord, *, spend: int, total_spend: int, budget_reset_at: float | None, budget: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A row of `LiteLLM_VerificationToken`, and what Headrace adds (`on_limit`, `max_queue_wait`). Spend is in
    nano-dollars; `budget` is the fields of the budget that the key names."""
    fields = dict(record.fields)
    soft = fields.get("soft_budget")
    shown = budget if budget is not None else {"soft_budget": soft} if soft is not None else None
    return {
        "token": record.hash,
        "key_name": record.name,
        "key_alias": record.alias or None,
        "soft_budget_cooldown": False,
        "spend": dollars(spend),
        "total_spend": dollars(total_spend),
        "expires": iso(record.expires_at),
        **_KEY_COLUMNS,
        **{name: value for name, value in fields.items() if name not in _NOT_COLUMNS},
        "user_id": user_shown(record),
        "team_id": record.team or None,
        "metadata": {**record.metadata, **{name: fields[name] for name in IN_METADATA if name in fields}},
        "blocked": record.blocked,
        "budget_reset_at": iso(budget_reset_at),
        "model_spend": {},
        "litellm_budget_table": shown,
        "created_at": iso(record.created_at),
        "created_by": record.created_by or None,
        "updated_at": iso(record.updated_at or record.created_at),
        "updated_by": record.updated_by or record.created_by or None,
        "settings_updated_at": iso(record.updated_at or record.created_at),
        "last_active": None,
        "max_queue_wait": record.max_queue_wait,
    }


def user_shown(record: KeyRecord) -> str | None:
    """LiteLLM gives keys that nobody else owns to whoever has the master key."""
    if record.user:
        return record.user
    service = "service_account_id" in record.fields or record.team
    return DEFAULT_USER if record.created_by == DEFAULT_USER and not service else None


def status(record: KeyRecord, now: float) -> str:
    """`revoked` means blocked."""
    if record.blocked:
        return "revoked"
    return "expired" if record.expires_at is not None and record.expires_at <= now else "active"


_TABLES = {
    "key": "LiteLLM_VerificationToken",
    "user": "LiteLLM_UserTable",
    "team": "LiteLLM_TeamTable",
    "member": "LiteLLM_TeamMembership",
    "budget": "LiteLLM_BudgetTable",
    "customer": "LiteLLM_EndUserTable",
    "model": "LiteLLM_ProxyModelTable",
}


def table_name(table: str) -> str:
    """LiteLLM's name of what the audit calls `key`, `user` ..."""
    return _TABLES.get(table, table)


def table_of(name: str) -> str:
    """The reverse; names of ours stay."""
    return next((ours for ours, theirs in _TABLES.items() if theirs == name), name)


def audit_row(record: AuditRecord) -> dict[str, Any]:
    """A row of `LiteLLM_AuditLog`, and the client's address."""
    return {
        "id": record.id,
        "updated_at": iso(record.at),
        "changed_by": record.actor.id or None,
        "changed_by_api_key": record.actor.key or None,
        "action": record.action,
        "table_name": table_name(record.table),
        "object_id": record.subject,
        "before_value": None if record.before is None else dict(record.before),
        "updated_values": None if record.after is None else dict(record.after),
        "address": record.actor.address or None,
    }
