"""What a caller may do with keys, users, teams and the like: LiteLLM's roles as one table."""

import re
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from starlette.requests import Request

from api.auth import Principal
from broker.account_records import Actor, EntryQuery, Kind
from broker.directory_interfaces import Directory
from broker.records import KeyRecord
from shared.errors import PermissionDenied

DEFAULT_USER = "default_user_id"
"""LiteLLM's name for who has the master key."""

MOST_TEAMS = 1000
"""Teams of one user that are looked at."""

_MOST_NAME = 256
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Role(StrEnum):
    ADMIN = "proxy_admin"
    """Everything; the master key has it."""
    VIEWER = "proxy_admin_viewer"
    """Sees everything, changes nothing."""
    USER = "internal_user"
    """Own keys, and what teams allow."""
    USER_VIEWER = "internal_user_viewer"
    """Sees what is its own."""
    NONE = ""
    """A key without a user: may ask about itself."""


class Relation(Enum):
    """Of a caller to what it asks about."""

    ITSELF = auto()
    """It is the caller's own key."""
    OWNER = auto()
    """It belongs to the caller's user, or is that user."""
    SOLE_OWNER = auto()
    """The same, and it belongs to no team."""
    PERMITTED = auto()
    """It belongs to the caller's user in a team whose `team_member_permissions` have the route."""
    TEAM_ADMIN = auto()
    """It is or belongs to a team whose admin the caller's user is."""
    TEAM_MEMBER = auto()
    """It is or belongs to a team that the caller's user is in."""


class Act(StrEnum):
    """The values complete `You are not allowed to ...`."""

    SEE_KEY = "see this key"
    MAKE_KEY = "make keys for this user or team"
    UPDATE_KEY = "change this key"
    DELETE_KEY = "delete this key"
    REGENERATE_KEY = "regenerate this key"
    BLOCK_KEY = "block or unblock this key"
    SET_BUDGET = "change the budget of this key"
    RESET_SPEND = "reset the spend of this key"
    SEE_USER = "see this user"
    CHANGE_USER = "change users"
    SEE_TEAM = "see this team"
    SEE_LOGS = "see the attempts of this team"
    SEE_ACTIVITY = "see what everybody in this team has spent"
    CHANGE_MEMBERS = "change this team's members"
    CHANGE_TEAM = "change teams"
    SEE_BUDGETS = "see budgets"
    CHANGE_BUDGETS = "change budgets"
    SEE_CUSTOMERS = "see customers"
    CHANGE_CUSTOMERS = "change customers"
    CHANGE_MODELS = "change models"
    SEE_ALL = "see what belongs to everybody"


_NOBODY: frozenset[Relation] = frozenset()
_KEEPERS = frozenset({Relation.SOLE_OWNER, Relation.PERMITTED, Relation.TEAM_ADMIN})
_TEAM_ADMIN = frozenset({Relation.TEAM_ADMIN})
_TEAM = frozenset({Relation.TEAM_ADMIN, Relation.TEAM_MEMBER})
_TEAM_SPEND = frozenset({Relation.TEAM_ADMIN, Relation.PERMITTED})

_RULES: dict[Act, frozenset[Relation]] = {
    Act.SEE_KEY: frozenset({Relation.ITSELF, Relation.OWNER}) | _TEAM,
    Act.MAKE_KEY: _KEEPERS,
    Act.UPDATE_KEY: _KEEPERS,
    Act.DELETE_KEY: _KEEPERS,
    Act.REGENERATE_KEY: _KEEPERS,
    Act.BLOCK_KEY: _TEAM_ADMIN,
    Act.SET_BUDGET: _TEAM_ADMIN,
    Act.RESET_SPEND: _TEAM_ADMIN,
    Act.SEE_USER: frozenset({Relation.OWNER}),
    Act.CHANGE_USER: _NOBODY,
    Act.SEE_TEAM: _TEAM,
    Act.SEE_LOGS: _TEAM_SPEND,
    Act.SEE_ACTIVITY: _TEAM_SPEND,
    Act.CHANGE_MEMBERS: _TEAM_ADMIN,
    Act.CHANGE_TEAM: _NOBODY,
    Act.SEE_BUDGETS: _NOBODY,
    Act.CHANGE_BUDGETS: _NOBODY,
    Act.SEE_CUSTOMERS: _NOBODY,
    Act.CHANGE_CUSTOMERS: _NOBODY,
    Act.CHANGE_MODELS: _NOBODY,
    Act.SEE_ALL: _NOBODY,
}
"""Who may, beside administrators, who may everything, and viewers, who may see everything."""

