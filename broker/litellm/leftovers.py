"""What of LiteLLM's database is not imported, and what to do about it."""

from collections.abc import Mapping

from broker.litellm.source import Source

_IMPORTED = frozenset(
    f"LiteLLM_{name}"
    for name in (
        "VerificationToken", "TeamTable", "TeamMembership", "UserTable", "BudgetTable", "EndUserTable", "ModelTable",
        "ProxyModelTable", "CredentialsTable", "Config", "SpendLogs",
    )
)  # fmt: skip

_NEEDLESS = frozenset(
    f"LiteLLM_{name}"
    for name in (
        "BudgetWindowSpend", "ProxyWorkerHeartbeat", "ErrorLogs", "UserNotifications", "InvitationLink",
        "HealthCheckTable", "CronJob", "SpendLogToolIndex", "SpendLogGuardrailIndex", "DeletedVerificationToken",
        "DeletedTeamTable", "ConfigOverrides",
    )
)  # fmt: skip
"""Made from other tables, or of no use outside of LiteLLM."""

_SUMS = "LiteLLM_Daily"

_WHAT_TO_DO: Mapping[str, str] = {
    "LiteLLM_OrganizationTable": "organizations are not known here: give their budgets to their teams",
    "LiteLLM_OrganizationMembership": "organizations are not known here",
    "LiteLLM_AuditLog": "LiteLLM's audit stays in its database; ours begins with this import",
    "LiteLLM_TagTable": "budgets of tags are not known here",
}
_OTHERWISE = "nothing here is like it"


async def leftovers(source: Source, *, spend_logs: bool) -> list[tuple[str, str]]:
    """Places that have something, and what became of it. Raises `Unavailable`."""
    found = await _settings(source)
    for table in source.columns:
        if table in _IMPORTED or table in _NEEDLESS or table.startswith(_SUMS):
            continue
        if count := await source.count(table):
            found.append((f"{table}: {count}", _WHAT_TO_DO.get(table, _OTHERWISE)))
    if not spend_logs and (count := await source.count("LiteLLM_SpendLogs")):
        found.append((f"LiteLLM_SpendLogs: {count}", "not asked for; --spend-logs brings them into the ledger"))
    return found


async def _settings(source: Source) -> list[tuple[str, str]]:
    """Names alone: values may be secret."""
    found = []
    async for page in source.pages("LiteLLM_Config", ["param_name"]):
        for row in page:
            value = row.get("param_value")
            names = ", ".join(sorted(value)) if isinstance(value, dict) else ""
            if names:
                found.append(
                    (f"LiteLLM_Config {row['param_name']}", f"write into config.yaml what you need of: {names}")
                )
    return found
