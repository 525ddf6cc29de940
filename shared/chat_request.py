"""The envelope of a chat request: what must hold before a job may enter. Everything else passes through untouched.

Ranges are those of OpenAI's reference; a vendor's own narrower ones are the vendor's to enforce.
"""

from typing import Annotated, Any, ClassVar, Literal

import orjson
from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from shared.errors import InvalidRequest
from shared.validation import explain

_DEEPEST = 200  # levels; the JSON writer that workers use stops at 254

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Part(TypedDict):
    type: str


class Message(TypedDict, total=False):
    role: Role
    content: str | list[Part | str] | None
    tool_calls: list[dict[str, Any]] | None


class Envelope(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=(), hide_input_in_errors=True)

    endpoint: ClassVar[str] = "chat.completions"
    """`Job.endpoint` of the jobs that are made of it."""

    model: Annotated[str, Len(1, 512)]
    messages: Annotated[list[Message], Len(1)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int, Ge(1)] | None = None
    max_completion_tokens: Annotated[int, Ge(1)] | None = None
    temperature: Annotated[float, Ge(0), Le(2)] | None = None
    top_p: Annotated[float, Ge(0), Le(1)] | None = None
    n: Annotated[int, Ge(1), Le(128)] | None = None
    presence_penalty: Annotated[float, Ge(-2), Le(2)] | None = None
    frequency_penalty: Annotated[float, Ge(-2), Le(2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    tags: list[str] | None = None
    fallbacks: list[str | dict[str, Any]] | None = None
    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    num_retries: Annotated[int, Ge(0), Le(100)] | None = None


_ENVELOPE = Envelope.__pydantic_validator__


def parse(body: bytes, model_in_path: str | None = None) -> Envelope:
    """The validated envelope of `body`. Raises `InvalidRequest`, whose `param` names the field."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"Invalid JSON in the request body: {exc}", param="request_body") from exc
    if not isinstance(request, dict):
        raise InvalidRequest("The request body must be a JSON object.", param="request_body")
    if model_in_path is not None:
        request.setdefault("model", model_in_path)
    _refuse_nesting_bomb(body, request)
    try:
        envelope: Envelope = _ENVELOPE.validate_python(request)
    except ValidationError as exc:
        raise _explain(exc) from None  # the cause would repeat the prompt
    _require_roles(envelope.messages)
    return envelope


def _require_roles(messages: list[Message]) -> None:
    for index, message in enumerate(messages):
        if "role" not in message:
            raise InvalidRequest(
                f"Missing required parameter: 'messages[{index}].role'.", param=f"messages[{index}].role"
            )


def _refuse_nesting_bomb(body: bytes, request: dict[str, Any]) -> None:
    """Refuse what the worker could not write again. Counting brackets first makes the usual request free of charge."""
    if body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return
    try:
        orjson.dumps(request)
    except orjson.JSONEncodeError as exc:
        raise InvalidRequest(
            "The request body is nested too deeply: at most 254 levels.", param="request_body"
        ) from exc


def _explain(exc: ValidationError) -> InvalidRequest:
    problem = exc.errors(include_url=False, include_input=True)[0]
    if problem["loc"] == ("messages",) and problem["type"] == "too_short":
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        return InvalidRequest(message, param="messages")
    return explain(problem, problem["loc"])
