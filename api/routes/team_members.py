"""Who is in a team, in what role, and what each may use of what the team has."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, Subject, require
from api.management.bodies import ManagementRoute, documented, parsed
from api.management.changes import announce
from api.management.entries import Desk, desk_of, require_budget, require_some
from api.management.membership import find_member
from api.management.people_bodies import MemberChange, MemberFields, NewMembers, OneMember, fields_of
from api.management.people_spends import account_of
from api.management.people_views import membership_rows, team_rows, user_rows
from api.management.team_changes import add_members
from broker.account_records import Entry, Kind
from shared.errors import InvalidRequest, NotFound

router = APIRouter(tags=["teams"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]


@router.post(
    "/team/member_add",
    summary="Add members to a team; users that do not exist are made",
    openapi_extra=documented(NewMembers),
)
async def add(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    body = await parsed(request, NewMembers)
    await require(desk.directory, caller, Act.CHANGE_MEMBERS, Subject(team=body.team_id))
    require_some([each.role for each in body.listed], "member")
    team = await desk.directory.get(Kind.TEAM, body.team_id)
    if team is None:
        raise NotFound(f"Team not found for team_id={body.team_id}", param="team_id")
    fields = _limits(body)
    await require_budget(desk.directory, fields)
    joining = await add_members(desk, team, body.listed, fields)
    (row,) = await team_rows(desk, [team])
    return {
        **row,
        "updated_users": await user_rows(desk, joining.users),
        "updated_team_memberships": await membership_rows(desk, team, joining.members),
    }


@router.post(
    "/team/member_delete",
    summary="Take a member out of a team, with its keys there",
    openapi_extra=documented(OneMember),
)
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    body = await parsed(request, OneMember)
    team, member = await _place(desk, body)
    if member is None:
        raise InvalidRequest("User not found in team", param="user_id")
    removed = await desk.directory.remove(Kind.MEMBER, [member.id], desk.actor)
    await announce(desk.context, f"member:{member.id}", *(f"key:{each}" for each in removed.keys))
    (row,) = await team_rows(desk, [team])
    return row


@router.post(
    "/team/member_update",
    summary="Change a member's role, budget and limits in a team",
    openapi_extra=documented(MemberChange),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    body = await parsed(request, MemberChange)
    _, member = await _place(desk, body)
    if member is None:
        raise _not_in_team(body)
    changes = _limits(body) | ({"role": body.role} if body.role else {})
    await require_budget(desk.directory, changes)
    if not desk.changes_nothing(member, changes):
        changed = await desk.directory.change(
            Kind.MEMBER, member.id, lambda current: desk.patched(current, changes), desk.actor
        )
        if changed is None:
            raise _not_in_team(body)
        await announce(desk.context, f"member:{member.id}", accounts=(account_of(member),))
        member = changed
    return {
        "team_id": member.team,
        "user_id": member.user,
        "user_email": member.fields.get("user_email"),
        "role": member.fields.get("role", "user"),
        **{name: member.fields.get(name) for name in MemberFields.model_fields},
    }


async def _place(desk: Desk, body: OneMember) -> tuple[Entry, Entry | None]:
    """The team and the member that the body names, once the caller may change it."""
    await require(desk.directory, desk.caller, Act.CHANGE_MEMBERS, Subject(team=body.team_id))
    team = await desk.directory.get(Kind.TEAM, body.team_id)
    if team is None:
        raise InvalidRequest(f"Team id={body.team_id} does not exist in db", param="team_id")
    return team, await find_member(desk, body)


def _limits(body: MemberFields) -> dict[str, Any]:
    return {name: value for name, value in fields_of(body).items() if name in MemberFields.model_fields}


def _not_in_team(body: OneMember) -> InvalidRequest:
    return InvalidRequest(
        f"User id doesn't exist in team table. user_id={body.user_id}, user_email={body.user_email}", param="user_id"
    )
