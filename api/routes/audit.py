"""Who changed what, when and from where: LiteLLM's `/audit`, for administrators and viewers."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, require
from api.management.bodies import ManagementRoute, Name
from api.management.entries import desk_of
from api.management.shapes import audit_row, table_of
from broker.account_records import AuditQuery, AuditRecord
from broker.directory_interfaces import Directory
from shared.errors import InvalidRequest, NotFound

router = APIRouter(tags=["audit"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]

_MOST_READ = 10_000
"""Records that pages may go back; further by `after` or by dates."""

_MOST_AT_ONCE = 500

_ACTIONS = {"create": "created", "update": "updated", "delete": "deleted"}
"""LiteLLM's words."""


class AuditFilters(BaseModel):
    page: Annotated[int, Field(ge=1)] = 1
    page_size: Annotated[int, Field(ge=1, le=100)] = 10
    changed_by: Name | None = None
    changed_by_api_key: Name | None = None
    """The hash of a key."""
    action: Name | None = None
    """created, updated, deleted, blocked, unblocked, regenerated, ..."""
    table_name: Name | None = None
    object_id: Name | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    after: Name | None = None
    """The id of the last record on the page before: faster than page numbers, and without their bound."""


@router.get("/audit", summary="Records of the audit, newest first, page by page")
async def list_records(request: Request, caller: Caller, filters: Annotated[AuditFilters, Query()]) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_ALL)
    last = filters.page * filters.page_size
    if last > _MOST_READ:
        raise InvalidRequest(
            f"Pages go back {_MOST_READ} records: use 'after', start_date or end_date for older ones.", param="page"
        )
    found = await _read(desk.directory, filters, last + 1)
    shown, total = found[last - filters.page_size : last], None if len(found) > last else len(found)
    return {
        "audit_logs": [audit_row(record) for record in shown],
        "total": total,
        "page": filters.page,
        "page_size": filters.page_size,
        "total_pages": None if total is None else -(-total // filters.page_size),
        "has_more": total is None,
        "after": shown[-1].id if shown else None,
    }


@router.get("/audit/{id}", summary="One record of the audit")
async def show_record(request: Request, caller: Caller, id: Name) -> dict[str, Any]:
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.SEE_ALL)
    found = await desk.directory.audit(AuditQuery(id=id, limit=1))
    if not found:
        raise NotFound(f"Audit log with ID {id} not found", param="id")
    return audit_row(found[0])


async def _read(directory: Directory, filters: AuditFilters, most: int) -> list[AuditRecord]:
    """The newest `most` records that the filters let through."""
    query = AuditQuery(
        actor=filters.changed_by,
        action=_ACTIONS.get(filters.action or "", filters.action),
        table=table_of(filters.table_name) if filters.table_name else None,
        subject=filters.object_id,
        start=_seconds(filters.start_date),
        end=_seconds(filters.end_date),
        after=filters.after,
        limit=min(most, _MOST_AT_ONCE),
    )
    found: list[AuditRecord] = []
    while len(found) < most:
        page = await directory.audit(query)
        found += [record for record in page if filters.changed_by_api_key in (None, record.actor.key)]
        if len(page) < query.limit:
            break
        query = replace(query, after=page[-1].id)
    return found[:most]


def _seconds(moment: datetime | None) -> float | None:
    """Without a zone it is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
