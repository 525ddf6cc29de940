"""Whether a caller may make or change a key like that. Reads only; raises before anything is written."""

from dataclasses import replace

from api.auth import Principal
from api.management.access import Act, Role, Subject, allowed, is_admin, require, role_of, subject_of
from api.management.key_bodies import GenerateKey, KeyFields
from broker.account_records import Kind
from broker.directory_interfaces import Directory, Keys
from broker.records import KeyRecord
from shared.errors import InvalidRequest, PermissionDenied

_GRANTS = ("permissions", "allowed_passthrough_routes", "end_user_budget_id")
"""Fields that only an administrator sets, beside `allowed_routes`."""

_BUDGET_FIELDS = (
    "max_budget", "soft_budget", "budget_duration", "budget_limits", "budget_id", "model_max_budget", "spend",
    "temp_budget_increase", "blocked",
)  # fmt: skip
"""Fields of an existing key that its owner does not set: a budget that its spender may raise is none."""


async def check_new(keys: Keys, directory: Directory, caller: Principal, body: GenerateKey) -> GenerateKey:
    """The body with what a caller who is no administrator leaves open filled in: the key is its own, and has no larger
    budget than the key that asks. Raises `PermissionDenied`, or `InvalidRequest` for an unknown team."""
    await check_team(directory, body.team_id)
    if is_admin(caller):
        return body
    _check_grants(caller, body)
    await _check_known(directory, caller)
    service = body.service_account_id is not None
    if body.user_id is None and not service and role_of(caller) is not Role.NONE:
        body = body.model_copy(update={"user_id": caller.user})
        body.model_fields_set.add("user_id")
    await require(directory, caller, Act.MAKE_KEY, Subject(user=body.user_id or "", team=body.team_id or ""))
    if body.team_id and body.user_id:
        await _check_member(directory, body.team_id, body.user_id)
    return await _within_own_budget(keys, caller, body)


async def check_update(directory: Directory, caller: Principal, act: Act, record: KeyRecord, body: KeyFields) -> None:
    """Raises `PermissionDenied`, or `InvalidRequest` for an unknown team."""
    sent = body.model_fields_set
    if body.team_id and body.team_id != record.team:
        await check_team(directory, body.team_id)
    if is_admin(caller):
        return
    await require(directory, caller, act, subject_of(record))
    _check_grants(caller, body)
    if "user_id" in sent and not body.user_id:
        raise PermissionDenied("Non-admin users cannot remove the user_id from a key.", param="user_id")
    if "user_id" in sent and body.user_id != record.user:
        raise PermissionDenied(
            f"Non-admin caller is not allowed to rebind the key from user={record.user} to user={body.user_id}",
            param="user_id",
        )
    if not sent.isdisjoint(_BUDGET_FIELDS):
        await _check_budget(directory, caller, record)
    if "team_id" in sent and (body.team_id or "") != record.team:
        await _check_budget(directory, caller, record)
        moved = replace(subject_of(record), team=body.team_id or "")
        await require(directory, caller, Act.MAKE_KEY, moved)


async def check_team(directory: Directory, team: str | None) -> None:
    """Raises `InvalidRequest` when there is no such team."""
    if team and await directory.get(Kind.TEAM, team) is None:
        raise InvalidRequest(f"Unable to find team object in database. Team ID: {team}", param="team_id")


def _check_grants(caller: Principal, body: KeyFields) -> None:
    if "allowed_routes" in body.model_fields_set:
        raise PermissionDenied(
            "Only proxy admins can set `allowed_routes` on a key. "
            "Use `key_type` to pick a preset route bucket instead.",
            param="allowed_routes",
        )
    if getattr(body, "key_type", None) == "management":
        raise PermissionDenied("Only proxy admins can set `key_type` management.", param="key_type")
    for name in _GRANTS:
        if name in body.model_fields_set:
            raise PermissionDenied(f"Only proxy admins can set `{name}`.", param=name)


async def _check_known(directory: Directory, caller: Principal) -> None:
    """A key may name any user; who has not been made with /user/new has no limits that new keys would be under."""
    if not caller.user or await directory.get(Kind.USER, caller.user) is None:
        raise PermissionDenied(
            f"You are not allowed to {Act.MAKE_KEY}: user {caller.user or None} is not known. "
            "An admin makes users with /user/new."
        )


async def _check_budget(directory: Directory, caller: Principal, record: KeyRecord) -> None:
    if not record.team or not await allowed(directory, caller, Act.SET_BUDGET, subject_of(record)):
        raise PermissionDenied(
            "Only proxy admins or team admins can call /key/update (max_budget/spend). "
            f"user_role={role_of(caller) or None}, user_id={caller.user or None}"
        )


async def _check_member(directory: Directory, team: str, user: str) -> None:
    if await directory.get(Kind.MEMBER, f"{team}/{user}") is None:
        raise InvalidRequest(f"User={user} not assigned to team={team}", param="user_id")


async def _within_own_budget(keys: Keys, caller: Principal, body: GenerateKey) -> GenerateKey:
    own = await keys.get(caller.key)
    ceiling = own.fields.get("max_budget") if own else None
    if ceiling is None:
        return body
    if body.max_budget is not None and body.max_budget > ceiling:
        raise InvalidRequest(
            f"max_budget ({body.max_budget}) cannot exceed the caller's own max_budget ({ceiling}).",
            param="max_budget",
        )
    if body.max_budget is None:
        body = body.model_copy(update={"max_budget": ceiling})
        body.model_fields_set.add("max_budget")
    return body
