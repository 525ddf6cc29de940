"""Error code -> status and body, in OpenAI's shape with LiteLLM's types and messages: the one table."""

from dataclasses import dataclass

import orjson

from shared import errors
from shared.errors import AppError
from shared.providers import label


@dataclass(frozen=True, slots=True)
class Form:
    """How an error looks from outside."""

    status: int
    type: str
    exception: str = ""
    """LiteLLM's exception class; the message then starts `litellm.<Class>: <Class>: <Provider>Exception - `."""


_BAD, _OURS = "invalid_request_error", "internal_server_error"

STATUS: dict[str, Form] = {
    errors.AppError.code: Form(500, _OURS),
    errors.InvalidRequest.code: Form(400, _BAD),
    errors.UnsupportedParameter.code: Form(400, _BAD, "UnsupportedParamsError"),
    errors.RequestTooLarge.code: Form(413, _BAD),
    errors.UnknownModel.code: Form(400, _BAD),
    errors.NotAuthenticated.code: Form(401, "auth_error"),
    errors.InvalidKey.code: Form(401, "token_not_found_in_db"),
    errors.KeyBlocked.code: Form(401, "auth_error"),
    errors.KeyExpired.code: Form(401, "expired_key"),
    errors.PermissionDenied.code: Form(403, "permission_error"),
    errors.RouteNotAllowed.code: Form(403, "auth_error"),
    errors.ModelNotAllowed.code: Form(403, "key_model_access_denied"),
    errors.TeamModelNotAllowed.code: Form(403, "team_model_access_denied"),
    errors.UserModelNotAllowed.code: Form(403, "user_model_access_denied"),
    errors.CustomerModelNotAllowed.code: Form(403, "customer_model_access_denied"),
    errors.NotFound.code: Form(404, "not_found_error"),
    errors.Conflict.code: Form(400, "bad_request_error"),
    errors.UserExists.code: Form(409, _BAD),
    errors.AlreadyMember.code: Form(400, "team_member_already_in_team"),
    errors.BudgetExceeded.code: Form(422, "budget_exceeded"),
    errors.LimitExceeded.code: Form(429, "rate_limit_error"),
    errors.IdempotencyKeyReused.code: Form(422, _BAD),
    errors.QueueFull.code: Form(429, "rate_limit_error"),
    errors.RateLimited.code: Form(429, "all_deployments_in_cooldown"),
    errors.QueueWaitExceeded.code: Form(429, "rate_limit_error"),
    errors.DeadlineUnreachable.code: Form(429, "deadline_unreachable"),
    errors.DeadlineExceeded.code: Form(408, "timeout_error", "Timeout"),
    errors.Cancelled.code: Form(499, _BAD),
    errors.Unavailable.code: Form(503, _OURS),
    errors.NoDatabase.code: Form(503, "no_db_connection"),
    errors.WorkerLost.code: Form(502, _OURS),
    errors.Quarantined.code: Form(500, _OURS),
    errors.CredentialsExhausted.code: Form(502, "upstream_credentials_exhausted"),
    errors.UpstreamError.code: Form(502, _OURS, "APIError"),
    errors.UpstreamBadRequest.code: Form(400, _BAD, "BadRequestError"),
    errors.UpstreamContextWindowExceeded.code: Form(400, _BAD, "ContextWindowExceededError"),
    errors.UpstreamContentPolicy.code: Form(400, _BAD, "ContentPolicyViolationError"),
    errors.UpstreamAuthentication.code: Form(401, "authentication_error", "AuthenticationError"),
    errors.UpstreamNotFound.code: Form(404, _BAD, "NotFoundError"),
    errors.UpstreamRateLimited.code: Form(429, "rate_limit_error", "RateLimitError"),
    errors.UpstreamQuotaExhausted.code: Form(429, "rate_limit_error", "RateLimitError"),
    errors.UpstreamOverloaded.code: Form(503, _OURS, "ServiceUnavailableError"),
    errors.UpstreamServerError.code: Form(500, _OURS, "InternalServerError"),
    errors.UpstreamBroken.code: Form(502, _OURS, "BadGatewayError"),
    errors.UpstreamUnreachable.code: Form(500, _OURS, "InternalServerError"),
    errors.UpstreamTimeout.code: Form(408, "timeout_error", "Timeout"),
}

_PASSED_ON = frozenset({errors.UpstreamAuthentication.code, errors.UpstreamBadRequest.code, errors.BudgetExceeded.code})
"""Codes that stand for several statuses: the provider's own is passed on, and that of `budget_exceeded_status_code`."""


def status_of(error: AppError) -> int:
    """The HTTP status of `error`."""
    if error.code in _PASSED_ON and error.status is not None and 400 <= error.status < 500:
        return error.status
    return STATUS[error.code].status


def body_of(error: AppError) -> bytes:
    """`{"error": {message, type, param, code}}`, the code being the status as a string."""
    form = STATUS[error.code]
    message = error.message
    if form.exception and error.provider:
        source = f"{_label(error.provider)}Exception"
        message = f"litellm.{form.exception}: {form.exception}: {source} - {message}"
    elif form.exception:
        message = f"litellm.{form.exception}: {message}"
    status = status_of(error)
    kind = "permission_error" if status == 403 and form.status != 403 else form.type
    return orjson.dumps({"error": {"message": message, "type": kind, "param": error.param, "code": str(status)}})


def _label(provider: str) -> str:
    try:
        return label(provider)
    except KeyError:
        return provider  # of a newer worker
