"""Anthropic's errors as ours: by status first, by type where there is no status, by words where both are silent.

https://platform.claude.com/docs/en/api/errors
"""

from typing import Any

import orjson

from shared.errors import (
    UpstreamAuthentication,
    UpstreamBadRequest,
    UpstreamBroken,
    UpstreamContentPolicy,
    UpstreamContextWindowExceeded,
    UpstreamError,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamServerError,
    UpstreamTimeout,
)

PROVIDER = "anthropic"
MESSAGE_LIMIT = 2_000  # characters
_SNIPPET_LIMIT = 200  # characters of a body that is not Anthropic's

_BY_STATUS: dict[int, type[UpstreamError]] = {
    401: UpstreamAuthentication,
    402: UpstreamAuthentication,
    403: UpstreamAuthentication,
    404: UpstreamNotFound,
    408: UpstreamTimeout,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    504: UpstreamTimeout,
    529: UpstreamOverloaded,
}

_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that the vendor documents for each type, for errors that arrive inside a 200."""

# A 400 says only that the request failed; these tell why it did, and whether another model or key would do better.
_BY_WORDS: tuple[tuple[str, type[UpstreamError]], ...] = (
    ("prompt is too long", UpstreamContextWindowExceeded),
    ("exceed context limit", UpstreamContextWindowExceeded),
    ("content filtering policy", UpstreamContentPolicy),
    ("credit balance is too low", UpstreamQuotaExhausted),
    ("specified api usage limits", UpstreamQuotaExhausted),
)


def from_response(status: int, body: bytes) -> UpstreamError:
    """The error of an answer with a status of 400 or over."""
    error = _error_object(body)
    if error is not None:
        return _classified(status, str(error.get("message") or error.get("type") or f"status {status}"))
    return _classified(status, f"status {status} {snippet(body)}")


def from_error_object(error: Any) -> UpstreamError:
    """The error of an `error` event in a stream, or of an error object in an answer of status 200."""
    if not isinstance(error, dict):
        return UpstreamServerError("an error event without an error", provider=PROVIDER, status=500)
    kind = str(error.get("type") or "")
    # A type from after this was written is the provider's trouble, not the request's: let a retry decide.
    return _classified(
        _STATUS_OF_TYPE.get(kind, 500), str(error.get("message") or kind or "an error without a message")
    )


def broken(message: str) -> UpstreamBroken:
    return UpstreamBroken(message[:MESSAGE_LIMIT], provider=PROVIDER)


def snippet(body: bytes) -> str:
    """A body that is not Anthropic's, in a few safe words: a proxy's HTML must not reach the client."""
    text = " ".join(body[:4_096].decode(errors="replace").split())
    if not text:
        return "with an empty body"
    if "<" in text:
        return "with a body of markup instead of JSON"
    return f"with an unexpected body: {text[:_SNIPPET_LIMIT]}"


def _classified(status: int, message: str) -> UpstreamError:
    return _kind(status, message)(message[:MESSAGE_LIMIT], provider=PROVIDER, status=status)


def _kind(status: int, message: str) -> type[UpstreamError]:
    if status == 400:
        words = message.lower()
        return next((kind for phrase, kind in _BY_WORDS if phrase in words), UpstreamBadRequest)
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return UpstreamServerError if status >= 500 else UpstreamBadRequest


def _error_object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else None