_ROUTES = {
    Act.MAKE_KEY: "/key/generate",
    Act.UPDATE_KEY: "/key/update",
    Act.DELETE_KEY: "/key/delete",
    Act.REGENERATE_KEY: "/key/regenerate",
    Act.SEE_LOGS: "/spend/logs",
    Act.SEE_ACTIVITY: "/team/daily/activity",
}
"""What a team's `team_member_permissions` call it."""

_SEEING = frozenset(act for act in Act if act.name.startswith("SEE_"))
_READERS = frozenset({Role.USER_VIEWER, Role.VIEWER, Role.NONE})
"""Roles that change nothing, whoever they are."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What somebody wants to do something with; empty where it has no such thing."""

    key: str = ""
    user: str = ""
    team: str = ""


def subject_of(record: KeyRecord) -> Subject:
    return Subject(record.hash, record.user, record.team)


def role_of(caller: Principal) -> Role:
    if caller.admin:
        return Role.ADMIN
    return _ROLES.get(caller.role, Role.NONE) if caller.user else Role.NONE


_ROLES = {role.value: role for role in Role}


def sees_everything(caller: Principal) -> bool:
    """Whether the caller is an administrator, or may look at all that one sees."""
    return role_of(caller) in (Role.ADMIN, Role.VIEWER)


def is_admin(caller: Principal) -> bool:
    return role_of(caller) is Role.ADMIN


async def allowed(directory: Directory, caller: Principal, act: Act, subject: Subject) -> bool:
    """Asks the directory only if it depends on a team."""
    role = role_of(caller)
    if role is Role.ADMIN or (role is Role.VIEWER and act in _SEEING):
        return True
    if role in _READERS and act not in _SEEING:
        return False
    enough = _RULES[act]
    if not enough.isdisjoint(_alone(caller, subject)):
        return True
    if subject.team and caller.user and not enough.isdisjoint(_IN_TEAMS):
        return not enough.isdisjoint(await _in_team(directory, caller, act, subject))
    return False


_IN_TEAMS = frozenset({Relation.PERMITTED, Relation.TEAM_ADMIN, Relation.TEAM_MEMBER})


def _alone(caller: Principal, subject: Subject) -> set[Relation]:
    """What can be told without the directory."""
    relations = set()
    if subject.key and subject.key == caller.key:
        relations.add(Relation.ITSELF)
    if subject.user and subject.user == caller.user:
        relations.add(Relation.OWNER)
        if not subject.team:
            relations.add(Relation.SOLE_OWNER)
    return relations


async def _in_team(directory: Directory, caller: Principal, act: Act, subject: Subject) -> set[Relation]:
    member = await directory.get(Kind.MEMBER, f"{subject.team}/{caller.user}")
    if member is None:
        return set()
    if member.fields.get("role") == "admin":
        return {Relation.TEAM_ADMIN, Relation.TEAM_MEMBER}
    if act not in _ROUTES or subject.user != caller.user:
        return {Relation.TEAM_MEMBER}
    team = await directory.get(Kind.TEAM, subject.team)
    permissions = team.fields.get("team_member_permissions") if team else None
    permitted = isinstance(permissions, list) and _ROUTES[act] in permissions
    return {Relation.TEAM_MEMBER, Relation.PERMITTED} if permitted else {Relation.TEAM_MEMBER}


async def require(directory: Directory, caller: Principal, act: Act, subject: Subject | None = None) -> None:
    """Raises `PermissionDenied`."""
    if not await allowed(directory, caller, act, subject or Subject()):
        raise PermissionDenied(f"You are not allowed to {act}. Your role={role_of(caller) or 'none'}")


async def teams_of(directory: Directory, user: str, *, as_admin: bool = False) -> tuple[str, ...]:
    """Ids of the teams that the user is a member, or an admin, of."""
    if not user:
        return ()
    members = await directory.find(EntryQuery(Kind.MEMBER, user=user, limit=MOST_TEAMS))
    return tuple(each.team for each in members if not as_admin or each.fields.get("role") == "admin")


def author(caller: Principal) -> str:
    """Who made or changed a row, in its `created_by` and `updated_by`."""
    return caller.user or (DEFAULT_USER if caller.admin else caller.key)


def actor(request: Request, caller: Principal) -> Actor:
    """Who manages, for the audit. Whom `litellm-changed-by` names is believed if an administrator says it."""
    named = request.headers.get("litellm-changed-by", "") if is_admin(caller) else ""
    client = request.client
    return Actor(
        id=_CONTROL.sub("", named)[:_MOST_NAME] or author(caller),
        key=caller.key,
        address=client.host if client else "",
    )
