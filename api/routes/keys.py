"""Virtual keys, in LiteLLM's shapes: made, changed, blocked and deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, allowed, author, is_admin, require, subject_of
from api.management.bodies import ManagementRoute, documented, parsed, validated
from api.management.changes import announce
from api.management.entries import desk_of
from api.management.key_bodies import BulkUpdate, GenerateKey, KeyNamed, KeysNamed, UpdateKey
from api.management.key_changes import make_key, refuse_moved, there, update_key
from api.management.key_finder import find_key, find_keys
from api.management.key_records import patched
from api.management.key_views import look
from broker.records import KeyRecord
from shared.errors import AppError, InvalidRequest, NotFound, PermissionDenied
from shared.ids import uuid7

router = APIRouter(tags=["keys"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]

_MOST_UPDATES = 500


@router.post(
    "/key/generate",
    summary="Make a virtual key; it is shown this once",
    openapi_extra=documented(GenerateKey, required=False),
)
async def generate(request: Request, caller: Caller) -> dict[str, Any]:
    return await make_key(desk_of(request, caller), await parsed(request, GenerateKey))


@router.post(
    "/key/service-account/generate",
    summary="Make a key of a team that belongs to no user",
    openapi_extra=documented(GenerateKey, needs=["team_id"]),
)
async def generate_for_service(request: Request, caller: Caller) -> dict[str, Any]:
    body = await parsed(request, GenerateKey)
    if body.team_id is None:
        raise InvalidRequest(
            "team_id is required for service account keys. Please specify `team_id` in the request body.",
            param="team_id",
        )
    account = body.service_account_id or body.key_alias or uuid7()
    return await make_key(desk_of(request, caller), _with(body, user_id=None, service_account_id=account))


@router.post(
    "/key/update",
    summary="Change a key; what the body does not name stays as it is",
    openapi_extra=documented(UpdateKey),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    body = await parsed(request, UpdateKey)
    desk = desk_of(request, caller)
    record = await update_key(desk, body)
    (seen,) = await look(desk, [record])
    return {**seen.row, "key": body.key or record.hash}


@router.post(
    "/key/bulk_update",
    summary="Change up to 500 keys; one that fails leaves the others alone",
    openapi_extra=documented(BulkUpdate),
)
async def bulk_update(request: Request, caller: Caller) -> dict[str, Any]:
    if not is_admin(caller):
        raise PermissionDenied("Only proxy admins can perform bulk key updates")
    items = (await parsed(request, BulkUpdate)).keys
    if not items:
        raise InvalidRequest("No keys provided for update", param="keys")
    if len(items) > _MOST_UPDATES:
        raise InvalidRequest(
            f"Maximum {_MOST_UPDATES} keys can be updated at once. Found {len(items)} keys.", param="keys"
        )
    desk = desk_of(request, caller)
    done: list[tuple[str, KeyRecord]] = []
    failed: list[dict[str, Any]] = []
    for item in items:
        key = str(item.get("key") or "")
        try:
            done.append((key, await update_key(desk, validated(item, UpdateKey))))
        except (AppError, HTTPException) as error:
            reason = error.message if isinstance(error, AppError) else error.detail
            failed.append({"key": key, "key_info": None, "failed_reason": reason})
    seen = await look(desk, [record for _, record in done])
    succeeded = [{"key": key, "key_info": each.row} for (key, _), each in zip(done, seen, strict=True)]
    return {"total_requested": len(items), "successful_updates": succeeded, "failed_updates": failed}


@router.post(
    "/key/delete",
    summary="Delete keys, by their text, hash or alias; at once and everywhere",
    openapi_extra=documented(KeysNamed),
)
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    body = await parsed(request, KeysNamed)
    desk = desk_of(request, caller)
    keys = desk.context.backends.store.keys
    doomed = await find_keys(keys, body.keys or (), body.key_aliases or ())
    if not doomed:
        raise NotFound("No keys found", param="keys")
    for record in doomed.values():
        if not await allowed(desk.directory, caller, Act.DELETE_KEY, subject_of(record)):
            raise PermissionDenied("You are not authorized to delete this key")
    deleted = set(await keys.delete(list({record.hash for record in doomed.values()}), desk.actor))
    await announce(desk.context, *(f"key:{digest}" for digest in deleted))
    return {"deleted_keys": [name for name, record in doomed.items() if record.hash in deleted]}


@router.post("/key/block", summary="Refuse a key's requests until it is unblocked", openapi_extra=documented(KeyNamed))
async def block(request: Request, caller: Caller) -> dict[str, Any]:
    return await _set_blocked(request, caller, blocked=True)


@router.post("/key/unblock", summary="Let a blocked key in again", openapi_extra=documented(KeyNamed))
async def unblock(request: Request, caller: Caller) -> dict[str, Any]:
    return await _set_blocked(request, caller, blocked=False)


async def _set_blocked(request: Request, caller: Principal, *, blocked: bool) -> dict[str, Any]:
    desk = desk_of(request, caller)
    keys = desk.context.backends.store.keys
    record = await find_key(keys, (await parsed(request, KeyNamed)).key)
    await require(desk.directory, caller, Act.BLOCK_KEY, subject_of(record))
    if record.blocked is not blocked:
        body = UpdateKey(key=record.hash, blocked=blocked)

        def patch(current: KeyRecord) -> KeyRecord:
            refuse_moved(record, current)
            return patched(current, body, now=desk.now, by=author(caller))

        changed, _ = await keys.change(record.hash, patch, desk.actor, "blocked" if blocked else "unblocked")
        record = there(changed)
    await announce(desk.context, f"key:{record.hash}")
    (seen,) = await look(desk, [record])
    return seen.row


def _with(body: GenerateKey, **values: Any) -> GenerateKey:
    changed = body.model_copy(update=values)
    changed.model_fields_set.update(values)
    return changed
