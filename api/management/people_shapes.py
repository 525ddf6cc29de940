"""Users, teams, members, budgets and customers as LiteLLM shows them: its columns, dates in ISO 8601, dollars."""

from collections.abc import Iterable, Mapping
from typing import Any

from api.management.shapes import IN_METADATA, dollars, iso
from api.management.spends import Spend
from broker.account_records import Entry

_HIDDEN = frozenset({"spend_base", "spend_since", "total_spend_base", *IN_METADATA})
_TEAM_HIDDEN = _HIDDEN | {"model_aliases"}

_USER_COLUMNS: dict[str, Any] = {
    "sso_user_id": None, "organization_id": None, "object_permission_id": None, "user_role": None, "max_budget": None,
    "user_email": None, "models": [], "max_parallel_requests": None, "tpm_limit": None, "rpm_limit": None,
    "budget_duration": None, "allowed_cache_controls": [], "policies": [], "model_max_budget": {},
    "organization_memberships": None, "object_permission": None,
}  # fmt: skip

_TEAM_COLUMNS: dict[str, Any] = {
    "organization_id": None, "admins": [], "members": [], "team_member_permissions": None, "tpm_limit": None,
    "rpm_limit": None, "tpd_limit": None, "max_budget": None, "soft_budget": None, "budget_duration": None,
    "budget_limits": None, "models": [], "blocked": False, "router_settings": None, "access_group_ids": None,
    "default_team_member_models": None, "max_parallel_requests": None, "model_max_budget": {}, "policies": [],
    "allow_team_guardrail_config": False, "object_permission": None, "object_permission_id": None,
}  # fmt: skip

_BUDGET_COLUMNS: dict[str, Any] = {
    "soft_budget": None, "max_budget": None, "max_parallel_requests": None, "tpm_limit": None, "rpm_limit": None,
    "tpd_limit": None, "model_max_budget": None, "budget_duration": None, "allowed_models": [],
    "temp_budget_increase": None, "temp_budget_expiry": None,
}  # fmt: skip

_CUSTOMER_COLUMNS: dict[str, Any] = {
    "blocked": False, "allowed_model_region": None, "default_model": None, "models": [], "budget_id": None,
    "object_permission_id": None, "object_permission": None,
}  # fmt: skip


def user_row(user: Entry, teams: Iterable[str], spend: Spend) -> dict[str, Any]:
    """A row of `LiteLLM_UserTable`."""
    teams = list(teams)
    return {
        "user_id": user.id,
        "user_alias": user.alias or None,
        "team_id": teams[0] if teams else None,
        **_USER_COLUMNS,
        **_shown(user, _HIDDEN),
        "teams": teams,
        "metadata": _metadata(user),
        "spend": dollars(spend.window),
        "total_spend": dollars(spend.total),
        "model_spend": {},
        "budget_reset_at": iso(spend.reset_at),
        **_stamps(user),
    }


def team_row(team: Entry, members: Iterable[Entry], spend: Spend) -> dict[str, Any]:
    """A row of `LiteLLM_TeamTable`."""
    aliases = team.fields.get("model_aliases")
    table = {"id": None, "model_aliases": aliases, "created_by": team.created_by, "updated_by": team.updated_by}
    return {
        "team_id": team.id,
        "team_alias": team.alias or None,
        **_TEAM_COLUMNS,
        **_shown(team, _TEAM_HIDDEN),
        "members_with_roles": [member_shown(each) for each in members],
        "metadata": _metadata(team),
        "spend": dollars(spend.window),
        "total_spend": dollars(spend.total),
        "model_spend": {},
        "model_id": None,
        "litellm_model_table": table if aliases else None,
        "budget_reset_at": iso(spend.reset_at),
        **_stamps(team),
    }


def member_shown(member: Entry) -> dict[str, Any]:
    """As `members_with_roles` has it."""
    return {
        "user_id": member.user,
        "user_email": member.fields.get("user_email"),
        "role": member.fields.get("role", "user"),
    }


def membership_row(member: Entry, limits: Mapping[str, Any], spend: Spend) -> dict[str, Any]:
    """A row of `LiteLLM_TeamMembership`; `limits` are what holds for the member, whoever set it."""
    return {
        "user_id": member.user,
        "team_id": member.team,
        "budget_id": member.fields.get("budget_id"),
        "spend": dollars(spend.window),
        "total_spend": dollars(spend.total),
        "budget_reset_at": iso(spend.reset_at),
        "litellm_budget_table": budget_table(member, limits, spend.reset_at),
    }


def budget_table(holder: Entry, limits: Mapping[str, Any], reset_at: float | None = None) -> dict[str, Any] | None:
    """The row that LiteLLM would have in its budget table for the holder; None if nothing is limited."""
    given = {name: limits[name] for name in _BUDGET_COLUMNS if limits.get(name) is not None}
    if not given:
        return None
    return {
        "budget_id": holder.fields.get("budget_id"),
        **_BUDGET_COLUMNS,
        **given,
        "budget_reset_at": iso(reset_at),
        **_stamps(holder),
    }


def budget_row(budget: Entry) -> dict[str, Any]:
    """A row of `LiteLLM_BudgetTable`. It starts anew for each who has it, so it has no time of its own to."""
    return {
        "budget_id": budget.id,
        **_BUDGET_COLUMNS,
        **budget.fields,
        "budget_reset_at": None,
        **_stamps(budget),
        "created_by": budget.created_by,
        "updated_by": budget.updated_by or budget.created_by,
    }


def customer_row(customer: Entry, limits: Mapping[str, Any], spend: Spend) -> dict[str, Any]:
    """A row of `LiteLLM_EndUserTable`; `limits` are the customer's and those of its budget."""
    return {
        "user_id": customer.id,
        "alias": customer.alias or None,
        **_CUSTOMER_COLUMNS,
        **_shown(customer, _HIDDEN | _BUDGET_COLUMNS.keys()),
        "spend": dollars(spend.window),
        "litellm_budget_table": budget_table(customer, limits, spend.reset_at),
        **_stamps(customer),
    }


def _shown(entry: Entry, hidden: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in entry.fields.items() if name not in hidden}


def _metadata(entry: Entry) -> dict[str, Any]:
    """LiteLLM keeps several fields in there."""
    inside = {name: entry.fields[name] for name in IN_METADATA if name in entry.fields}
    return {**entry.fields.get("metadata", {}), **inside}


def _stamps(entry: Entry) -> dict[str, Any]:
    return {"created_at": iso(entry.created_at), "updated_at": iso(entry.updated_at or entry.created_at)}
