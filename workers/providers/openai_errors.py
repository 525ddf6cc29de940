"""What an error of OpenAI's dialect means: by its status, and by its text only where the status is silent.

Statuses and codes: https://platform.openai.com/docs/guides/error-codes
"""

import re
from dataclasses import dataclass
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

_MESSAGE_LIMIT = 2000  # characters of a vendor's text
_SNIPPET_LIMIT = 200  # characters of what is no error object: a proxy's page, plain text

_BY_STATUS: dict[int, type[UpstreamError]] = {
    401: UpstreamAuthentication,
    402: UpstreamAuthentication,
    403: UpstreamAuthentication,
    404: UpstreamNotFound,
    408: UpstreamTimeout,
    409: UpstreamRateLimited,
    429: UpstreamRateLimited,
    498: UpstreamOverloaded,  # Groq: the flex tier is out of capacity
    503: UpstreamOverloaded,
    504: UpstreamTimeout,
    529: UpstreamOverloaded,
}

_SILENT = (400, 403, 413, 422)  # statuses that vendors use for several of the causes below
_CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error"}  # OpenAI, llama.cpp
_CONTEXT_TEXTS = re.compile(
    r"maximum context length|context window|context length|context size|context limit|prompt is too long"
    r"|input is too long",
    re.IGNORECASE,
)
_POLICY_CODES = {"content_policy_violation", "content_filter", "content_moderation_failed", "moderation_blocked"}
_POLICY_TEXTS = re.compile(r"content management policy|content policy|content polic\w+ violat|safety system", re.I)
_KEY_TEXTS = re.compile(r"(incorrect|invalid) api key", re.IGNORECASE)  # xAI says so with status 400
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}

_STATUS_BY_TYPE = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "content_filter": 400,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 504,
    "timeout_error": 504,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "requests": 429,  # OpenAI's `type` says which limit was hit
    "tokens": 429,
    "overloaded": 503,
    "overloaded_error": 503,
    "service_unavailable": 503,
    "service_unavailable_error": 503,
    "engine_overloaded_error": 503,
}

_SECRET = re.compile(r"\b(?:sk|gsk|xai|pplx|nvapi|csk|tgp|fw)[-_][\w-]{12,}|\bBearer\s+[\w.~+/-]{8,}")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Detail:
    """What an error body says, whatever its shape."""

    message: str
    names: frozenset[str] = frozenset()
    """Its `code` and `type`, lower-case."""
    param: str | None = None
    status: int | None = None
    """A status inside the body."""


def error_of(provider: str, status: int, body: bytes) -> UpstreamError:
    """The error that an answer of `status` with `body` describes."""
    return _error(provider, status, _detail(body, status))


def error_in(provider: str, answer: Any) -> UpstreamError:
    """The error that an error object describes which came with status 200, in a body or in a stream."""
    detail = _detail_of(answer) or _Detail("The provider reported an error without saying which.")
    known = [_STATUS_BY_TYPE[name] for name in sorted(detail.names) if name in _STATUS_BY_TYPE]
    return _error(provider, detail.status or (known[0] if known else 500), detail)


def is_error(answer: dict[str, Any]) -> bool:
    """Whether a JSON object with status 200 is an error: OpenAI's shape, or the older one of vLLM and Mistral."""
    return bool(answer.get("error")) or answer.get("object") == "error"


def snippet(body: bytes) -> str:
    """A few words of a body that is not what it should be: no markup, no control characters, one line."""
    text = body[: 64 * _SNIPPET_LIMIT].decode(errors="replace")
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    return _clean(text, _SNIPPET_LIMIT) or "(empty)"


def _error(provider: str, status: int, detail: _Detail) -> UpstreamError:
    kind = _kind(status, detail)
    return kind(detail.message, param=detail.param, provider=provider, status=status)


def _kind(status: int, detail: _Detail) -> type[UpstreamError]:
    if status in _SILENT:
        if detail.names & _CONTEXT_CODES or _CONTEXT_TEXTS.search(detail.message):
            return UpstreamContextWindowExceeded
        if detail.names & _POLICY_CODES or _POLICY_TEXTS.search(detail.message):
            return UpstreamContentPolicy
        if "invalid_api_key" in detail.names or _KEY_TEXTS.search(detail.message):
            return UpstreamAuthentication
        if "model_not_found" in detail.names:
            return UpstreamNotFound
    if status == 429 and any(name in _QUOTA_CODES or "billing" in name for name in detail.names):
        return UpstreamQuotaExhausted
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return UpstreamServerError
    # Below 400 is a redirect, which is never followed: the key would go to another host.
    return UpstreamBadRequest if status >= 400 else UpstreamBroken


def _detail(body: bytes, status: int) -> _Detail:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    return _detail_of(answer) or _Detail(f"The provider answered {status}: {snippet(body)}")


def _detail_of(answer: Any) -> _Detail | None:
    """The detail of the shapes in use: `{"error": {...}}`, `{"error": "text"}`, a flat object, `[{"error": ...}]`."""
    if isinstance(answer, list):
        return _detail_of(answer[0]) if answer else None
    if not isinstance(answer, dict):
        return _Detail(_clean(answer)) if isinstance(answer, str) and answer else None
    error = answer.get("error")
    if isinstance(error, dict):
        return _detail_of_object(error)
    if isinstance(error, str) and error:
        return _detail_of_object({**answer, "message": error})
    return _detail_of_object(answer) if "message" in answer or "detail" in answer else None


def _detail_of_object(error: dict[str, Any]) -> _Detail:
    message = error.get("message") or error.get("detail") or error
    names = {str(error[key]).lower() for key in ("code", "type") if error.get(key)}
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and metadata.get("flagged_input"):  # OpenRouter's moderation, with status 403
        names.add("content_policy_violation")
    param = error.get("param")
    return _Detail(
        message=_clean(_text(message)),
        names=frozenset(names),
        param=param if isinstance(param, str) else None,
        status=next(
            (code for code in (_status(error, key) for key in ("code", "status", "status_code")) if code), None
        ),
    )


def _text(message: Any) -> str:
    """FastAPI's servers (Mistral, vLLM) list what is wrong with which field."""
    if isinstance(message, dict) and isinstance(message.get("detail"), list | str):
        message = message["detail"]
    if isinstance(message, list) and all(isinstance(each, dict) and "msg" in each for each in message):
        return "; ".join(f"{'.'.join(map(str, each.get('loc') or ()))}: {each['msg']}" for each in message)
    return message if isinstance(message, str) else orjson.dumps(message).decode()


def _status(error: dict[str, Any], key: str) -> int | None:
    value = error.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else None


def _clean(text: str, limit: int = _MESSAGE_LIMIT) -> str:
    text = "".join(each if each.isprintable() else " " for each in text[: 64 * limit])
    return _SECRET.sub("***", " ".join(text.split()))[:limit]
