"""Teams in LiteLLM's shapes: users who share models, limits and budgets."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, Subject, require, sees_everything, teams_of
from api.management.bodies import MOST_NAME, ManagementRoute, documented, parsed
from api.management.entries import PAGE, Desk, Listing, desk_of, listed, page_of, require_some
from api.management.membership import members_of
from api.management.people_bodies import NewTeam, OneTeam, TeamChange, TeamIds
from api.management.people_shapes import budget_table
from api.management.people_spends import of_members
from api.management.people_views import MOST_KEYS, key_rows, membership_rows, team_rows
from api.management.team_changes import add_team, change_team, remove_teams, set_team_blocked
from broker.account_records import Entry, EntryQuery, Kind
from shared.errors import NotFound, PermissionDenied

router = APIRouter(tags=["teams"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Text = Annotated[str | None, Field(max_length=MOST_NAME)]

_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "team_id": lambda team: team.id,
    "team_alias": lambda team: team.alias.lower(),
}
"""What the store does not sort by."""


class Filter(BaseModel):
    user_id: Text = None
    """A member of it."""
    organization_id: Text = None


class TeamPage(Filter):
    team_id: Text = None
    team_alias: Text = None
    """Part of it."""
    search: Text = None
    """Part of the id or the alias."""
    search_team_id_match: Literal["exact", "prefix"] = "exact"
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    page_size: Annotated[int, Field(ge=1, le=100)] = 10
    sort_by: Literal["team_id", "team_alias", "created_at"] | None = None
    sort_order: Literal["asc", "desc"] = "asc"


@router.post(
    "/team/new",
    summary="Make a team with its members; users that do not exist are made",
    openapi_extra=documented(NewTeam, required=False),
)
async def new(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_TEAM)
    return await _row(desk, await add_team(desk, await parsed(request, NewTeam)))


@router.post(
    "/team/update",
    summary="Change a team; what the body does not name stays as it is",
    openapi_extra=documented(TeamChange),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_TEAM)
    team = await change_team(desk, await parsed(request, TeamChange))
    return {"team_id": team.id, "data": await _row(desk, team)}


@router.post("/team/delete", summary="Delete teams with their members and keys", openapi_extra=documented(TeamIds))
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_TEAM)
    ids = (await parsed(request, TeamIds)).team_ids
    require_some(ids, "team_ids")
    return {"deleted_teams": await remove_teams(desk, ids)}


@router.post(
    "/team/block",
    summary="Refuse the requests of a team's keys until it is unblocked",
    openapi_extra=documented(OneTeam),
)
async def block(request: Request, caller: Caller) -> dict[str, Any]:
    return await _set_blocked(request, caller, blocked=True)


@router.post("/team/unblock", summary="Let a blocked team's keys in again", openapi_extra=documented(OneTeam))
async def unblock(request: Request, caller: Caller) -> dict[str, Any]:
    return await _set_blocked(request, caller, blocked=False)


@router.get("/team/info", summary="A team with its members and keys")
async def info(
    request: Request,
    caller: Caller,
    team_id: Annotated[str, Query(max_length=MOST_NAME)],
    key_limit: Annotated[int, Query(ge=1, le=MOST_KEYS)] = MOST_KEYS,
) -> dict[str, Any]:
    desk = desk_of(request, caller)
    if caller.team != team_id:  # a team's key sees its team, whoever has it
        await require(desk.directory, caller, Act.SEE_TEAM, Subject(team=team_id))
    team = await desk.directory.get(Kind.TEAM, team_id)
    if team is None:
        raise NotFound(f"Team not found, passed team id: {team_id}.", param="team_id")
    return {
        "team_id": team_id,
        "team_info": {**await _row(desk, team), "team_member_budget_table": budget_table(team, of_members(team))},
        "keys": await key_rows(desk, team=team_id, limit=key_limit),
        "team_memberships": await membership_rows(desk, team, await members_of(desk, team_id)),
    }


@router.get("/team/list", summary="All teams, or those of a user: at most 1,000, the newest first")
async def list_all(request: Request, caller: Caller, wanted: Annotated[Filter, Query()]) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    query = await _query(desk, wanted)
    teams = await desk.directory.find(query) if query else []
    return await team_rows(desk, teams)


@router.get("/v2/team/list", summary="Teams, a page at a time")
async def list_page(request: Request, caller: Caller, page: Annotated[TeamPage, Query()]) -> dict[str, Any]:
    desk = desk_of(request, caller)
    query = await _query(desk, page, page.team_id)
    teams: list[Entry] = []
    total = 0
    if query is not None:
        alias, text = (page.team_alias or "").lower(), (page.search or "").lower()

        def keep(team: Entry) -> bool:
            found = team.id.startswith(text) if page.search_team_id_match == "prefix" else team.id.lower() == text
            return alias in team.alias.lower() and (not text or found or text in team.alias.lower())

        listing = Listing(
            query,
            page.page,
            page.page_size,
            order=_ORDERS.get(page.sort_by or ""),
            descending=page.sort_by is None or page.sort_order == "desc",
            keep=keep if alias or text else None,
        )
        teams, total = await listed(desk.directory, listing)
    return page_of("teams", await team_rows(desk, teams, counted=True), total, page.page, page.page_size)


async def _query(desk: Desk, wanted: Filter, team: str | None = None) -> EntryQuery | None:
    """None when it can find nothing. Who may not see everything sees its own teams."""
    user = wanted.user_id
    if not sees_everything(desk.caller):
        user = user or desk.caller.user
        if not user or user != desk.caller.user:
            raise PermissionDenied("Only admin users can query all teams/other teams.", param="user_id")
    ids = None if user is None else set(await teams_of(desk.directory, user))
    if team is not None:
        ids = {team} if ids is None or team in ids else set()
    if ids is not None and not ids:
        return None
    field = None if wanted.organization_id is None else ("organization_id", wanted.organization_id)
    return EntryQuery(Kind.TEAM, ids=tuple(sorted(ids or ())), field=field, limit=PAGE)


async def _set_blocked(request: Request, caller: Principal, *, blocked: bool) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_TEAM)
    return await _row(desk, await set_team_blocked(desk, (await parsed(request, OneTeam)).team_id, blocked=blocked))


async def _row(desk: Desk, team: Entry) -> dict[str, Any]:
    (row,) = await team_rows(desk, [team])
    return row
