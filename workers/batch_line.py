"""A line of a batch's input file -> the request that it is, or what is wrong with it in OpenAI's words. Pure.

https://platform.openai.com/docs/api-reference/batch/request-input
"""

from typing import Any

import orjson

from shared import chat_request
from shared.batch_rules import LONGEST_LINE
from shared.chat_request import Envelope
from shared.errors import AppError, InvalidRequest
from shared.job_plan import ENDPOINTS
from shared.values import value

_LONGEST_ID = 512  # characters of a custom_id
_LONGEST_SHOWN = 100  # characters of a wrong value that an error repeats


class BadLine(Exception):
    """A line that cannot become a job. `code` is one of OpenAI's codes for a batch's errors."""

    def __init__(self, code: str, error: AppError, custom_id: str = "") -> None:
        super().__init__(error.message)
        self.code = code
        self.error = error
        self.custom_id = custom_id

    def to_wire(self) -> dict[str, Any]:
        """`AppError.to_wire()` and OpenAI's code."""
        return self.error.to_wire() | {"line_code": self.code}


@value(frozen=True, slots=True)
class LineRequest:
    custom_id: str
    envelope: Envelope
    body: bytes


def parse(text: bytes | None, endpoint: str) -> LineRequest:
    """The request of a line for a batch on the path `endpoint`; None stands for a line that is too long. Raises
    `BadLine`, with the `custom_id` if the line tells it."""
    if text is None:
        raise _bad("line_too_long", f"This line is too long: at most {LONGEST_LINE // 1024 // 1024} MB.")
    fields = _fields(text)
    custom_id = _custom_id(fields)
    try:
        _check(fields, endpoint)
        body = fields["body"]
        if body.get("stream"):
            message = "Batches do not stream: leave 'stream' out, or set it to false."
            raise _bad("invalid_value", message, "body.stream")
        raw = orjson.dumps(body)
        return LineRequest(custom_id, _envelope(raw), raw)
    except orjson.JSONEncodeError:
        raise _bad("invalid_value", "The body is nested too deeply: at most 254 levels.", "body", custom_id) from None
    except BadLine as bad:
        bad.custom_id = custom_id
        raise


def is_json_object(text: bytes | None) -> bool:
    try:
        return text is not None and isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _fields(text: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _bad("invalid_json_line", "This line is not parseable as valid JSON.") from None
    if not isinstance(fields, dict):
        raise _bad("invalid_json_line", "This line is not a JSON object.")
    return fields


def _custom_id(fields: dict[str, Any]) -> str:
    custom_id = fields.get("custom_id")
    if custom_id is None or custom_id == "":
        raise _missing("custom_id")
    if not isinstance(custom_id, str):
        raise _wrong_type("custom_id", "a string")
    if len(custom_id) > _LONGEST_ID:
        message = f"Invalid 'custom_id': string too long, at most {_LONGEST_ID} characters."
        raise _bad("invalid_value", message, "custom_id")
    return custom_id


def _check(fields: dict[str, Any], endpoint: str) -> None:
    for name in ("method", "url", "body"):
        if fields.get(name) is None:
            raise _missing(name)
    method, url = fields["method"], fields["url"]
    if not isinstance(method, str) or method.upper() != "POST":
        raise _bad("invalid_method", f"Invalid HTTP method {_shown(method)}: only POST is supported.", "method")
    if not isinstance(url, str) or url not in ENDPOINTS:
        raise _bad("invalid_url", f"Invalid URL {_shown(url)}: expected {endpoint!r}.", "url")
    if url != endpoint:
        message = f"The URL {url!r} does not match the batch's endpoint {endpoint!r}."
        raise _bad("mismatched_endpoint", message, "url")
    if not isinstance(fields["body"], dict):
        raise _wrong_type("body", "an object")


def _envelope(body: bytes) -> Envelope:
    try:
        return chat_request.parse(body)
    except InvalidRequest as error:
        missing = error.message.startswith("Missing required parameter")
        code = "missing_required_parameter" if missing else "invalid_request"
        error.param = f"body.{error.param}" if error.param else "body"
        raise BadLine(code, error) from None  # the cause would repeat the prompt


def _missing(name: str) -> BadLine:
    return _bad("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _wrong_type(name: str, expected: str) -> BadLine:
    return _bad("invalid_type", f"Invalid type for '{name}': expected {expected}.", name)


def _bad(code: str, message: str, param: str | None = None, custom_id: str = "") -> BadLine:
    return BadLine(code, InvalidRequest(message, param=param), custom_id)


def _shown(value: object) -> str:
    return repr(value)[:_LONGEST_SHOWN]
