"""Everybody's spend, and what it is made of: LiteLLM's `/global/spend`. Administrators and viewers see everybody's,
others their own. All from sums by day; where no dates are asked for, of the last 30 days and today."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.bill import reports, tags
from api.bill.days import EVER, Days, days, last_month
from api.bill.names import names_of
from api.bill.reset import reset_spend
from api.bill.totals import added, dearest_first, folded
from api.bill.views import View, sums, view
from api.context import authenticated
from api.management.access import Act, is_admin, require
from api.management.bodies import Body, ManagementRoute, Name, documented, parsed
from api.management.entries import Desk, desk_of
from api.management.key_finder import key_hash
from broker.spend_records import Activity, ActivityQuery, Dimension, Subject
from shared.errors import InvalidRequest, PermissionDenied

router = APIRouter(tags=["spend"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Date = Annotated[str | None, Query(max_length=64)]
Top = Annotated[int, Query(ge=1, le=10_000)]

_MOST_CUSTOMERS = 100
_MOST_TEAMS = 10  # in the list of the dearest

_UNASSIGNED = "Unassigned"


class EndUsers(Body):
    """LiteLLM's body of `/global/spend/end_users`."""

    api_key: Name | None = None
    startTime: Name | None = None
    endTime: Name | None = None


class ReportFilters(BaseModel):
    start_date: Annotated[str | None, Field(max_length=64)] = None
    end_date: Annotated[str | None, Field(max_length=64)] = None
    group_by: Literal["team", "customer", "api_key"] = "team"
    api_key: Name | None = None
    internal_user_id: Name | None = None
    team_id: Name | None = None
    customer_id: Name | None = None

    @property
    def wanted(self) -> View:
        return View(
            key_hash(self.api_key) if self.api_key else None, self.internal_user_id or None, self.team_id or None
        )


@router.get("/global/spend", summary="What everything has cost, in dollars")
async def spend(request: Request, caller: Caller) -> dict[str, Any]:
    """Of all time. `attempts` counts rows of the ledger, `models` has the upstreams' names."""
    desk = desk_of(request, caller)
    found = await sums(desk.store.bill, await view(desk), EVER, Dimension.MODEL)
    total = added(found)
    models = folded(found, _first)
    return {
        "spend": total.spend,
        "max_budget": desk.context.settings.management.max_budget or 0.0,
        "attempts": total.requests,
        "models": {name: each.spend for name, each in models.items()},
    }


@router.get("/global/spend/logs", summary="Spend by day")
async def spend_by_day(request: Request, caller: Caller, api_key: Name | None = None) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    key = key_hash(api_key) if api_key else None
    found = await sums(desk.store.bill, await view(desk, View(key)), last_month(desk.now), daily=True)
    whose = {} if key is None else {"api_key": key}
    return [
        {"date": str(day), "spend": each.spend, **whose} for day, each in sorted(folded(found, lambda a: a.day).items())
    ]


@router.get("/global/spend/keys", summary="The keys that have spent most")
async def spend_by_key(request: Request, caller: Caller, limit: Top = 10_000) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    found = dearest_first(await _folded(desk, Dimension.KEY))[:limit]
    names = await names_of(desk, keys=[key for key, _ in found])
    return [
        {
            "api_key": key,
            "key_alias": names.key_alias(key),
            "key_name": names.key_name(key),
            "total_spend": each.spend,
        }
        for key, each in found
    ]


@router.get("/global/spend/models", summary="The upstreams' models that have cost most")
async def spend_by_model(request: Request, caller: Caller, limit: Top = 10) -> list[dict[str, Any]]:
    found = dearest_first(await _folded(desk_of(request, caller), Dimension.MODEL))[:limit]
    return [{"model": model, "total_spend": each.spend, "total_tokens": each.tokens} for model, each in found]


@router.get("/global/spend/teams", summary="Spend by day and team")
async def spend_by_team(request: Request, caller: Caller) -> dict[str, Any]:
    """Teams have their aliases, those without one their ids."""
    desk = desk_of(request, caller)
    found = await sums(desk.store.bill, await view(desk), last_month(desk.now), Dimension.TEAM, daily=True)
    names = await names_of(desk, teams={_first(each) for each in found})

    def name(activity: Activity) -> str:
        id = _first(activity)
        return names.team_alias(id) or id or _UNASSIGNED

    by_day: dict[Any, dict[str, float]] = {}
    for (day, team), each in folded(found, lambda activity: (activity.day, name(activity))).items():
        by_day.setdefault(day, {})[team] = each.spend
    teams = dearest_first(folded(found, name))
    return {
        "daily_spend": [{**by_day[day], "date": str(day)} for day in sorted(by_day)],
        "teams": [team for team, _ in teams],
        "total_spend_per_team": [{"team_id": team, "total_spend": each.spend} for team, each in teams[:_MOST_TEAMS]],
    }


@router.get("/global/spend/provider", summary="Spend by provider, between two dates")
async def spend_by_provider(
    request: Request, caller: Caller, start_date: Date = None, end_date: Date = None
) -> list[dict[str, Any]]:
    span = days(start_date, end_date)
    found = dearest_first(await _folded(desk_of(request, caller), Dimension.PROVIDER, span))
    return [{"provider": provider, "spend": each.spend} for provider, each in found]


