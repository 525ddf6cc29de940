"""LiteLLM's rows as our records. Pure; what cannot come over raises `Unfit`, what is of no use here `LeftOut`.

Columns as in LiteLLM 1.109.1; older versions have fewer. Times there are UTC without a zone, money is in dollars.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson

from broker.account_records import Entry, Kind
from broker.litellm.source import Row
from broker.records import KeyRecord

MOST_JSON = 64 * 1024  # bytes of fields and metadata together, as the management routes allow

_IN_METADATA = (
    "model_rpm_limit", "model_tpm_limit", "tag_rpm_limit", "mcp_rpm_limit", "rpm_limit_type", "tpm_limit_type", "tags",
    "guardrails", "policies", "prompts", "enforced_params", "allowed_passthrough_routes", "end_user_budget_id",
    "temp_budget_increase", "temp_budget_expiry", "service_account_id", "team_member_budget_id",
)  # fmt: skip
"""Fields that LiteLLM keeps within `metadata`, and we do not."""

_KEY_FIELDS = (
    "models", "aliases", "config", "router_settings", "agent_id", "project_id", "permissions", "max_parallel_requests",
    "tpm_limit", "rpm_limit", "tpd_limit", "max_budget", "budget_duration", "budget_limits", "budget_id",
    "budget_fallbacks", "allowed_cache_controls", "allowed_routes", "key_type", "policies", "access_group_ids",
    "model_max_budget", "organization_id", "auto_rotate", "rotation_interval",
)  # fmt: skip
_USER_FIELDS = (
    "sso_user_id", "organization_id", "user_role", "user_email", "models", "max_parallel_requests", "tpm_limit",
    "rpm_limit", "max_budget", "budget_duration", "allowed_cache_controls", "policies", "model_max_budget",
)  # fmt: skip
_TEAM_FIELDS = (
    "organization_id", "max_budget", "soft_budget", "models", "max_parallel_requests", "tpm_limit", "rpm_limit",
    "tpd_limit", "budget_duration", "blocked", "router_settings", "team_member_permissions", "access_group_ids",
    "policies", "default_team_member_models", "budget_limits", "model_max_budget", "allow_team_guardrail_config",
)  # fmt: skip
_BUDGET_FIELDS = (
    "max_budget", "soft_budget", "max_parallel_requests", "tpm_limit", "rpm_limit", "tpd_limit", "model_max_budget",
    "budget_duration", "allowed_models",
)  # fmt: skip
_CUSTOMER_FIELDS = ("allowed_model_region", "default_model", "models", "budget_id", "blocked")

_DASHBOARD = "litellm-dashboard"  # the team of the keys that its dashboard's sessions have


class Unfit(Exception):
    """Should come over, and cannot: the message says why."""


class LeftOut(Exception):
    """Is of no use here: the message says why."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When the import runs, and whether the ledger gets LiteLLM's spend logs."""

    now: float
    """Seconds since the epoch. What was spent by then is told by LiteLLM, what follows by our ledger."""
    spend_logs: bool = False


def key(row: Row, moment: Moment) -> KeyRecord:
    if row.get("team_id") == _DASHBOARD:
        raise LeftOut("sessions of LiteLLM's dashboard")
    metadata, inside = _parted(row.get("metadata"))
    fields = _given(row, _KEY_FIELDS) | inside | _spend(row, moment)
    _check_size(fields, metadata)
    token = str(row["token"])
    return KeyRecord(
        hash=sha256(token.encode()).hexdigest() if token.startswith("sk-") else token,  # plain in very old versions
        name=row.get("key_name") or "sk-...",
        alias=row.get("key_alias") or "",
        user=row.get("user_id") or "",
        team=row.get("team_id") or "",
        created_at=_seconds(row.get("created_at"), moment.now),
        expires_at=None if row.get("expires") is None else _seconds(row["expires"], 0.0),
        blocked=row.get("blocked") is True,
        metadata=metadata,
        fields=fields,
        created_by=row.get("created_by") or "",
        updated_at=_seconds(row.get("updated_at"), moment.now),
        updated_by=row.get("updated_by") or "",
    )


def user(row: Row, moment: Moment) -> Entry:
    return _entry(Kind.USER, row["user_id"], row, row.get("user_alias"), _USER_FIELDS, moment)


