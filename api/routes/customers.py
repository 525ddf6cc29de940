"""Customers in LiteLLM's shapes: the end users that requests name in `user`, under both of their paths."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, require
from api.management.bodies import MOST_NAME, ManagementRoute, documented, parsed
from api.management.changes import announce
from api.management.entries import PAGE, Desk, desk_of, named, require_budget, require_some, spent_from_now
from api.management.people_bodies import CustomerFields, UserIds, fields_of
from api.management.people_spends import account_of
from api.management.people_views import customer_rows
from broker.account_records import Entry, EntryQuery, Kind
from shared.errors import Conflict, NotFound

router = APIRouter(tags=["customers"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]


class CustomerPage(BaseModel):
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    page_size: Annotated[int, Field(ge=1, le=PAGE)] = PAGE


@router.post("/customer/new", summary="Make a customer", openapi_extra=documented(CustomerFields))
@router.post("/end_user/new", include_in_schema=False)
async def new(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_CUSTOMERS)
    body = await parsed(request, CustomerFields)
    fields = fields_of(body, "user_id", "alias")
    _require_model(desk, body)
    await require_budget(desk.directory, fields)
    customer = desk.entry(Kind.CUSTOMER, body.user_id, spent_from_now(fields, desk.now), alias=body.alias or "")
    if await desk.directory.add([customer], desk.actor):
        raise Conflict(
            f"Customer already exists, passed user_id={body.user_id}. Please pass a new user_id.", param="user_id"
        )
    await announce(desk.context, f"customer:{customer.id}", accounts=(account_of(customer),))
    return await _row(desk, customer)


@router.post(
    "/customer/update",
    summary="Change a customer; what the body does not name stays as it is",
    openapi_extra=documented(CustomerFields),
)
@router.post("/end_user/update", include_in_schema=False)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_CUSTOMERS)
    body = await parsed(request, CustomerFields)
    customer = await _named(desk, body.user_id, "user_id")
    changes = fields_of(body, "user_id", "alias")
    alias = (body.alias or "") if "alias" in body.model_fields_set else None
    _require_model(desk, body)
    await require_budget(desk.directory, changes)
    changes = spent_from_now(changes, desk.now)
    if not desk.changes_nothing(customer, changes, alias=alias):
        changed = await desk.directory.change(
            Kind.CUSTOMER, customer.id, lambda current: desk.patched(current, changes, alias=alias), desk.actor
        )
        customer = changed or await _named(desk, body.user_id, "user_id")
        await announce(desk.context, f"customer:{customer.id}", accounts=(account_of(customer),))
    return await _row(desk, customer)


@router.post("/customer/delete", summary="Delete customers: all of them, or none", openapi_extra=documented(UserIds))
@router.post("/end_user/delete", include_in_schema=False)
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    ids = await _several(desk, request)
    await _require_all(desk, ids)
    removed = await desk.directory.remove(Kind.CUSTOMER, ids, desk.actor)
    await announce(desk.context, *(f"customer:{id}" for id in removed.ids))
    return {
        "deleted_customers": len(removed.ids),
        "message": f"Successfully deleted customers with ids: {list(removed.ids)}",
    }


@router.get("/customer/info", summary="A customer")
@router.get("/end_user/info", include_in_schema=False)
async def info(
    request: Request, caller: Caller, end_user_id: Annotated[str, Query(max_length=MOST_NAME)]
) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_CUSTOMERS)
    return await _row(desk, await _named(desk, end_user_id, "end_user_id"))


@router.get("/customer/list", summary="Customers, the newest first: 1,000, or a page of them")
@router.get("/end_user/list", include_in_schema=False)
async def list_customers(
    request: Request, caller: Caller, page: Annotated[CustomerPage, Query()]
) -> list[dict[str, Any]]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_CUSTOMERS)
    offset = (page.page - 1) * page.page_size
    return await customer_rows(
        desk, await desk.directory.find(EntryQuery(Kind.CUSTOMER, offset=offset, limit=page.page_size))
    )


@router.post(
    "/customer/block",
    summary="Refuse requests that name these customers, known or not",
    openapi_extra=documented(UserIds),
)
@router.post("/end_user/block", include_in_schema=False)
async def block(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    ids = await _several(desk, request)
    there = await named(desk.directory, Kind.CUSTOMER, ids)
    new = [desk.entry(Kind.CUSTOMER, id, {"blocked": True}) for id in ids if id not in there]
    await desk.directory.add(new, desk.actor)
    blocked = [each for id in ids if (each := await _set_blocked(desk, id, blocked=True))]
    return {"blocked_users": await customer_rows(desk, blocked)}


@router.post(
    "/customer/unblock", summary="Let requests in again that name these customers", openapi_extra=documented(UserIds)
)
@router.post("/end_user/unblock", include_in_schema=False)
async def unblock(request: Request, caller: Caller) -> dict[str, Any]:
    desk = desk_of(request, caller)
    ids = await _several(desk, request)
    await _require_all(desk, ids)
    unblocked = [each for id in ids if (each := await _set_blocked(desk, id, blocked=False))]
    return {"blocked_users": await customer_rows(desk, unblocked)}


async def _several(desk: Desk, request: Request) -> list[str]:
    """The ids that the body names, each once."""
    await require(desk.directory, desk.caller, Act.CHANGE_CUSTOMERS)
    ids = (await parsed(request, UserIds)).user_ids
    require_some(ids, "user_ids")
    return list(dict.fromkeys(ids))


async def _require_all(desk: Desk, ids: list[str]) -> None:
    there = await named(desk.directory, Kind.CUSTOMER, ids)
    missing = [id for id in ids if id not in there]
    if missing:
        raise NotFound(f"End User Id(s)={', '.join(missing)} do not exist in db", param="user_ids")


async def _set_blocked(desk: Desk, id: str, *, blocked: bool) -> Entry | None:
    customer = await desk.directory.get(Kind.CUSTOMER, id)
    if customer is not None and bool(customer.fields.get("blocked")) is not blocked:
        customer = await desk.directory.change(
            Kind.CUSTOMER,
            id,
            lambda current: desk.patched(current, {"blocked": blocked}),
            desk.actor,
            "blocked" if blocked else "unblocked",
        )
    await announce(desk.context, f"customer:{id}")
    return customer


async def _named(desk: Desk, id: str, param: str) -> Entry:
    customer = await desk.directory.get(Kind.CUSTOMER, id)
    if customer is None:
        raise NotFound(f"End User Id={id} does not exist in db", param=param)
    return customer


def _require_model(desk: Desk, body: CustomerFields) -> None:
    if body.default_model is not None and desk.context.catalog.resolve(body.default_model) is None:
        problem = (
            f"Default Model not on proxy. Configure via `/model/new` or config.yaml. Default_model={body.default_model}"
        )
        raise HTTPException(422, {"error": problem})


async def _row(desk: Desk, customer: Entry) -> dict[str, Any]:
    (row,) = await customer_rows(desk, [customer])
    return row
