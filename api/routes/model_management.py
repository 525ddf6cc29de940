"""Deployments that are kept in the database, in LiteLLM's shapes: added, changed and deleted while everything runs."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Path
from pydantic import Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated
from api.management.access import Act, require
from api.management.bodies import Body, ManagementRoute, Metadata, Name, changed, documented, parsed
from api.management.entries import Desk, desk_of
from api.management.shapes import iso
from api.routes.models import public
from broker import model_rows
from broker.account_records import Entry, Kind
from broker.live_catalog import LiveCatalog
from shared.errors import ConfigError, InvalidRequest, NotFound

router = APIRouter(tags=["models"], route_class=ManagementRoute)

Caller = Annotated[Principal, Depends(authenticated)]

_OURS = ("id", "db_model")  # of model_info: what the row itself says


class NewModel(Body):
    model_name: Annotated[Name, Field(min_length=1)]
    litellm_params: Metadata
    model_info: Annotated[Metadata, Field(default_factory=dict)]


class ModelChange(Body):
    """Merge patches: what is left out stays, null removes."""

    model_name: Annotated[Name, Field(min_length=1)] | None = None
    litellm_params: Metadata | None = None
    model_info: Metadata | None = None


class Doomed(Body):
    id: Name


@router.post(
    "/model/new",
    summary="Add a deployment; every process serves it a moment later",
    openapi_extra=documented(NewModel),
)
async def new(request: Request, caller: Caller) -> dict[str, Any]:
    desk, live = await _opened(request, caller)
    wanted = await parsed(request, NewModel)
    id = _id(wanted.model_info) or str(uuid4())
    params, info = changed({}, wanted.litellm_params), changed({}, wanted.model_info)
    await _check(live, id, wanted.model_name, params, info)
    entry = desk.entry(Kind.MODEL, id, _fields(live, params, info), alias=wanted.model_name)
    if await desk.directory.add([entry], desk.actor):
        raise InvalidRequest(f"A model with id={id} is in the database already.", param="model_info")
    await live.changed()
    return _shown(entry, live)


@router.post(
    "/model/update",
    summary="Change the deployment that model_info.id names",
    openapi_extra=documented(ModelChange, needs=["model_info"]),
)
async def update(request: Request, caller: Caller) -> dict[str, Any]:
    desk, live = await _opened(request, caller)
    change = await parsed(request, ModelChange)
    id = _id(change.model_info or {})
    if id is None:
        raise InvalidRequest("model_info.id is required: it names the model to change.", param="model_info")
    return await _changed(desk, live, id, change)


@router.patch("/model/{model_id}/update", summary="Change a deployment", openapi_extra=documented(ModelChange))
async def patch(
    request: Request, caller: Caller, model_id: Annotated[str, Path(min_length=1, max_length=256)]
) -> dict[str, Any]:
    desk, live = await _opened(request, caller)
    return await _changed(desk, live, model_id, await parsed(request, ModelChange))


@router.post("/model/delete", summary="Delete a deployment", openapi_extra=documented(Doomed))
async def delete(request: Request, caller: Caller) -> dict[str, str]:
    desk, live = await _opened(request, caller)
    id = (await parsed(request, Doomed)).id
    removed = await desk.directory.remove(Kind.MODEL, [id], desk.actor)
    if not removed.ids:
        raise InvalidRequest(f"Model with id={id} not found in db", param="id")
    await live.changed()
    return {"message": f"Model: {id} deleted successfully"}


async def _opened(request: Request, caller: Principal) -> tuple[Desk, LiveCatalog]:
    """Raises `PermissionDenied`, and `InvalidRequest` while models come from the config alone."""
    desk = desk_of(request, caller)
    await require(desk.directory, caller, Act.CHANGE_MODELS)
    if desk.context.live is None:
        raise InvalidRequest(
            "Set `'STORE_MODEL_IN_DB='True'` in your env to enable this feature, or general_settings.store_model_in_db."
        )
    return desk, desk.context.live


async def _changed(desk: Desk, live: LiveCatalog, id: str, change: ModelChange) -> dict[str, Any]:
    found = await desk.directory.get(Kind.MODEL, id)
    if found is None:
        raise _missing(live, id)
    name, params, info = _patched(found, live, change)
    await _check(live, id, name, params, info)

    def patched(entry: Entry) -> Entry:
        name, params, info = _patched(entry, live, change)
        return desk.patched(entry, _fields(live, params, info), alias=name)

    entry = await desk.directory.change(Kind.MODEL, id, patched, desk.actor)
    if entry is None:
        raise _missing(live, id)
    await live.changed()
    return _shown(entry, live)


def _missing(live: LiveCatalog, id: str) -> InvalidRequest | NotFound:
    if live.catalog.known([id]):
        return InvalidRequest("Cannot edit config-based model. Store model in DB via /model/new first.", param="id")
    return NotFound(f"Model {id} not found on proxy.", param="id")


def _patched(entry: Entry, live: LiveCatalog, change: ModelChange) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, litellm_params and model_info after the change. Raises `InvalidRequest`."""
    try:
        params = model_rows.params_of(entry, live.sealer)
    except ConfigError as error:
        raise InvalidRequest(str(error), param="id") from error
    info = model_rows.info_of(entry)
    return (
        change.model_name or entry.alias,
        changed(params, change.litellm_params or {}),
        changed(info, change.model_info or {}),
    )


async def _check(live: LiveCatalog, id: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for a model that could not run."""
    try:
        await live.check(id, name, params, info)
    except ConfigError as error:
        raise InvalidRequest(str(error), param="litellm_params") from error


def _fields(live: LiveCatalog, params: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in info.items() if name not in _OURS}
    return model_rows.fields(params, rest, live.sealer)


def _id(info: Mapping[str, Any]) -> str | None:
    id = info.get("id")
    if id is None:
        return None
    if not isinstance(id, str) or not 0 < len(id) <= 256 or not id.isprintable():
        raise InvalidRequest("model_info.id must be a text of 1 to 256 printable characters.", param="model_info")
    return id


def _shown(entry: Entry, live: LiveCatalog) -> dict[str, Any]:
    """LiteLLM's row, without the secrets."""
    return {
        "model_id": entry.id,
        "model_name": entry.alias,
        "litellm_params": public(model_rows.params_of(entry, live.sealer)),
        "model_info": model_rows.info_of(entry),
        "created_at": iso(entry.created_at),
        "created_by": entry.created_by,
        "updated_at": iso(entry.updated_at),
        "updated_by": entry.updated_by,
    }