@router.get("/global/spend/tags", summary="Spend by tag, between two dates")
async def spend_by_tag(
    request: Request,
    caller: Caller,
    start_date: Date = None,
    end_date: Date = None,
    tags_wanted: Annotated[str | None, Query(alias="tags", max_length=4096)] = None,
) -> dict[str, Any]:
    """`tags` are separated by commas; all without them, or with `all-tags`. An attempt counts for each of its tags."""
    span = days(start_date, end_date)
    wanted = reports.listed(tags_wanted)
    ids = () if "all-tags" in wanted else wanted
    found = folded(await tags.sums(desk_of(request, caller), span, ids=ids), lambda each: each.subject)
    return {
        "spend_per_tag": [
            {"name": tag, "spend": each.spend, "log_count": each.requests} for tag, each in dearest_first(found)
        ]
    }


@router.get("/global/spend/end_users", summary="The 100 customers who have spent most")
async def spend_by_customer(
    request: Request, caller: Caller, start_date: Date = None, end_date: Date = None
) -> list[dict[str, Any]]:
    """Between two dates, if they are given."""
    desk = desk_of(request, caller)
    given = start_date is not None or end_date is not None
    return await _customers(desk, days(start_date, end_date) if given else last_month(desk.now))


@router.post(
    "/global/spend/end_users",
    summary="The same, asked in LiteLLM's way",
    openapi_extra=documented(EndUsers, required=False),
)
async def spend_by_customer_as_asked(request: Request, caller: Caller) -> list[dict[str, Any]]:
    """Whole days, UTC: those that `startTime` and `endTime` are in."""
    body = await parsed(request, EndUsers)
    desk = desk_of(request, caller)
    if body.api_key is not None:
        raise InvalidRequest(
            "There are no sums by key of customers: leave api_key out, or read /spend/logs/v2 with it.", param="api_key"
        )
    given = body.startTime is not None or body.endTime is not None
    span = days((body.startTime or "")[:10], (body.endTime or "")[:10]) if given else last_month(desk.now)
    return await _customers(desk, span)


@router.get("/global/spend/report", summary="The monthly report: by day and team or customer, or by key")
async def report(request: Request, caller: Caller, asked: Annotated[ReportFilters, Query()]) -> list[dict[str, Any]]:
    """With `api_key` or `internal_user_id` it is by key, of that key or user."""
    span = days(asked.start_date, asked.end_date)
    desk = desk_of(request, caller)
    wanted = asked.wanted
    if asked.group_by == "customer" or asked.customer_id is not None:
        if wanted != View():
            raise InvalidRequest("There are no sums of customers by key, user or team: ask for one of these.")
        await require(desk.directory, caller, Act.SEE_CUSTOMERS)
        ids = () if asked.customer_id is None else (asked.customer_id,)
        query = ActivityQuery(span.start, span.end, Subject.CUSTOMER, ids, (Dimension.MODEL,))
        return reports.by_customer(await desk.store.bill.activity(query))
    by_key = asked.group_by == "api_key" or wanted.key is not None or wanted.user is not None
    seen = await view(desk, wanted)
    if by_key:
        return reports.by_key(await sums(desk.store.bill, seen, span, Dimension.KEY, Dimension.MODEL))
    by = (Dimension.TEAM, Dimension.MODEL, Dimension.KEY)
    found = await sums(desk.store.bill, seen, span, *by, daily=True)
    return reports.by_team(found, await names_of(desk, teams={_first(each) for each in found}))


@router.post("/global/spend/reset", summary="Let all keys and teams begin anew with nothing spent")
async def reset(request: Request, caller: Caller) -> dict[str, str]:
    """What counts against the budgets of keys and teams, and is their `spend`, is 0 from now on. The ledger, its sums,
    `total_spend` and all reports stay as they are: nothing makes an attempt unspent. Users, customers, members of teams
    and the budget of everybody together go on as they are, as with LiteLLM.

    Keys and teams are reset one after the other; if it fails on the way, it can be asked for again."""
    if not is_admin(caller):
        raise PermissionDenied("Only an administrator may reset the spend of all keys and teams.")
    await reset_spend(desk_of(request, caller))
    return {"message": "Spend for all API Keys and Teams reset successfully", "status": "success"}


async def _folded(desk: Desk, dimension: Dimension, span: Days | None = None) -> dict[str, Any]:
    found = await sums(desk.store.bill, await view(desk), span or last_month(desk.now), dimension)
    return folded([each for each in found if _first(each)], _first)


async def _customers(desk: Desk, span: Days) -> list[dict[str, Any]]:
    await require(desk.directory, desk.caller, Act.SEE_CUSTOMERS)
    query = ActivityQuery(span.start, span.end, Subject.CUSTOMER, daily=False)
    found = folded(await desk.store.bill.activity(query), lambda each: each.subject)
    return [
        {"end_user": customer, "total_count": each.requests, "total_spend": each.spend}
        for customer, each in dearest_first(found)[:_MOST_CUSTOMERS]
    ]


def _first(activity: Activity) -> str:
    return activity.by[0]
