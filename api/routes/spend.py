"""What keys, users and tags have spent, and what a request would cost: LiteLLM's `/spend/*` beside the logs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field
from starlette.requests import Request

from api.auth import Principal
from api.bill import tags
from api.bill.days import days_or_ever
from api.bill.totals import dearest_first, folded
from api.bill.usage import usage_of
from api.context import Context, authenticated
from api.management.access import Role, role_of, sees_everything
from api.management.bodies import Body, ManagementRoute, Name, documented, parsed
from api.management.entries import MOST_LISTED, Desk, desk_of, every, for_each, named
from api.management.key_views import Seen
from api.management.people_views import user_rows
from api.management.shapes import dollars
from api.management.spends import Spend, spend_of
from broker.account_records import EntryQuery, KeyQuery, Kind
from broker.records import KeyRecord
from broker.spend_records import Subject
from shared import token_estimates
from shared.accounts import key_account
from shared.catalog import Deployment, upstream_of
from shared.errors import InvalidRequest
from shared.jobs import Usage

router = APIRouter(tags=["spend"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Text = Annotated[str | None, Query(max_length=64)]

_PAGE = 1000


class Calculation(Body):
    """What a request costs before (`model` and `messages`) or after (`completion_response`) it was made."""

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    messages: list[Any] | None = None
    completion_response: dict[str, Any] | None = None


@router.get("/spend/keys", summary="Keys, those that have spent most first")
async def spend_of_keys(request: Request, caller: Caller, limit: Limit = _PAGE) -> list[dict[str, Any]]:
    """Rows of `/key/list`. Who does not see everything sees its own."""
    desk = desk_of(request, caller)
    records = await _keys(desk)
    totals = await desk.store.bill.totals(Subject.KEY, [record.hash for record in records])
    records.sort(key=lambda record: totals.get(record.hash, 0), reverse=True)
    return [seen.row for seen in await _seen(desk, records[:limit], totals)]


@router.get("/spend/users", summary="Users, those that have spent most first; or one of them")
async def spend_of_users(
    request: Request, caller: Caller, user_id: Name | None = None, limit: Limit = _PAGE
) -> list[dict[str, Any]]:
    """Rows of `/user/list`. Who does not see everything sees itself."""
    desk = desk_of(request, caller)
    if not sees_everything(caller):
        if user_id not in (None, caller.user):
            raise HTTPException(403, {"error": "Not authorized to view spend for another user."})
        if role_of(caller) is Role.NONE:
            return []
        user_id = caller.user
    users = await every(desk.directory, EntryQuery(Kind.USER, ids=() if user_id is None else (user_id,)))
    totals = await desk.store.bill.totals(Subject.USER, [user.id for user in users])
    users.sort(key=lambda user: totals.get(user.id, 0), reverse=True)
    return await user_rows(desk, users[:limit])


@router.get("/spend/tags", summary="Spend by tag")
async def spend_of_tags(
    request: Request, caller: Caller, start_date: Text = None, end_date: Text = None
) -> list[dict[str, Any]]:
    """Of all time, or between two dates (YYYY-MM-DD, UTC, the last one included). An attempt with several tags counts
    for each of them."""
    desk = desk_of(request, caller)
    found = folded(await tags.sums(desk, days_or_ever(start_date, end_date)), lambda each: each.subject)
    return [
        {"individual_request_tag": tag, "log_count": totals.requests, "total_spend": totals.spend}
        for tag, totals in dearest_first(found)
    ]


@router.post(
    "/spend/calculate",
    summary="What a request will cost, or has cost",
    openapi_extra=documented(Calculation),
)
async def calculate(request: Request, caller: Caller) -> dict[str, float]:
    """Before the call the tokens of the prompt are an estimate, and the answer's are not counted. Where a model has
    several deployments it is the dearest that counts; models that are not configured cost what the public price list
    says."""
    body = await parsed(request, Calculation)
    desk = desk_of(request, caller)
    tier = ""
    if body.model is not None:
        if body.messages is None:
            raise InvalidRequest("Bad Request - messages must be provided if 'model' is provided", param="messages")
        model, usage = body.model, Usage(input=token_estimates.prompt_tokens(orjson.dumps(body.messages)))
    elif body.completion_response is not None:
        model, usage, tier = usage_of(body.completion_response)
    else:
        raise InvalidRequest("Bad Request - Either 'model' or 'completion_response' must be provided", param="model")
    prices = desk.context.admission.gate.prices
    cost = await prices.known(_deployments(desk.context, model), usage, service_tier=tier)
    if cost is None:
        raise InvalidRequest(
            f"This model isn't mapped yet. model={model}. Give it prices in the config: input_cost_per_token ...",
            param="model",
        )
    return {"cost": dollars(cost)}


def _deployments(context: Context, model: str) -> Sequence[Deployment]:
    if context.catalog.resolve(model) is not None:
        return context.catalog.group(model)
    found = upstream_of(model)
    return [Deployment(id="", group=model, provider=found[0], model=found[1])] if found else []


async def _keys(desk: Desk) -> list[KeyRecord]:
    """All that the caller may see, as far as 10,000."""
    caller = desk.caller
    if role_of(caller) is Role.NONE:
        record = await desk.store.keys.get(caller.key)
        return [record] if record else []
    user = None if sees_everything(caller) else caller.user
    found: list[KeyRecord] = []
    while len(found) < MOST_LISTED:
        page = await desk.store.keys.find(KeyQuery(user=user, offset=len(found), limit=_PAGE))
        found += page
        if len(page) < _PAGE:
            break
    return found


async def _seen(desk: Desk, records: Sequence[KeyRecord], totals: Mapping[str, int]) -> list[Seen]:
    """As `key_views.look`, without asking the bill for every key: only for those that have spent something, and have a
    budget that starts anew."""
    calendar = desk.context.settings.management.calendar
    by_hash = {record.hash: record for record in records}
    ids = [str(record.fields["budget_id"]) for record in records if record.fields.get("budget_id")]
    entries = await named(desk.directory, Kind.BUDGET, ids)
    budgets: dict[str, Mapping[str, Any] | None] = {}
    for record in records:
        entry = entries.get(str(record.fields.get("budget_id")))
        budgets[record.hash] = {"budget_id": entry.id, **entry.fields} if entry else None

    async def spend(hash: str) -> Spend:
        fields = {**(budgets[hash] or {}), **by_hash[hash].fields}
        total = totals.get(hash, 0)
        return await spend_of(desk.store.bill, key_account(hash), fields, desk.now, calendar, total=total)

    spends = await for_each(list(by_hash), spend)
    return [Seen(record, spends[record.hash], budgets[record.hash]) for record in records]
