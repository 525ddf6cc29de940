"""Virtual keys, looked at: one, several, lists of them, and their aliases."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management import key_views
from api.management.access import (
    DEFAULT_USER,
    Act,
    Role,
    allowed,
    role_of,
    sees_everything,
    subject_of,
    teams_of,
)
from api.management.bodies import ManagementRoute, Name, documented, parsed
from api.management.entries import Desk, desk_of
from api.management.key_bodies import KeysNamed
from api.management.key_finder import find_key, find_keys, key_hash
from api.management.key_views import SORTABLE, Listing, Sorting, listed, look
from broker.account_records import KeyQuery
from shared.errors import InvalidRequest, NotFound, PermissionDenied

router = APIRouter(tags=["keys"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Page = Annotated[int, Field(ge=1, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=100)]

_STATUSES: dict[str, dict[str, bool]] = {
    "active": {"blocked": False, "expired": False},
    "expired": {"blocked": False, "expired": True},
    "revoked": {"blocked": True},
}
_EXPIRES: dict[str, dict[str, bool]] = {"active": {"expired": False}, "expired": {"expired": True}}


class KeyFilters(BaseModel):
    """The query of `/key/list`."""

    page: Page = 1
    size: Size = 10
    user_id: Name | None = None
    team_id: Name | None = None
    organization_id: Name | None = None
    project_id: Name | None = None
    agent_id: Name | None = None
    access_group_id: Name | None = None
    key_hash: Name | None = None
    key_alias: Name | None = None
    search: Name | None = None
    """Part of the alias, or the hash."""
    substring_matching: bool = False
    """`key_alias` may be a part of the alias."""
    return_full_object: bool = False
    include_team_keys: bool = False
    """Also keys of the teams whose admin the caller is."""
    include_created_by_keys: bool = False
    """Also keys that the caller made for others."""
    status: Name | None = None
    expires: Name | None = None
    sort_by: Name | None = None
    sort_order: Name = "desc"
    expand: list[Name] = []


class AliasFilters(BaseModel):
    page: Page = 1
    size: Size = 50
    search: Name | None = None
    team_id: Name | None = None


@router.get("/key/info", summary="What is known of a key; of the caller's own, if none is named")
async def info(request: Request, caller: Caller, key: str = "") -> dict[str, Any]:
    desk = desk_of(request, caller)
    digest = key_hash(key) if key else caller.key
    record = await find_key(desk.context.backends.store.keys, digest, message="Key not found in database")
    if not await allowed(desk.directory, caller, Act.SEE_KEY, subject_of(record)):
        raise PermissionDenied(f"You are not allowed to access this key's info. Your role={role_of(caller) or None}")
    (seen,) = await look(desk, [record])
    return {"key": key or digest, "info": await key_views.info(desk, seen)}


@router.post(
    "/v2/key/info",
    summary="What is known of several keys; those that the caller may not see are left out",
    openapi_extra=documented(KeysNamed),
)
async def info_of_several(request: Request, caller: Caller) -> dict[str, Any]:
    body = await parsed(request, KeysNamed)
    desk = desk_of(request, caller)
    found = await find_keys(desk.context.backends.store.keys, body.keys or (), body.key_aliases or ())
    seen = [
        record for record in found.values() if await allowed(desk.directory, caller, Act.SEE_KEY, subject_of(record))
    ]
    return {"key": body.keys, "info": [await key_views.info(desk, each) for each in await look(desk, seen)]}


@router.get("/key/list", summary="Hashes of keys, or their rows, page by page")
async def list_keys(request: Request, caller: Caller, filters: Annotated[KeyFilters, Query()]) -> dict[str, Any]:
    desk = desk_of(request, caller)
    sorting, conditions = _sorting(filters), _conditions(filters)
    scope = await _scope(desk, filters)
    fields = {
        "organization_id": filters.organization_id,
        "project_id": filters.project_id,
        "agent_id": filters.agent_id,
        "access_group_ids": filters.access_group_id,
    }
    wanted = tuple((name, value) for name, value in fields.items() if value)
    queries = () if filters.status == "deleted" else tuple(replace(each, now=desk.now, **conditions) for each in scope)
    shown, total = await listed(desk, Listing(queries, filters.page, filters.size, sorting, wanted))
    full = filters.return_full_object or "user" in filters.expand
    return {
        "keys": [seen.row if full else seen.record.hash for seen in shown],
        "total_count": total,
        "current_page": filters.page,
        "total_pages": -(-total // filters.size),
    }


@router.get("/key/aliases", summary="Aliases of keys, in alphabetical order, page by page")
async def list_aliases(request: Request, caller: Caller, filters: Annotated[AliasFilters, Query()]) -> dict[str, Any]:
    desk = desk_of(request, caller)
    keys = desk.context.backends.store.keys
    query = KeyQuery(text=filters.search, team=filters.team_id, sort="alias", descending=False, limit=filters.size)
    if not sees_everything(caller):
        _require_user(caller)
        query = replace(query, user=caller.user, teams=await teams_of(desk.directory, caller.user))
    found, total = await key_views.aliased(keys, query, (filters.page - 1) * filters.size)
    return {
        "aliases": [record.alias for record in found],
        "total_count": total,
        "current_page": filters.page,
        "total_pages": -(-total // filters.size),
        "size": filters.size,
    }


@router.post("/key/health", summary="Whether the caller's key works")
async def health(caller: Caller) -> dict[str, Any]:
    """LiteLLM tests the callbacks that a key may have for its logs; here a key has none."""
    return {"key": "healthy", "logging_callbacks": None}


def _sorting(filters: KeyFilters) -> Sorting:
    order = filters.sort_order.lower()
    if order not in ("asc", "desc"):
        raise InvalidRequest("Invalid sort order. Must be 'asc' or 'desc'", param="sort_order")
    if filters.sort_by not in (None, *SORTABLE):
        raise InvalidRequest(f"Invalid sort column. Must be one of: {', '.join(SORTABLE)}", param="sort_by")
    return Sorting(filters.sort_by or "created_at", order == "desc")


def _conditions(filters: KeyFilters) -> dict[str, Any]:
    if filters.status is not None and filters.status not in (*_STATUSES, "deleted"):
        raise InvalidRequest(
            "Invalid status value. Supported: 'active', 'expired', 'revoked', 'deleted'.", param="status"
        )
    if filters.expires is not None and filters.expires not in _EXPIRES:
        raise InvalidRequest("Invalid expires value. Supported: 'active', 'expired'.", param="expires")
    partial = filters.substring_matching
    return {
        "text": filters.search or (filters.key_alias if partial else None),
        "alias": None if partial else filters.key_alias,
        "team": filters.team_id,
        **_STATUSES.get(filters.status or "", {}),
        **_EXPIRES.get(filters.expires or "", {}),
    }


async def _scope(desk: Desk, filters: KeyFilters) -> tuple[KeyQuery, ...]:
    """Whose keys the caller wants to see, and may. Raises `PermissionDenied`."""
    caller, digest = desk.caller, filters.key_hash and key_hash(filters.key_hash)
    hashes = (digest,) if digest else ()
    if sees_everything(caller):
        user = "" if filters.user_id == DEFAULT_USER else filters.user_id
        return (KeyQuery(hashes=hashes, user=user),)
    _require_user(caller)
    if filters.user_id not in (None, caller.user):
        raise PermissionDenied("You are not authorized to check another user's keys", param="user_id")
    if filters.team_id and filters.team_id not in await teams_of(desk.directory, caller.user):
        raise PermissionDenied("You are not authorized to check this team's keys", param="team_id")
    if digest:
        await _require_visible(desk, digest)
        return (KeyQuery(hashes=hashes),)
    teams = await teams_of(desk.directory, caller.user, as_admin=True) if filters.include_team_keys else ()
    own = KeyQuery(user=caller.user, teams=teams)
    return (own, KeyQuery(created_by=caller.user)) if filters.include_created_by_keys else (own,)


def _require_user(caller: Principal) -> None:
    if role_of(caller) is Role.NONE:
        raise PermissionDenied(
            "You are not authorized to access this endpoint. No 'user_id' is associated with your API key.",
            param="user_id",
        )


async def _require_visible(desk: Desk, digest: str) -> None:
    try:
        record = await find_key(desk.context.backends.store.keys, digest)
    except NotFound:
        raise PermissionDenied("Key Hash not found.", param="key_hash") from None
    if not await allowed(desk.directory, desk.caller, Act.SEE_KEY, subject_of(record)):
        raise PermissionDenied(
            f"You are not allowed to access this key's info. Your role={role_of(desk.caller) or None}",
            param="key_hash",
        )
