"""Requests, tokens and spend by day: LiteLLM's `/global/activity` and `/{user,team,tag,customer}/daily/activity`."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Principal
from api.bill.daily import Scope, page
from api.bill.days import days
from api.bill.reports import listed
from api.bill.totals import Totals, added, folded
from api.bill.views import own_keys, sums, view
from api.context import authenticated
from api.management.access import Act, Role, Subject, allowed, require, role_of, sees_everything, teams_of
from api.management.bodies import ManagementRoute, Name
from api.management.entries import Desk, desk_of
from api.management.key_finder import key_hash
from broker import spend_records
from broker.spend_records import Activity, Dimension

router = APIRouter(tags=["activity"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Date = Annotated[str | None, Query(max_length=64)]
Ids = Annotated[str | None, Field(max_length=16_384)]

_MOST_MODELS = 10
_PAGE = 10  # days, if nobody says how many
_USERS_PAGE = 50


class Period(BaseModel):
    """What all of them may be asked."""

    start_date: Annotated[str | None, Field(max_length=64)] = None
    end_date: Annotated[str | None, Field(max_length=64)] = None
    model: Annotated[str | None, Field(max_length=512)] = None
    """A model group, or an upstream's model."""
    api_key: Name | None = None
    page: Annotated[int, Field(ge=1)] = 1
    page_size: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Days."""

    @property
    def keys(self) -> tuple[str, ...] | None:
        return (key_hash(self.api_key),) if self.api_key else None


class OfUsers(Period):
    user_id: Name | None = None


class OfTeams(Period):
    team_ids: Ids = None
    """Separated by commas, as are all lists of ids."""
    exclude_team_ids: Ids = None


class OfTags(Period):
    tags: Ids = None


class OfCustomers(Period):
    end_user_ids: Ids = None
    exclude_end_user_ids: Ids = None


@router.get("/global/activity", summary="Requests and tokens by day")
async def activity(request: Request, caller: Caller, start_date: Date = None, end_date: Date = None) -> dict[str, Any]:
    """Of everybody, or of those that the caller may see. Every attempt is a request."""
    span = days(start_date, end_date)
    desk = desk_of(request, caller)
    return _chart(await sums(desk.store.bill, await view(desk), span, daily=True))


@router.get("/global/activity/model", summary="The same for the ten busiest model groups")
async def activity_of_models(
    request: Request, caller: Caller, start_date: Date = None, end_date: Date = None
) -> list[dict[str, Any]]:
    span = days(start_date, end_date)
    desk = desk_of(request, caller)
    by_model: dict[str, list[Activity]] = {}
    for each in await sums(desk.store.bill, await view(desk), span, Dimension.GROUP, daily=True):
        by_model.setdefault(each.by[0], []).append(each)
    busiest = sorted(by_model.items(), key=lambda item: added(item[1]).requests, reverse=True)[:_MOST_MODELS]
    return [{"model": model, **_chart(own)} for model, own in busiest]


@router.get("/user/daily/activity", summary="Spend, tokens and requests by day, taken apart: of a user, or all")
async def activity_of_users(request: Request, caller: Caller, asked: Annotated[OfUsers, Query()]) -> Response:
    """Who does not see everything sees its own: that of its user, or of the key if it has no user."""
    desk = desk_of(request, caller)
    user, keys = asked.user_id or None, asked.keys
    if not sees_everything(caller):
        if user not in (None, caller.user or None):
            raise HTTPException(403, {"error": "Non-admin users can only view their own spend data"})
        user, keys = caller.user or None, _own(caller, keys)
    subject, ids = (None, None) if user is None else (spend_records.Subject.USER, (user,))
    return await _page(desk, Scope(subject, ids, keys=keys, model=asked.model), asked, _USERS_PAGE)


@router.get("/team/daily/activity", summary="The same of teams")
async def activity_of_teams(request: Request, caller: Caller, asked: Annotated[OfTeams, Query()]) -> Response:
    """Administrators and viewers see all teams; a team's admins, and members whose `team_member_permissions` have
    `/team/daily/activity`, see the whole of theirs; other members what their own keys have spent in it. Of several
    teams a user sees the whole if it may of each."""
    desk = desk_of(request, caller)
    ids = listed(asked.team_ids) or None
    user, keys = None, asked.keys
    if not sees_everything(caller):
        ids = await _teams(desk, ids)
        if not await _sees_whole(desk, ids):
            user, keys = caller.user or None, _own(caller, keys)
    scope = Scope(spend_records.Subject.TEAM, ids, frozenset(listed(asked.exclude_team_ids)), user, keys, asked.model)
    return await _page(desk, scope, asked)


@router.get("/tag/daily/activity", summary="The same of tags")
async def activity_of_tags(request: Request, caller: Caller, asked: Annotated[OfTags, Query()]) -> Response:
    """Totals count an attempt once for each of its tags. Who does not see everything sees what its keys have spent."""
    desk = desk_of(request, caller)
    own, keys = await own_keys(desk), asked.keys
    if own is not None:
        keys = own if keys is None else tuple(key for key in keys if key in own)
    ids = listed(asked.tags) or None
    return await _page(desk, Scope(spend_records.Subject.TAG, ids, keys=keys, model=asked.model), asked)


@router.get("/customer/daily/activity", summary="The same of customers")
@router.get("/end_user/daily/activity", include_in_schema=False)
async def activity_of_customers(request: Request, caller: Caller, asked: Annotated[OfCustomers, Query()]) -> Response:
    """The bill does not know with which keys customers came: `api_key` is refused, and there is nothing by key."""
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_CUSTOMERS)
    without = frozenset(listed(asked.exclude_end_user_ids))
    ids = listed(asked.end_user_ids) or None
    scope = Scope(spend_records.Subject.CUSTOMER, ids, without, keys=asked.keys, model=asked.model)
    return await _page(desk, scope, asked)


async def _page(desk: Desk, scope: Scope, asked: Period, size: int = _PAGE) -> Response:
    span = days(asked.start_date, asked.end_date)
    found = await page(desk, scope, span, asked.page, asked.page_size or size)
    return Response(orjson.dumps(found), media_type="application/json")


def _own(caller: Principal, keys: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Of a caller without a user its own key, if that is among those asked for."""
    if role_of(caller) is not Role.NONE:
        return keys
    return (caller.key,) if keys in (None, (caller.key,)) else ()


async def _teams(desk: Desk, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Raises `HTTPException` with LiteLLM's 404 for one that the caller is not in."""
    caller = desk.caller
    mine: Sequence[str] = await teams_of(desk.directory, caller.user) if caller.user else ()
    if caller.team and caller.team not in mine:
        mine = (*mine, caller.team)
    for team in wanted or ():
        if team not in mine:
            problem = f"User does not belong to Team= {team}. Call `/user/info` to see user's teams"
            raise HTTPException(404, {"error": problem})
    return tuple(mine) if wanted is None else wanted


async def _sees_whole(desk: Desk, teams: Iterable[str]) -> bool:
    user = desk.caller.user
    for team in teams:
        if not await allowed(desk.directory, desk.caller, Act.SEE_ACTIVITY, Subject(user=user, team=team)):
            return False
    return True


def _chart(activities: Sequence[Activity]) -> dict[str, Any]:
    by_day = folded(activities, lambda each: each.day)
    total: Totals = added(activities)
    return {
        "daily_data": [
            {"date": f"{day:%b %d}", "api_requests": each.requests, "total_tokens": each.tokens}
            for day, each in sorted((day, each) for day, each in by_day.items() if day is not None)
        ],
        "sum_api_requests": total.requests,
        "sum_total_tokens": total.tokens,
    }
