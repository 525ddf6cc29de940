"""Google's error objects -> our errors (https://ai.google.dev/gemini-api/docs/troubleshooting).

A plain answer holds `{"error": {...}}`; the streaming endpoint wraps it in a list of one.
"""

import re
from typing import Any

import orjson

from shared import errors

PROVIDER = "gemini"
_MESSAGE_LIMIT = 2000  # characters
_DURATION = re.compile(r"(\d+(?:\.\d+)?)s")  # protobuf's JSON form: "38.5s"
_TOO_LONG = re.compile(
    r"input token count|exceeds the maximum number of tokens|token limit|context (?:length|window)", re.IGNORECASE
)
_STATUS = {  # google.rpc.Code where an error object comes without a usable number
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_KINDS: dict[int, type[errors.UpstreamError]] = {
    401: errors.UpstreamAuthentication,
    402: errors.UpstreamAuthentication,
    403: errors.UpstreamAuthentication,
    404: errors.UpstreamNotFound,
    408: errors.UpstreamTimeout,
    429: errors.UpstreamRateLimited,
    499: errors.UpstreamServerError,  # Google cancelled its own work: the request may be tried again
    502: errors.UpstreamUnreachable,
    503: errors.UpstreamOverloaded,
    504: errors.UpstreamTimeout,
    529: errors.UpstreamOverloaded,
}


def from_answer(status: int, body: bytes) -> errors.UpstreamError:
    """The error that an answer with `status` and `body` describes."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if (described := error_object(parsed)) is not None:
        return _classified(status, described)
    text = body[: 4 * _MESSAGE_LIMIT].decode(errors="replace")
    return _classified(status, {"message": text})


def error_object(parsed: Any) -> dict[str, Any] | None:
    """The error in a parsed answer or stream event; None when it is none."""
    if isinstance(parsed, list):
        parsed = next((each for each in parsed if isinstance(each, dict) and "error" in each), None)
    if not isinstance(parsed, dict) or not parsed.get("error"):
        return None
    error = parsed["error"]
    return error if isinstance(error, dict) else {"message": str(error)}


def from_object(error: dict[str, Any]) -> errors.UpstreamError:
    """The error that an error object in an answer of status 200 describes, mostly an event of a stream."""
    code = error.get("code")
    if not isinstance(code, int) or not 400 <= code <= 599:
        code = _STATUS.get(str(error.get("status")), 500)
    return _classified(code, error)


def broken(message: str) -> errors.UpstreamBroken:
    return errors.UpstreamBroken(message, provider=PROVIDER, status=200)


def _classified(status: int, error: dict[str, Any]) -> errors.UpstreamError:
    message = str(error.get("message") or f"Gemini answered {status} without a message")[:_MESSAGE_LIMIT]
    if status == 400:
        return _bad_request(error, message)
    kind = _KINDS.get(status) or (errors.UpstreamServerError if status >= 500 else errors.UpstreamBadRequest)
    retry_after = _retry_delay(error) if status in (429, 503) else None
    return kind(message, provider=PROVIDER, status=status, retry_after=retry_after)


def _bad_request(error: dict[str, Any], message: str) -> errors.UpstreamError:
    """400 says many things. A bad key is one of them, and the code for it is 401 wherever else it is looked at."""
    reasons = {detail.get("reason") for detail in _details(error)}
    if "API_KEY_INVALID" in reasons or "api key not valid" in message.lower() or "api key expired" in message.lower():
        return errors.UpstreamAuthentication(message, provider=PROVIDER, status=401)
    match error.get("status"):
        case "RESOURCE_EXHAUSTED":
            return errors.UpstreamRateLimited(message, provider=PROVIDER, status=429, retry_after=_retry_delay(error))
        case "DEADLINE_EXCEEDED":
            return errors.UpstreamTimeout(message, provider=PROVIDER, status=504)
    if _TOO_LONG.search(message):
        return errors.UpstreamContextWindowExceeded(message, provider=PROVIDER, status=400)
    return errors.UpstreamBadRequest(message, provider=PROVIDER, status=400)


def _retry_delay(error: dict[str, Any]) -> float | None:
    """Seconds from google.rpc.RetryInfo. An exhausted daily quota (`quotaId` with PerDay) carries one as well."""
    for detail in _details(error):
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            found = _DURATION.fullmatch(str(detail.get("retryDelay", "")))
            return float(found[1]) if found else None
    return None


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []
