"""What management routes are sent: read, bounded and checked before anything is done with it."""

import math
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import Request
from starlette.responses import Response

from api import documents
from api.routes.chat import read_body
from shared import windows
from shared.errors import AppError, InvalidRequest

T = TypeVar("T", bound="Body")

MOST_BODY = 1024 * 1024  # bytes
MOST_JSON = 64 * 1024  # bytes of one object as JSON; a record's fields and metadata together may have as many
MOST_NAME = 256  # characters
MOST_NAMES = 1000
_MOST_PROBLEMS = 20  # that an answer lists
_MOST_COUNT = 2**53 - 1  # what a double, and with it Redis, counts exactly
_MOST_MONEY = 9_000_000_000.0  # dollars: their nano-dollars fit into 64 bits

_KEY = re.compile(r"sk-[^\s'\",;]{9,}")
"""What may be a key, but not how one is shown to people (`sk-...abcd`)."""

_REFUSED = "refused"
"""The type of a problem that LiteLLM answers with 400 and a message, not with 422 and a list."""


class Body(BaseModel):
    """What a management route is sent. Fields that are not named are ignored, as LiteLLM ignores them.

    A field that is null was cleared, one that is not in `model_fields_set` was not spoken of: `given` tells them apart.
    """

    model_config = ConfigDict(hide_input_in_errors=True, extra="ignore", protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """The fields that were sent, as JSON values; None clears."""
        return self.model_dump(exclude_unset=True)


async def parsed(request: Request, kind: type[T]) -> T:
    """The request's body; an empty one is an empty object.

    Raises `RequestTooLarge` above 1 MiB, `InvalidRequest` for what is no JSON or what LiteLLM answers with 400, and 422
    with FastAPI's `{"detail": [...]}`, without the values that were sent: they may be keys.
    """
    raw = await read_body(request, request.headers, MOST_BODY)
    try:
        sent = from_json(raw or b"{}", allow_inf_nan=True)
    except ValueError:
        raise InvalidRequest("The request's body is not valid JSON.", param="request_body") from None
    body = validated(sent, kind)
    _refuse_unstorable(sent)
    return body


def validated(sent: Any, kind: type[T]) -> T:
    """As `parsed`, of JSON that was read already."""
    try:
        return kind.model_validate(sent)
    except ValidationError as exc:
        raise _told(exc.errors(include_url=False, include_input=False, include_context=False), "body") from None


def documented(kind: type[Body], *, required: bool = True, needs: Sequence[str] = ()) -> dict[str, Any]:
    """As `documents.request_body`."""
    return documents.request_body(kind, required=required, needs=needs)


class ManagementRoute(APIRoute):
    """For `APIRouter.route_class`: queries and paths are refused as LiteLLM refuses them, 422 with a list. No error
    repeats a key, wherever in the request it was."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as exc:
                raise _told(exc.errors()) from None
            except AppError as error:
                error.message = _KEY.sub("sk-...", error.message)
                raise

        return handle


def refuse(message: str) -> PydanticCustomError:
    """For validators: the request is answered with 400 and this message."""
    return PydanticCustomError(_REFUSED, "{message}", {"message": message})


def changed(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A merge patch (RFC 7396), one level deep: None removes a field."""
    return {name: value for name, value in (fields | changes).items() if value is not None}


def refuse_large(param: str, *parts: object) -> None:
    """Raises `InvalidRequest` if these have more than 64 KiB of JSON together."""
    if sum(len(orjson.dumps(part)) for part in parts) > MOST_JSON:
        raise InvalidRequest(f"'{param}' is too large: at most {MOST_JSON} bytes of JSON are kept.", param=param)


# --- The types of fields --------------------------------------------------------------------------------------------


def _money(value: float, info: ValidationInfo) -> float:
    if not math.isfinite(value) or value < 0:
        raise refuse(f"{info.field_name} must be a non-negative finite number. Received: {value}")
    if value > _MOST_MONEY:
        raise refuse(f"{info.field_name} must be at most {_MOST_MONEY:.0f}. Received: {value}")
    return value


def _count(value: int, info: ValidationInfo) -> int:
    if not 0 <= value <= _MOST_COUNT:
        raise refuse(f"{info.field_name} must be a whole number from 0 to {_MOST_COUNT}.")
    return value


def _not_empty_text(value: Any) -> Any:
    return None if value == "" else value  # what forms send for a number that is not set


def _duration(value: str, info: ValidationInfo) -> str:
    try:
        windows.Duration.parse(value)
    except ValueError as exc:
        raise refuse(f"Invalid {info.field_name}: {exc}") from None
    return value


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def _name(value: str, info: ValidationInfo) -> str:
    name = info.field_name or "This"
    if len(value) > MOST_NAME:
        raise refuse(f"{name} is too long: at most {MOST_NAME} characters.")
    if _CONTROL.search(value):  # a line break would end a header or a line of a log
        raise refuse(f"{name} must not contain control characters.")
    return value


def _identifier(value: str, info: ValidationInfo) -> str:
    if "/" in value:
        # `<team>/<user>` is a member, `<team>/<model>` an account: one must not be mistaken for another.
        raise refuse(f"{info.field_name} must not contain '/'.")
    return _name(value, info)


def _object(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        raise refuse(f"{info.field_name} cannot be kept: it nests too deeply, or has a number over 64 bits.") from None
    if size > MOST_JSON:
        raise refuse(f"{info.field_name} is too large: at most {MOST_JSON} bytes of JSON are kept.")
    return value


Money = Annotated[float, AfterValidator(_money)]
"""Dollars: 0 to 9 billion; 400 otherwise."""
Budget = Annotated[Money | None, BeforeValidator(_not_empty_text)]
"""Money, or null or "" for none."""
Count = Annotated[int, AfterValidator(_count)]
"""0 to 2^53 - 1; 400 otherwise."""
Duration = Annotated[str, AfterValidator(_duration)]
"""What `shared.windows.Duration` parses: `<n>s|m|h|d|w|mo`, hourly, daily, weekly or monthly; 400 otherwise."""
Name = Annotated[str, AfterValidator(_name)]
"""At most 256 characters, none of them a control character; 400 otherwise."""
Identifier = Annotated[str, AfterValidator(_identifier)]
"""A name without a slash: of a team."""
Metadata = Annotated[dict[str, Any], AfterValidator(_object)]
"""Any JSON object of at most 64 KiB; 400 otherwise."""
Names = Annotated[list[Name], Field(max_length=MOST_NAMES)]
ModelNames = Names
"""At most 1,000. Empty: all models."""
ModelCounts = Annotated[dict[Name, Count], Field(max_length=MOST_NAMES)]
"""Model group -> limit."""


# --- Problems -------------------------------------------------------------------------------------------------------


def _told(problems: Sequence[Any], *before: str) -> InvalidRequest | HTTPException:
    """`before` comes before the places of the problems."""
    for problem in problems:
        if problem["type"] == _REFUSED:
            place = [*before, *problem["loc"]][1:]  # without `body`, `query` or `path`
            return InvalidRequest(problem["msg"], param=str(place[0]) if place else None)
    return HTTPException(422, [_problem(each, (*before, *each["loc"])) for each in problems[:_MOST_PROBLEMS]])


def _problem(problem: Any, place: Sequence[int | str]) -> dict[str, Any]:
    """FastAPI's, without `input`, which may be a key."""
    return {"type": problem["type"], "loc": [_step(step) for step in place], "msg": problem["msg"]}


def _step(step: int | str) -> int | str:
    return step if isinstance(step, int) else _KEY.sub("sk-...", step)


def _refuse_unstorable(sent: Any) -> None:
    """JSON allows what databases do not: NUL in text, numbers over 64 bits; and Python's reader NaN on top."""
    for value in _leaves(sent):
        if isinstance(value, str):
            bad = "\0" in value
        elif isinstance(value, float):
            bad = not math.isfinite(value)
        else:
            bad = isinstance(value, int) and not -(2**63) <= value < 2**63
        if bad:
            raise InvalidRequest("The request's body contains NUL, NaN or a number over 64 bits.", param="request_body")


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            yield value
