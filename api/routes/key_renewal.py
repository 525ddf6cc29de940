"""Virtual keys that begin anew: with another text, or with another spend."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import Principal, hashed
from api.context import authenticated
from api.management.access import Act, allowed, author, subject_of
from api.management.bodies import ManagementRoute, documented, parsed
from api.management.changes import announce
from api.management.entries import Desk, desk_of, require_budget
from api.management.key_bodies import RegenerateKey, ResetSpend
from api.management.key_changes import answer, random_key, refuse_moved, refuse_taken, rules_of, there
from api.management.key_finder import find_key, key_name
from api.management.key_records import patched
from api.management.key_rules import check_update
from api.management.key_views import look
from api.management.shapes import dollars, iso
from broker.records import KeyRecord
from shared.accounts import key_account
from shared.errors import InvalidRequest, PermissionDenied

router = APIRouter(tags=["keys"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]


@router.post(
    "/key/regenerate",
    summary="Give a key a new text; what it may do and has spent stays",
    openapi_extra=documented(RegenerateKey, needs=["key"]),
)
async def regenerate(request: Request, caller: Caller) -> dict[str, Any]:
    body = await parsed(request, RegenerateKey)
    if body.key is None:
        raise InvalidRequest("No key passed in.", param="key")
    return await _regenerate(desk_of(request, caller), body.key, body)


@router.post(
    "/key/{key:path}/regenerate",
    summary="The same, the key or its hash being in the path",
    openapi_extra=documented(RegenerateKey, required=False),
)
async def regenerate_this(request: Request, caller: Caller, key: str) -> dict[str, Any]:
    body = await parsed(request, RegenerateKey)
    return await _regenerate(desk_of(request, caller), body.key or key, body)


@router.post(
    "/key/{key:path}/reset_spend",
    summary="Set what counts as spent in the current window of a key's budget",
    openapi_extra=documented(ResetSpend),
)
async def reset_spend(request: Request, caller: Caller, key: str) -> dict[str, Any]:
    reset_to = (await parsed(request, ResetSpend)).reset_to
    desk = desk_of(request, caller)
    keys = desk.context.backends.store.keys
    record = await find_key(keys, key)
    if not await allowed(desk.directory, caller, Act.RESET_SPEND, subject_of(record)):
        raise PermissionDenied("You must be a proxy admin or team admin to reset key spend")
    (seen,) = await look(desk, [record])
    spent = dollars(seen.spend.window)
    _check_reset(reset_to, spent, seen.max_budget)

    def patch(current: KeyRecord) -> KeyRecord:
        refuse_moved(record, current)
        fields = {**current.fields, "spend_base": reset_to, "spend_since": desk.now}
        return replace(current, fields=fields, updated_at=desk.now, updated_by=author(caller))

    there((await keys.change(record.hash, patch, desk.actor, "spend_reset"))[0])
    await announce(desk.context, f"key:{record.hash}", accounts=(key_account(record.hash),))
    return {
        "key_hash": record.hash,
        "spend": reset_to,
        "previous_spend": spent,
        "max_budget": seen.max_budget,
        "budget_reset_at": iso(seen.spend.reset_at),
    }


async def _regenerate(desk: Desk, text: str, body: RegenerateKey) -> dict[str, Any]:
    """The old text stops at once, everywhere."""
    _refuse_unsupported(body)
    keys = desk.context.backends.store.keys
    record = await find_key(keys, text)
    await check_update(desk.directory, desk.caller, Act.REGENERATE_KEY, record, body)
    rules_of(desk.context).check(body)
    await require_budget(desk.directory, body.given())
    key = body.new_key or random_key()

    def patch(current: KeyRecord) -> KeyRecord:
        refuse_moved(record, current)
        by = author(desk.caller)
        changed = patched(current, body, now=desk.now, by=by)
        return replace(changed, hash=hashed(key), name=key_name(key), updated_at=desk.now, updated_by=by)

    changed, taken = await keys.change(record.hash, patch, desk.actor, "regenerated")
    refuse_taken(taken, body.key_alias or "")
    changed = there(changed)
    await announce(desk.context, f"key:{record.hash}", f"key:{changed.hash}", accounts=(key_account(changed.hash),))
    return {**await answer(desk, changed), "key": key}


def _refuse_unsupported(body: RegenerateKey) -> None:
    if body.new_master_key is not None:
        raise InvalidRequest(
            "The master key is not changed here: set HEADRACE_MASTER_KEY and restart.", param="new_master_key"
        )
    if body.grace_period:
        raise InvalidRequest(
            "grace_period is not supported: the old key stops at once. Make a second key for the time of change.",
            param="grace_period",
        )


def _check_reset(reset_to: float, spent: float, budget: float | None) -> None:
    """LiteLLM's rules, with its messages. Raises `InvalidRequest`."""
    if not 0 <= reset_to < float("inf"):
        raise InvalidRequest("reset_to must be >= 0", param="reset_to")
    if reset_to > spent:
        raise InvalidRequest(f"reset_to ({reset_to}) must be <= current spend ({spent})", param="reset_to")
    if budget is not None and reset_to > budget:
        raise InvalidRequest(f"reset_to ({reset_to}) must be <= budget ({budget})", param="reset_to")
