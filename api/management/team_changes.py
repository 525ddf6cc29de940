"""Making, changing and removing teams. Each checks everything first, then writes once, then announces."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.management.changes import announce
from api.management.entries import Desk, named, require_budget
from api.management.membership import Joining, join, members_of
from api.management.people_bodies import Member, NewTeam, TeamChange, fields_of
from api.management.people_spends import account_of
from broker.account_records import Entry, Kind
from shared.errors import Conflict, NotFound
from shared.ids import uuid7

_NOT_FIELDS = ("team_id", "team_alias", "members_with_roles", "admins", "members")

_ATTEMPTS = 3  # to add members, while others add the same


async def add_team(desk: Desk, body: NewTeam) -> Entry:
    """The team with its members and the users that did not exist. Raises `Conflict` if its id is taken,
    `InvalidRequest` for an unknown budget, and what `join` raises."""
    fields = fields_of(body, *_NOT_FIELDS)
    await require_budget(desk.directory, fields)
    id = body.team_id or uuid7()
    team = desk.entry(Kind.TEAM, id, fields, alias=body.team_alias or "")
    for _ in range(_ATTEMPTS):
        joining = await join(desk, team, _founders(desk, body), {})
        if await desk.directory.get(Kind.TEAM, id) is not None:
            raise Conflict(f"Team id = {id} already exists. Please use a different team id.", param="team_id")
        if not await desk.directory.add([team, *joining.entries], desk.actor):
            await announce(desk.context, f"team:{id}", *joining.subjects)
            return team
    raise Conflict("Somebody else is making the same users. Try again.", param="members_with_roles")


async def change_team(desk: Desk, body: TeamChange) -> Entry:
    """Raises `NotFound`, and `InvalidRequest` for an unknown budget."""
    team = await team_named(desk, body.team_id)
    changes = fields_of(body, *_NOT_FIELDS)
    alias = (body.team_alias or "") if "team_alias" in body.model_fields_set else None
    await require_budget(desk.directory, changes)
    if desk.changes_nothing(team, changes, alias=alias):
        return team
    changed = await desk.directory.change(
        Kind.TEAM, team.id, lambda current: desk.patched(current, changes, alias=alias), desk.actor
    )
    await announce(desk.context, f"team:{team.id}", accounts=(account_of(team),))
    return _there(changed, team.id)


async def set_team_blocked(desk: Desk, id: str, *, blocked: bool) -> Entry:
    """Raises `NotFound`."""
    changed = await desk.directory.change(
        Kind.TEAM,
        id,
        lambda current: desk.patched(current, {"blocked": blocked}),
        desk.actor,
        "blocked" if blocked else "unblocked",
    )
    await announce(desk.context, f"team:{id}")
    return _there(changed, id)


async def remove_teams(desk: Desk, ids: Sequence[str]) -> list[str]:
    """With their members and keys; all of them, or `NotFound` for one that is not there."""
    there = await named(desk.directory, Kind.TEAM, ids)
    for id in ids:
        if id not in there:
            raise _unknown(id)
    removed = await desk.directory.remove(Kind.TEAM, list(there), desk.actor)
    await announce(desk.context, *(f"team:{id}" for id in removed.ids), *(f"key:{each}" for each in removed.keys))
    return list(removed.ids)


async def add_members(desk: Desk, team: Entry, wanted: Sequence[Member], fields: Mapping[str, Any]) -> Joining:
    """Raises what `join` raises, and `Conflict` when others keep adding the same users."""
    for _ in range(_ATTEMPTS):
        joining = await join(desk, team, wanted, fields, await members_of(desk, team.id))
        if not await desk.directory.add(joining.entries, desk.actor):
            await announce(desk.context, *joining.subjects)
            return joining
    raise Conflict(f"Somebody else is adding the same members to team {team.id}. Try again.", param="member")


async def team_named(desk: Desk, id: str) -> Entry:
    """Raises `NotFound`."""
    return _there(await desk.directory.get(Kind.TEAM, id), id)


def _founders(desk: Desk, body: NewTeam) -> list[Member]:
    """Whoever makes a team is one of its admins, as in LiteLLM."""
    founders = [
        *body.members_with_roles,
        *(Member(user_id=id, role="admin") for id in body.admins),
        *(Member(user_id=id, role="user") for id in body.members),
    ]
    if desk.caller.user and all(each.user_id != desk.caller.user for each in founders):
        founders.append(Member(user_id=desk.caller.user, role="admin"))
    return founders


def _there(team: Entry | None, id: str) -> Entry:
    if team is None:
        raise _unknown(id)
    return team


def _unknown(id: str) -> NotFound:
    return NotFound(f"Team not found, passed team_id={id}", param="team_id")
