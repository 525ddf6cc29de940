"""A line of a batch's output or error file, in OpenAI's format."""

from typing import Any

import orjson

from shared.error_bodies import body_of, status_of
from shared.errors import AppError, from_wire
from shared.jobs import Ending, JobState

_UNEXECUTED = {
    JobState.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    JobState.CANCELLED: ("batch_cancelled", "This request was cancelled before it was executed."),
}


def output_line(custom_id: str, line: int, ending: Ending) -> bytes:
    """The line for a request that ended, with its line feed.

    An answer, of Headrace's own or a provider's error too, is under `response`; a request that got none, because its
    batch expired or was cancelled, has an `error`. `line`, the number of the request's line in the input, is told with
    what is not completed: a bad line may have no `custom_id`, which is null then.
    """
    row: dict[str, Any] = {
        "id": f"batch_req_{ending.job_id.replace('-', '')}",
        "custom_id": custom_id or None,
        "response": None,
        "error": None,
    }
    if ending.state in _UNEXECUTED:
        code, message = _UNEXECUTED[ending.state]
        row["error"] = {"code": code, "message": message}
    elif ending.state is JobState.COMPLETED:
        row["response"] = _response(ending, 200, ending.answer)
    else:
        row["response"] = _refusal(ending)
    if ending.state is not JobState.COMPLETED:
        row["line"] = line
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _refusal(ending: Ending) -> dict[str, Any]:
    """The answer that the request alone would have got; of a bad line with OpenAI's code for what is wrong with it."""
    error = from_wire(ending.error) if ending.error else AppError("The request failed.")
    body = body_of(error)
    if ending.error and "line_code" in ending.error:
        answer = orjson.loads(body)
        answer["error"]["code"] = ending.error["line_code"]
        body = orjson.dumps(answer)
    return _response(ending, status_of(error), body)


def _response(ending: Ending, status: int, body: bytes) -> dict[str, Any]:
    return {"status_code": status, "request_id": ending.job_id, "body": orjson.Fragment(_one_line(body) or b"null")}


def _one_line(body: bytes) -> bytes:
    """JSON has line breaks between its tokens only: within strings they are escaped."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body
