"""Rows of the ledger, one for each attempt, in the columns that LiteLLM's users script against."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Principal
from api.bill.days import first_moment, moment_after, today_of
from api.bill.names import Names
from api.bill.rows import names_in, row
from api.bill.views import View, view
from api.context import authenticated
from api.management.bodies import ManagementRoute, Name
from api.management.entries import Desk, desk_of
from api.management.key_finder import key_hash
from api.management.shapes import dollars
from api.management.spends import nano
from broker.account_records import KeyQuery
from broker.records import DailySpend, SpendOrder, SpendQuery
from shared.errors import InvalidRequest
from shared.jobs import Outcome, Status

router = APIRouter(tags=["spend"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Text = Annotated[str | None, Field(max_length=512)]

MOST_ROWS = 10_000
"""LiteLLM's bound of the old route."""

_MOST_COUNTED = 100_000  # rows that pages reach
_MOST_WITH_PAYLOADS = 100  # rows of an answer that has prompts in it
_AT_A_TIME = 500  # rows made between two looks at other requests

_ORDERS = {
    "startTime": SpendOrder.STARTED_AT,
    "endTime": SpendOrder.ENDED_AT,
    "spend": SpendOrder.COST,
    "total_tokens": SpendOrder.TOKENS,
    "request_duration_ms": SpendOrder.DURATION,
    "ttft_ms": SpendOrder.TTFT,
    "model": SpendOrder.MODEL,
}
_FAILURES = tuple(status for status in Status if status is not Status.SUCCESS)
_STATUSES = {"success": (Status.SUCCESS,), "failure": _FAILURES}


class Filters(BaseModel):
    api_key: Text = None
    """A key's SHA-256 in hex; of the key itself the hash is taken."""
    user_id: Text = None
    """Whom the key belongs to."""
    team_id: Text = None
    end_user: Text = None
    """The customer: the request's `user`."""
    request_id: Text = None
    """Of the answer, or of the call (`litellm_call_id`)."""
    start_date: Text = None
    end_date: Text = None

    @property
    def wanted(self) -> View:
        key = key_hash(self.api_key) if self.api_key else None
        return View(key, self.user_id or None, self.team_id or None)


class OldFilters(Filters):
    """Dates are YYYY-MM-DD, UTC, the last one included."""

    summarize: bool = True
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = MOST_ROWS
    offset: Annotated[int, Field(ge=0, le=_MOST_COUNTED)] = 0


class PageFilters(Filters):
    """Dates are YYYY-MM-DD HH:MM:SS or YYYY-MM-DD, UTC, the last second or day included."""

    model: Text = None
    """A model group, or an upstream's model."""
    model_group: Text = None
    key_alias: Name | None = None
    status_filter: Text = None
    """success or failure."""
    min_spend: Annotated[float | None, Field(ge=0, le=9e9)] = None
    """Dollars."""
    max_spend: Annotated[float | None, Field(ge=0, le=9e9)] = None
    page: Annotated[int, Field(ge=1)] = 1
    page_size: Annotated[int, Field(ge=1, le=1000)] = 50
    sort_by: Text = "startTime"
    sort_order: Text = "desc"


@router.get("/spend/logs", summary="Attempts, newest first; or spend by day, between two dates")
async def spend_logs(request: Request, caller: Caller, filters: Annotated[OldFilters, Query()]) -> Response:
    """At most 10,000 rows; `/spend/logs/v2` has pages."""
    desk = desk_of(request, caller)
    start = first_moment("start_date", filters.start_date) if filters.start_date else None
    end = moment_after("end_date", filters.end_date) if filters.end_date else None
    query = await _seen(desk, filters, SpendQuery(start=start, end=end, limit=filters.limit, offset=filters.offset))
    if filters.start_date and filters.end_date and filters.summarize:
        last = first_moment("end_date", filters.end_date).date()
        found = await desk.store.daily(query)
        return _answer([_day(each) for each in [*found, *_empty_days(found, min(last, today_of(desk.now)))]])
    return _json(b"[%b]" % await _rows(desk, query))


@router.get("/spend/logs/v2", summary="Attempts, page by page")
async def spend_logs_page(request: Request, caller: Caller, filters: Annotated[PageFilters, Query()]) -> Response:
    """`total` counts up to 100,000; `total_is_capped` says that there are more."""
    desk = desk_of(request, caller)
    query: SpendQuery | None = await _seen(desk, filters, _page_query(filters))
    if query is not None and filters.key_alias:
        query = await _with_alias(desk, query, filters.key_alias)
    if query is None:
        return _page(filters, 0, b"")
    total = await desk.store.bill.count(query, _MOST_COUNTED + 1)
    shown = query.offset < min(total, _MOST_COUNTED)
    return _page(filters, total, await _rows(desk, query) if shown else b"")


