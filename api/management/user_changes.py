"""Making, changing and removing users. Each checks everything first, then writes once, then announces."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException

from api.management.access import Role
from api.management.bodies import validated
from api.management.changes import announce
from api.management.entries import Desk, named, require_budget, spent_from_now
from api.management.key_bodies import GenerateKey
from api.management.key_changes import make_key
from api.management.key_rules import check_team
from api.management.membership import member_fields, user_with
from api.management.people_bodies import Member, NewUser, TeamOfNewUser, UserChange, fields_of
from api.management.people_spends import account_of
from broker.account_records import Entry, Kind
from shared.errors import AppError, InvalidRequest, NotFound, UserExists
from shared.ids import uuid7

_ABOUT_KEY = ("key_alias", "duration")
_ABOUT_BOTH = (
    "models", "aliases", "config", "permissions", "metadata", "blocked", "allowed_cache_controls", "model_max_budget",
    "model_rpm_limit", "model_tpm_limit", "tags", "guardrails", "policies", "prompts", "object_permission",
)  # fmt: skip
"""What LiteLLM gives to the user and to the user's first key. Budgets and limits are the user's alone: they hold for
all of its keys together."""
_NOT_FIELDS = ("user_id", "user_alias", "team_id", "teams", "auto_create_key", *_ABOUT_KEY)


async def add_user(desk: Desk, body: NewUser) -> Entry:
    """The user with its memberships. Raises `UserExists`, and `InvalidRequest` for an unknown team or budget."""
    fields = _with_defaults(desk, fields_of(body, *_NOT_FIELDS))
    await require_budget(desk.directory, fields)
    await _refuse_taken_email(desk, body.user_email, "")
    user = desk.entry(Kind.USER, body.user_id or uuid7(), spent_from_now(fields, desk.now), alias=body.user_alias or "")
    members = await _memberships(desk, user, _teams(body))
    if await desk.directory.add([user, *members], desk.actor):
        raise UserExists(f"User with id {user.id} already exists", param="user_id")
    await announce(desk.context, f"user:{user.id}", *(f"member:{each.id}" for each in members))
    return user


async def add_first_key(desk: Desk, user: Entry, body: NewUser) -> dict[str, Any]:
    """What `/key/generate` answers. Raises what it raises; the user is gone then."""
    sent = body.given()
    wanted = {name: sent[name] for name in (*_ABOUT_BOTH, *_ABOUT_KEY) if sent.get(name) is not None}
    try:
        return await make_key(desk, validated({**wanted, "user_id": user.id, "team_id": body.team_id}, GenerateKey))
    except (AppError, HTTPException):
        await remove_users(desk, [user.id])
        raise


async def change_user(desk: Desk, body: UserChange) -> Entry:
    """Raises `InvalidRequest` if it names nobody, or an unknown budget, `NotFound`, and `UserExists`."""
    user = await _named(desk, body)
    changes = fields_of(body, "user_id", "user_alias")
    alias = (body.user_alias or "") if "user_alias" in body.model_fields_set else None
    await require_budget(desk.directory, changes)
    await _refuse_taken_email(desk, body.user_email, user.id)
    changes = spent_from_now(changes, desk.now)
    if desk.changes_nothing(user, changes, alias=alias):
        return user
    changed = await desk.directory.change(
        Kind.USER, user.id, lambda current: desk.patched(current, changes, alias=alias), desk.actor
    )
    if changed is None:
        raise _unknown(user.id)
    await announce(desk.context, f"user:{user.id}", accounts=(account_of(user),))
    return changed


async def remove_users(desk: Desk, ids: Sequence[str]) -> int:
    """How many: all of them, or `NotFound` for one that is not there."""
    there = await named(desk.directory, Kind.USER, ids)
    for id in ids:
        if id not in there:
            raise _unknown(id)
    removed = await desk.directory.remove(Kind.USER, list(there), desk.actor)
    await announce(desk.context, *(f"user:{id}" for id in removed.ids), *(f"key:{each}" for each in removed.keys))
    return len(removed.ids)


def _with_defaults(desk: Desk, fields: dict[str, Any]) -> dict[str, Any]:
    """LiteLLM takes who has no role for an internal user; the config has budgets for those."""
    settings = desk.context.settings.management
    role = fields.get("user_role") or Role.USER.value
    fields = {**fields, "user_role": role}
    if role != Role.USER:
        return fields
    if fields.get("max_budget") is None and fields.get("budget_id") is None:
        fields["max_budget"] = settings.max_internal_user_budget
    if fields.get("budget_duration") is None and fields.get("budget_id") is None:
        fields["budget_duration"] = settings.internal_user_budget_duration
    return fields


def _teams(body: NewUser) -> dict[str, TeamOfNewUser]:
    """Each once, whatever way it is named."""
    listed = [TeamOfNewUser(team_id=each) if isinstance(each, str) else each for each in body.teams or ()]
    first = [TeamOfNewUser(team_id=body.team_id)] if body.team_id else []
    return {each.team_id: each for each in [*first, *listed]}


async def _memberships(desk: Desk, user: Entry, wanted: dict[str, TeamOfNewUser]) -> list[Entry]:
    teams = await named(desk.directory, Kind.TEAM, list(wanted))
    for id in wanted:
        if id not in teams:
            await check_team(desk.directory, id)
    return [
        desk.member(
            id,
            user.id,
            member_fields(user, Member(role=each.user_role), {"max_budget_in_team": each.max_budget_in_team}),
        )
        for id, each in wanted.items()
    ]


async def _named(desk: Desk, body: UserChange) -> Entry:
    if body.user_id is not None:
        user = await desk.directory.get(Kind.USER, body.user_id)
    elif body.user_email is not None:
        user = await user_with(desk, body.user_email)
    else:
        raise InvalidRequest("Either user id or user email must be passed in", param="user_id")
    if user is None:
        raise _unknown(body.user_id or body.user_email or "")
    return user


async def _refuse_taken_email(desk: Desk, email: str | None, user: str) -> None:
    other = await user_with(desk, email) if email else None
    if other is not None and other.id != user:
        raise UserExists(f"User with email {email} already exists", param="user_email")


def _unknown(id: str) -> NotFound:
    return NotFound(f"User not found, passed user_id={id}", param="user_id")
