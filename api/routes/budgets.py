"""Budgets in LiteLLM's shapes: limits under a name, for keys, users, teams, members and customers to share."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, require
from api.management.bodies import ManagementRoute, documented, parsed
from api.management.budget_users import holders_of
from api.management.changes import announce
from api.management.entries import desk_of, every, named, require_some
from api.management.people_bodies import BudgetFields, BudgetIds, OneBudget, fields_of
from api.management.people_shapes import budget_row
from broker.account_records import EntryQuery, Kind
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.ids import uuid7

router = APIRouter(tags=["budgets"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]


@router.post("/budget/new", summary="Make a budget", openapi_extra=documented(BudgetFields, required=False))
async def new(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_BUDGETS)
    body = await parsed(request, BudgetFields)
    budget = desk.entry(Kind.BUDGET, body.budget_id or uuid7(), fields_of(body, "budget_id"))
    if await desk.directory.add([budget], desk.actor):
        raise Conflict(f"Budget with id '{budget.id}' already exists.", param="budget_id")
    await announce(desk.context, f"budget:{budget.id}")
    return budget_row(budget)


@router.post(
    "/budget/update",
    summary="Change a budget, for all who have it",
    openapi_extra=documented(BudgetFields, needs=["budget_id"]),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_BUDGETS)
    body = await parsed(request, BudgetFields)
    if body.budget_id is None:
        raise InvalidRequest("budget_id is required", param="budget_id")
    budget = await desk.directory.get(Kind.BUDGET, body.budget_id)
    changes = fields_of(body, "budget_id")
    if budget is not None and not desk.changes_nothing(budget, changes):
        budget = await desk.directory.change(
            Kind.BUDGET, budget.id, lambda current: desk.patched(current, changes), desk.actor
        )
        await announce(desk.context, f"budget:{body.budget_id}")
    if budget is None:
        raise _unknown(body.budget_id)
    return budget_row(budget)


@router.post("/budget/info", summary="Some budgets, by their ids", openapi_extra=documented(BudgetIds))
async def info(request: Request, caller: Caller) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_BUDGETS)
    ids = (await parsed(request, BudgetIds)).budgets
    require_some(ids, "budgets")
    found = await named(desk.directory, Kind.BUDGET, ids)
    return [budget_row(found[id]) for id in dict.fromkeys(ids) if id in found]


@router.get("/budget/list", summary="All budgets, the newest first")
async def list_budgets(request: Request, caller: Caller) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_BUDGETS)
    return [budget_row(each) for each in await every(desk.directory, EntryQuery(Kind.BUDGET))]


@router.post("/budget/delete", summary="Delete a budget that nobody has", openapi_extra=documented(OneBudget))
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_BUDGETS)
    id = (await parsed(request, OneBudget)).id
    budget = await desk.directory.get(Kind.BUDGET, id)
    if budget is None:
        raise _unknown(id)
    holders = await holders_of(desk, id)
    if holders:
        raise Conflict(f"Budget '{id}' is in use by {', '.join(holders)}. Give them another budget first.", param="id")
    await desk.directory.remove(Kind.BUDGET, [id], desk.actor)
    await announce(desk.context, f"budget:{id}")
    return budget_row(budget)


def _unknown(id: str) -> NotFound:
    return NotFound(f"Budget not found, passed budget_id={id}", param="budget_id")
