"""Users in LiteLLM's shapes: people who own keys, and what all of theirs together may use."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import DEFAULT_USER, Act, Subject, allowed, is_admin, require, teams_of
from api.management.bodies import MOST_NAME, ManagementRoute, documented, parsed
from api.management.entries import Desk, Listing, desk_of, listed, page_of, require_some
from api.management.membership import members_of
from api.management.people_bodies import NewUser, UserChange, UserIds, UserRole
from api.management.people_views import key_rows, team_rows, user_rows
from api.management.user_changes import add_first_key, add_user, change_user, remove_users
from broker.account_records import Entry, EntryQuery, Kind
from shared.errors import InvalidRequest, NotFound

router = APIRouter(tags=["users"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
UserId = Annotated[str | None, Query(max_length=MOST_NAME)]

_NEWEST = 100  # keys and teams that an administrator sees who asks for no user

_ORDERS: dict[str, Callable[[Entry], Any]] = {
    "user_id": lambda user: user.id,
    "user_alias": lambda user: user.alias.lower(),
    "user_email": lambda user: str(user.fields.get("user_email") or ""),
    "user_role": lambda user: str(user.fields.get("user_role") or ""),
}
"""What the store does not sort by."""


class UserPage(BaseModel):
    role: UserRole | None = None
    user_ids: Annotated[str | None, Field(max_length=30_000)] = None
    """Comma-separated."""
    user_email: Annotated[str | None, Field(max_length=MOST_NAME)] = None
    """Part of it."""
    sso_user_ids: Annotated[str | None, Field(max_length=30_000)] = None
    search: Annotated[str | None, Field(max_length=MOST_NAME)] = None
    """Part of the id, the alias or the email."""
    team: Annotated[str | None, Field(max_length=MOST_NAME)] = None
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    page_size: Annotated[int, Field(ge=1, le=100)] = 25
    sort_by: Literal["user_id", "user_email", "user_alias", "user_role", "created_at"] | None = None
    sort_order: Literal["asc", "desc"] = "asc"


@router.post(
    "/user/new",
    summary="Make a user, and a key for it unless `auto_create_key` is false",
    openapi_extra=documented(NewUser, required=False),
)
async def new(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_USER)
    body = await parsed(request, NewUser)
    user = await add_user(desk, body)
    key = await add_first_key(desk, user, body) if body.auto_create_key else {"key": ""}
    (row,) = await user_rows(desk, [user])
    return {**key, **row}


@router.post(
    "/user/update",
    summary="Change a user; what the body does not name stays as it is",
    openapi_extra=documented(UserChange),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_USER)
    user = await change_user(desk, await parsed(request, UserChange))
    (row,) = await user_rows(desk, [user])
    return {"user_id": user.id, "data": row}


@router.post("/user/delete", summary="Delete users with their keys and memberships", openapi_extra=documented(UserIds))
async def delete(request: Request, caller: Caller) -> int:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_USER)
    ids = (await parsed(request, UserIds)).user_ids
    require_some(ids, "user_ids")
    return await remove_users(desk, ids)


@router.get("/user/info", summary="A user with its keys and teams; the caller, if none is named")
async def info(request: Request, caller: Caller, user_id: UserId = None) -> dict[str, Any]:
    desk = desk_of(request, caller)
    if user_id is None and is_admin(caller):
        return await _overview(desk)
    id = user_id or caller.user
    await require(desk.directory, caller, Act.SEE_USER, Subject(user=id))
    user = await desk.directory.get(Kind.USER, id) if id else None
    if user is None:
        raise NotFound(f"User {id or None} not found", param="user_id")
    (row,) = await user_rows(desk, [user])
    return {
        "user_id": id,
        "user_info": row,
        "keys": await key_rows(desk, user=id),
        "teams": await team_rows(desk, await _teams(desk, row["teams"])),
    }


@router.get("/v2/user/info", summary="A user alone; the caller, if none is named")
async def info_alone(request: Request, caller: Caller, user_id: UserId = None) -> dict[str, Any]:
    desk = desk_of(request, caller)
    id = user_id or caller.user
    if not id:
        raise InvalidRequest(
            "user_id is required. Either pass it as a query parameter or authenticate with a user-bound key.",
            param="user_id",
        )
    user = await desk.directory.get(Kind.USER, id) if await _may_see(desk, id) else None
    if user is None:
        raise NotFound(f"User not found: {id}", param="user_id")
    (row,) = await user_rows(desk, [user])
    return row


@router.get("/user/list", summary="Users, a page at a time")
async def list_users(request: Request, caller: Caller, page: Annotated[UserPage, Query()]) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_ALL)
    users, total = await listed(desk.directory, await _listing(desk, page))
    return page_of("users", await user_rows(desk, users, count_keys=True), total, page.page, page.page_size)


async def _overview(desk: Desk) -> dict[str, Any]:
    """What an administrator is shown who asks for nobody: the newest keys and teams."""
    id = desk.caller.user or DEFAULT_USER
    user = await desk.directory.get(Kind.USER, id)
    teams = await desk.directory.find(EntryQuery(Kind.TEAM, limit=_NEWEST))
    return {
        "user_id": id,
        "user_info": (await user_rows(desk, [user]))[0] if user else None,
        "keys": await key_rows(desk, limit=_NEWEST),
        "teams": await team_rows(desk, teams),
    }


async def _teams(desk: Desk, ids: list[str]) -> list[Entry]:
    if not ids:
        return []
    teams = await desk.directory.find(EntryQuery(Kind.TEAM, ids=tuple(ids), limit=len(ids)))
    return sorted(teams, key=lambda team: team.alias)


async def _may_see(desk: Desk, user: str) -> bool:
    """Beside those who may anyhow, a team's admins see its members."""
    if await allowed(desk.directory, desk.caller, Act.SEE_USER, Subject(user=user)):
        return True
    teams = await teams_of(desk.directory, desk.caller.user, as_admin=True)
    places = tuple(f"{team}/{user}" for team in teams)
    return bool(places and await desk.directory.find(EntryQuery(Kind.MEMBER, ids=places, limit=1)))


async def _listing(desk: Desk, page: UserPage) -> Listing:
    """The store filters by ids and one field; what is asked beyond it is looked for among what it gives."""
    ids = _split(page.user_ids)
    if page.team is not None:
        theirs = {each.user for each in await members_of(desk, page.team)}
        ids = tuple(id for id in ids if id in theirs) if ids else tuple(sorted(theirs))
        ids = ids or ("",)  # of nobody
    emails = (page.user_email or "").strip().lower()
    words, accounts = (page.search or "").strip().lower(), _split(page.sso_user_ids)

    def keep(user: Entry) -> bool:
        email = str(user.fields.get("user_email") or "")
        text = f"{user.id}\n{user.alias}\n{email}".lower()
        return emails in email and words in text and (not accounts or user.fields.get("sso_user_id") in accounts)

    return Listing(
        EntryQuery(Kind.USER, ids=ids, field=None if page.role is None else ("user_role", page.role)),
        page.page,
        page.page_size,
        order=_ORDERS.get(page.sort_by or ""),
        descending=page.sort_by is None or page.sort_order == "desc",
        keep=keep if emails or words or accounts else None,
    )


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in (text or "").split(","))))
