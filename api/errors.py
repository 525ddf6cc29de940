"""Errors as answers. What status and body an error has is in `shared.error_bodies`."""

from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from shared.error_bodies import STATUS, body_of, status_of
from shared.errors import AppError, LimitExceeded
from shared.validation import explain


def response(error: AppError, headers: Mapping[str, str] | None = None) -> Response:
    """The JSON answer for `error`, with `Retry-After` in whole seconds, rounded up, when the wait is known."""
    answer = Response(body_of(error), status_of(error), dict(headers or {}), media_type="application/json")
    if error.retry_after is not None:
        answer.headers["retry-after"] = str(max(1, -int(-error.retry_after // 1)))
    if isinstance(error, LimitExceeded):
        answer.headers["rate_limit_type"] = error.limit
        answer.headers["reset_at"] = error.resets_at
    if STATUS[error.code].status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def unexpected() -> AppError:
    """What a client is told when Headrace itself fails."""
    return AppError("Headrace failed at this request; its log says why.")


async def handle_invalid(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler for query strings and paths that do not fit their route."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    _, *place = problem["loc"]  # it begins with `query` or `path`
    return response(explain(problem, place))


async def handle(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for `AppError`."""
    assert isinstance(error, AppError)
    return response(error)
