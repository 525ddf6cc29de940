"""Virtual keys, in LiteLLM's shapes: made, looked at and deleted by an administrator."""

import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from api.auth import Principal, hashed
from api.context import authenticated, context_of
from api.routes.chat import read_body
from broker.records import KeyRecord
from broker.store_interfaces import Keys
from shared.errors import InvalidRequest, NotFound, PermissionDenied
from shared.validation import explain

router = APIRouter(tags=["keys"])

T = TypeVar("T", bound=BaseModel)
Caller = Annotated[Principal, Depends(authenticated)]

_RANDOM_BYTES = 24
_DURATION = re.compile(r"(\d{1,9})(s|m|h|d|w|mo)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_MOST_METADATA = 16_384  # bytes of JSON
_MOST_BODY = 1024 * 1024  # bytes
_Name = Annotated[str | None, Field(max_length=256)]


class NewKey(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    key: Annotated[str | None, Field(min_length=12, max_length=256, pattern=r"^sk-[!-~]+$")] = None
    """The key itself, if it shall not be made here."""
    key_alias: _Name = None
    user_id: _Name = None
    team_id: _Name = None
    duration: str | None = None
    """As `30d`; none: it does not expire."""
    max_queue_wait: Annotated[float | None, Field(ge=0.001, le=86_400)] = None
    """Seconds that a request of this key may wait for a worker."""
    metadata: dict[str, Any] | None = None


class Doomed(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    keys: Annotated[list[str], Field(min_length=1, max_length=1000)]
    """Keys, or their hashes."""


@router.post("/key/generate", summary="Make a virtual key; it is shown this once")
async def generate(request: Request, caller: Caller) -> dict[str, Any]:
    _require_admin(caller)
    wanted = await _parsed(request, NewKey)
    context = context_of(request)
    key = wanted.key or f"sk-{secrets.token_urlsafe(_RANDOM_BYTES)}"
    now = context.clock.now()
    record = KeyRecord(
        hash=hashed(key),
        name=f"sk-...{key[-4:]}",
        alias=wanted.key_alias or "",
        user=wanted.user_id or "",
        team=wanted.team_id or "",
        created_at=now,
        expires_at=None if wanted.duration is None else now + _duration(wanted.duration),
        max_queue_wait=wanted.max_queue_wait,
        metadata=_bounded(wanted.metadata or {}),
    )
    if not await context.backends.store.keys.add(record):
        raise InvalidRequest("This key exists already. Choose another, or let one be made.", param="key")
    context.authenticator.keys.forget(record.hash)
    return {"key": key, **_shown(record)}


@router.post("/key/delete", summary="Delete virtual keys")
async def delete(request: Request, caller: Caller) -> dict[str, Any]:
    _require_admin(caller)
    hashes = {_hash(key): key for key in (await _parsed(request, Doomed)).keys}
    context = context_of(request)
    deleted = await context.backends.store.keys.delete(list(hashes))
    for digest in hashes:
        context.authenticator.keys.forget(digest)
    if not deleted:
        raise NotFound("No such key.", param="keys")
    return {"deleted_keys": [hashes[digest] for digest in deleted]}


@router.get("/key/info", summary="What is known of a key; of the caller's own, if none is named")
async def info(request: Request, caller: Caller, key: str = "") -> dict[str, Any]:
    digest = _hash(key) if key else caller.key
    if digest != caller.key:
        _require_admin(caller)
    record = await _keys(request).get(digest)
    if record is None:
        raise NotFound("No such key.", param="key")
    return {"key": key or digest, "info": _shown(record)}


def _require_admin(caller: Principal) -> None:
    if not caller.admin:
        raise PermissionDenied("Only the master key may manage keys.")


async def _parsed(request: Request, kind: type[T]) -> T:
    body = await read_body(request, request.headers, _MOST_BODY)
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        raise explain({"input": "what came", **problem}, problem["loc"]) from None  # the cause would repeat a key


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InvalidRequest(
            f"Invalid value for 'duration': {text[:50]!r}; expected a number with s, m, h, d, w or mo, as 30d.",
            param="duration",
        )
    return float(int(match[1]) * _SECONDS[match[2]])


def _bounded(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(metadata)) > _MOST_METADATA:
        raise InvalidRequest(f"'metadata' is over {_MOST_METADATA} bytes of JSON.", param="metadata")
    return metadata


def _hash(key: str) -> str:
    """Of a key, or of what is a hash already."""
    return hashed(key) if key.startswith("sk-") else key


def _shown(record: KeyRecord) -> dict[str, Any]:
    """LiteLLM's names, dates in ISO 8601."""
    return {
        "key_name": record.name,
        "token": record.hash,
        "token_id": record.hash,
        "key_alias": record.alias or None,
        "user_id": record.user or None,
        "team_id": record.team or None,
        "created_at": _date(record.created_at),
        "expires": None if record.expires_at is None else _date(record.expires_at),
        "blocked": record.blocked,
        "max_queue_wait": record.max_queue_wait,
        "metadata": dict(record.metadata),
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _keys(request: Request) -> Keys:
    return context_of(request).backends.store.keys