async def _seen(desk: Desk, filters: Filters, query: SpendQuery) -> SpendQuery:
    """The query, for as much as the caller may see; with prompts if it asks for one request."""
    seen = await view(desk, filters.wanted)
    return replace(
        query,
        key=seen.key,
        user=seen.user,
        team=seen.team,
        customer=filters.end_user or None,
        request_id=filters.request_id or None,
        payloads=bool(filters.request_id),
        limit=min(query.limit, _MOST_WITH_PAYLOADS) if filters.request_id else query.limit,
    )


def _page_query(filters: PageFilters) -> SpendQuery:
    """Raises `InvalidRequest`, with LiteLLM's messages."""
    if filters.sort_by not in _ORDERS:
        raise InvalidRequest(
            f"Invalid sort_by: {filters.sort_by}. Must be one of: {', '.join(sorted(_ORDERS))}", param="sort_by"
        )
    order = (filters.sort_order or "desc").lower()
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"Invalid sort_order: {filters.sort_order}. Must be one of: asc, desc", param="sort_order")
    if filters.status_filter and filters.status_filter not in _STATUSES:
        raise InvalidRequest(
            f"Invalid status_filter: {filters.status_filter}. Must be one of: success, failure", param="status_filter"
        )
    if not filters.request_id and not (filters.start_date and filters.end_date):
        raise InvalidRequest("Start date and end date are required")
    return SpendQuery(
        start=first_moment("start_date", filters.start_date, seconds=True) if filters.start_date else None,
        end=moment_after("end_date", filters.end_date, seconds=True) if filters.end_date else None,
        model=filters.model_group or filters.model or None,
        statuses=_STATUSES[filters.status_filter] if filters.status_filter else (),
        min_cost=None if filters.min_spend is None else nano(filters.min_spend),
        max_cost=None if filters.max_spend is None else nano(filters.max_spend),
        order=_ORDERS[filters.sort_by],
        ascending=order == "asc",
        limit=filters.page_size,
        offset=(filters.page - 1) * filters.page_size,
    )


async def _with_alias(desk: Desk, query: SpendQuery, alias: str) -> SpendQuery | None:
    """For the key that has the alias; None if there is none, or it is not the one that the query is about."""
    found = await desk.store.keys.find(KeyQuery(alias=alias, limit=1))
    if not found or query.key not in (None, found[0].hash):
        return None
    return replace(query, key=found[0].hash)


async def _rows(desk: Desk, query: SpendQuery) -> bytes:
    """JSON of the rows, with commas between them. Other requests get their turns while there are many."""
    outcomes = await desk.store.spend(query)
    names = await names_in(desk, outcomes)
    pieces = []
    for first in range(0, len(outcomes), _AT_A_TIME):
        pieces.append(_piece(outcomes[first : first + _AT_A_TIME], names))
        await asyncio.sleep(0)
    return b",".join(pieces)


def _piece(outcomes: Sequence[Outcome], names: Names) -> bytes:
    return orjson.dumps([row(each, names) for each in outcomes])[1:-1]


def _page(filters: PageFilters, total: int, rows: bytes) -> Response:
    counted = min(total, _MOST_COUNTED)
    rest = {
        "total": counted,
        "page": filters.page,
        "page_size": filters.page_size,
        "total_pages": -(-counted // filters.page_size),
        "total_is_capped": total > counted,
    }
    return _json(b'{"data":[%b],%b' % (rows, orjson.dumps(rest)[1:]))


def _empty_days(found: Sequence[DailySpend], last: date) -> list[DailySpend]:
    """LiteLLM goes on to the last day that was asked for, once there is something; here not into the future."""
    if not found:
        return []
    newest = date.fromisoformat(found[-1].date)
    return [
        DailySpend(str(newest + timedelta(days=number)), 0, {}, {}) for number in range(1, (last - newest).days + 1)
    ]


def _day(day: DailySpend) -> dict[str, Any]:
    return {
        "startTime": day.date,
        "spend": dollars(day.cost),
        "users": {name: dollars(cost) for name, cost in day.users.items()},
        "models": {name: dollars(cost) for name, cost in day.models.items()},
    }


def _answer(value: Any) -> Response:
    return _json(orjson.dumps(value))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