def team(row: Row, aliases: Mapping[str, Any], moment: Moment) -> Entry:
    """`aliases` are its `model_aliases`, which LiteLLM has in a table of their own."""
    id = _without_slash(row["team_id"], "its id")
    made = _entry(Kind.TEAM, id, row, row.get("team_alias"), _TEAM_FIELDS, moment)
    return _with_fields(made, {"model_aliases": dict(aliases)} if aliases else {})


def members(row: Row, memberships: Mapping[str, Row], moment: Moment) -> list[Entry]:
    """Of the team `row`; `memberships` are its rows of `LiteLLM_TeamMembership` by user."""
    team = str(row["team_id"])
    people = {each["user_id"]: each for each in _listed(row.get("members_with_roles")) if each.get("user_id")}
    roles = dict.fromkeys(_texts(row.get("members")), "user") | dict.fromkeys(_texts(row.get("admins")), "admin")
    people = {user: {"role": role} for user, role in roles.items()} | people
    made = []
    for user in dict.fromkeys([*people, *memberships]):
        person, own = people.get(user, {}), memberships.get(user, {})
        fields = _filled({"role": person.get("role") or "user", "user_email": person.get("user_email")})
        fields |= _given(own, ("budget_id",)) | _spend(own, moment)
        made.append(
            Entry(
                Kind.MEMBER,
                f"{team}/{user}",
                team=team,
                user=user,
                fields=fields,
                created_at=moment.now,
                updated_at=moment.now,
            )
        )
    return made


def nameless_members(row: Row) -> int:
    """Members of whom LiteLLM knows an email address alone: they never used the team."""
    return sum(not each.get("user_id") for each in _listed(row.get("members_with_roles")))


def budget(row: Row, moment: Moment) -> Entry:
    return _entry(Kind.BUDGET, row["budget_id"], row, None, _BUDGET_FIELDS, moment)


def customer(row: Row, moment: Moment) -> Entry:
    return _entry(Kind.CUSTOMER, row["user_id"], row, row.get("alias"), _CUSTOMER_FIELDS, moment)


def _entry(kind: Kind, id: Any, row: Row, alias: Any, names: Iterable[str], moment: Moment) -> Entry:
    metadata, inside = _parted(row.get("metadata"))
    made = Entry(
        kind,
        str(id),
        alias=alias or "",
        created_at=_seconds(row.get("created_at"), moment.now),
        created_by=row.get("created_by") or "",
        updated_at=_seconds(row.get("updated_at"), moment.now),
        updated_by=row.get("updated_by") or "",
    )
    return _with_fields(made, _given(row, names) | inside | _filled({"metadata": metadata}) | _spend(row, moment))


def _with_fields(made: Entry, more: Mapping[str, Any]) -> Entry:
    fields = {**made.fields, **more}
    _check_size(fields)
    return Entry(
        made.kind, made.id, made.alias, made.team, made.user, fields,
        made.created_at, made.created_by, made.updated_at, made.updated_by,
    )  # fmt: skip


def _given(row: Row, names: Iterable[str]) -> dict[str, Any]:
    return _filled({name: row.get(name) for name in names})


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those alone that somebody set: LiteLLM's defaults are null, empty and false."""
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {}, "", False)}


def _spend(row: Row, moment: Moment) -> dict[str, Any]:
    """What was spent in the window that is open there, and, unless the ledger gets all rows, ever."""
    spent: dict[str, Any] = {}
    if row.get("spend"):
        spent |= {"spend_base": float(row["spend"]), "spend_since": moment.now}
    if row.get("total_spend") and not moment.spend_logs:
        spent["total_spend_base"] = float(row["total_spend"])
    return spent


def _parted(metadata: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata, and the fields within it."""
    if not isinstance(metadata, dict):
        return {}, {}
    inside = {name: metadata[name] for name in _IN_METADATA if name in metadata}
    return {name: value for name, value in metadata.items() if name not in inside}, _filled(inside)


def _listed(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []  # {} when empty
    return [each for each in items if isinstance(each, dict)]


def _texts(value: Any) -> list[str]:
    return [each for each in value or () if isinstance(each, str) and each]


def _without_slash(id: Any, what: str) -> str:
    if "/" in str(id):
        raise Unfit(f"{what} has a slash, which separates teams from users here: rename it in LiteLLM")
    return str(id)


def _check_size(*parts: object) -> None:
    try:
        size = sum(len(orjson.dumps(part)) for part in parts)
    except TypeError as exc:
        raise Unfit("it has a number over 64 bits, or nests too deeply") from exc
    if size > MOST_JSON:
        raise Unfit(f"its metadata and fields are over {MOST_JSON} bytes of JSON")


def _seconds(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
