"""The one tree of errors. An error knows its stable code and whether a retry can help; it does not know HTTP.

Errors cross the queue as `AppError.to_wire()` and come back with `from_wire()`. `shared/error_bodies.py` maps codes to
statuses.
"""

from typing import Any, ClassVar


class AppError(Exception):
    """Something went wrong that the caller must be told about."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        provider: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        """Seconds the caller should wait, when known."""
        self.provider = provider
        self.status = status
        """The status that the provider answered, for errors that a provider caused."""

    def to_wire(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after": self.retry_after,
            "provider": self.provider,
            "status": self.status,
        }


# The caller's doing


class InvalidRequest(AppError):
    """The request cannot be understood or breaks a documented rule."""

    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """The provider has no counterpart for a parameter, and `drop_params` is off."""

    code = "unsupported_parameter"


class RequestTooLarge(AppError):
    """The body is over the configured limit."""

    code = "request_too_large"


class UnknownModel(AppError):
    """No deployment serves the model's name."""

    code = "unknown_model"


class NotAuthenticated(AppError):
    """No API key was sent."""

    code = "not_authenticated"


class InvalidKey(AppError):
    """The API key is not known."""

    code = "invalid_key"


class KeyBlocked(InvalidKey):
    """The key, its team or the customer has been blocked."""

    code = "key_blocked"


class KeyExpired(InvalidKey):
    """The key's time is over."""

    code = "key_expired"


class PermissionDenied(AppError):
    """The key is known and may not do this."""

    code = "permission_denied"


class RouteNotAllowed(PermissionDenied):
    """The key's `allowed_routes` leave this one out."""

    code = "route_not_allowed"


class ModelNotAllowed(PermissionDenied):
    """The model is not among those of the key; the kinds below say whose list leaves it out."""

    code = "key_model_access_denied"


class TeamModelNotAllowed(ModelNotAllowed):
    code = "team_model_access_denied"


class UserModelNotAllowed(ModelNotAllowed):
    code = "user_model_access_denied"


class CustomerModelNotAllowed(ModelNotAllowed):
    code = "customer_model_access_denied"


class NotFound(AppError):
    """No such thing, or none that the caller may see."""

    code = "not_found"


class Conflict(AppError):
    """It exists already, or another has the name that must be unique."""

    code = "conflict"


class UserExists(Conflict):
    """A user has this id or this email already."""

    code = "user_exists"


class AlreadyMember(Conflict):
    """The user is in the team already."""

    code = "team_member_already_in_team"


class IdempotencyKeyReused(AppError):
    """The idempotency key belongs to another request of the same caller."""

    code = "idempotency_key_reused"


# What the caller may use


class BudgetExceeded(AppError):
    """A budget of the key, or of whoever it belongs to, is used up. `retry_after` is the time until it starts anew,
    None if it never does; `status` is what the operator wants clients to get."""

    code = "budget_exceeded"


class LimitExceeded(AppError):
    """More requests or tokens a minute, or more requests at a time, than the key, or whoever it belongs to, may have.
    `retry_after` is exact for the first two, and None for what no wait makes possible."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, limit: str = "", resets_at: str = "", **common: Any) -> None:
        super().__init__(message, **common)
        self.limit = limit
        """requests, tokens or max_parallel_requests."""
        self.resets_at = resets_at
        """For people: `YYYY-MM-DD HH:MM:SS UTC`."""


# Backpressure


class QueueFull(AppError):
    """The lane is at its bound; `retry_after` is its depth divided by its drain rate."""

    code = "queue_full"


class RateLimited(AppError):
    """Every key is at its limit, and the first refill comes after the request's deadline."""

    code = "rate_limited"


class QueueWaitExceeded(AppError):
    """No attempt had begun when the request's `max_queue_wait` was over, or none would have."""

    code = "queue_wait_exceeded"


class DeadlineUnreachable(AppError):
    """The job's lane is so long that its deadline would pass before its turn: it was not accepted. `retry_after` is
    when it would be in time."""

    code = "deadline_unreachable"


class DeadlineExceeded(AppError):
    """The request's time ran out, queued or running."""

    code = "deadline_exceeded"


class Cancelled(AppError):
    """The client left, or cancelled the job."""

    code = "cancelled"


# Our own parts


class Unavailable(AppError):
    """A server that Headrace needs cannot be reached."""

    code = "unavailable"
    retryable = True


class NoDatabase(Unavailable):
    """The store is away, and the key is not among those that are remembered."""

    code = "no_db_connection"


class WorkerLost(AppError):
    """A worker died in the middle of a stream, after tokens had reached the client."""

    code = "worker_lost"


class Quarantined(AppError):
    """The job crashed its workers too often."""

    code = "quarantined"


class CredentialsExhausted(AppError):
    """Every key of every candidate deployment was refused by its provider."""

    code = "credentials_exhausted"


# The provider's doing


class UpstreamError(AppError):
    """A provider answered with an error, or did not answer as its dialect demands."""

    code = "upstream_error"


class UpstreamBadRequest(UpstreamError):
    """400, 404, 413, 422 and kin: the same request fails again."""

    code = "upstream_bad_request"


class UpstreamContextWindowExceeded(UpstreamError):
    """The prompt is longer than the model's context window."""

    code = "upstream_context_window_exceeded"


class UpstreamContentPolicy(UpstreamError):
    """The provider refused the content."""

    code = "upstream_content_policy"


class UpstreamAuthentication(UpstreamError):
    """401, 402 or 403: the key is dead, other keys may work."""

    code = "upstream_authentication"
    retryable = True


class UpstreamNotFound(UpstreamError):
    """404: the provider does not have the model."""

    code = "upstream_not_found"


class UpstreamRateLimited(UpstreamError):
    """429: wait for `retry_after`, or use another key."""

    code = "upstream_rate_limited"
    retryable = True


class UpstreamQuotaExhausted(UpstreamError):
    """429 that no waiting heals: the account has no credit."""

    code = "upstream_quota_exhausted"
    retryable = True  # on another key


class UpstreamOverloaded(UpstreamError):
    """503 or 529: the provider is out of capacity."""

    code = "upstream_overloaded"
    retryable = True


class UpstreamServerError(UpstreamError):
    """500 and kin."""

    code = "upstream_server_error"
    retryable = True


class UpstreamBroken(UpstreamError):
    """The answer does not parse, or ends before its dialect's end: whatever its status, it is not a success."""

    code = "upstream_broken"
    retryable = True


class UpstreamUnreachable(UpstreamError):
    """No connection: name, TCP, TLS, or a reset before the first byte."""

    code = "upstream_unreachable"
    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider accepted the request and stayed silent too long."""

    code = "upstream_timeout"
    retryable = True


class ConfigError(Exception):
    """A configuration that cannot run. The message is one line: file, key, what is wrong, what to do."""


def _descendants(kind: type[AppError]) -> list[type[AppError]]:
    return [kind] + [each for child in kind.__subclasses__() for each in _descendants(child)]


BY_CODE: dict[str, type[AppError]] = {kind.code: kind for kind in _descendants(AppError)}


def from_wire(wire: dict[str, Any]) -> AppError:
    """The error that `to_wire` described; a code from a newer process becomes a plain `AppError`."""
    kind = BY_CODE.get(wire["code"], AppError)
    return kind(
        wire["message"],
        param=wire.get("param"),
        retry_after=wire.get("retry_after"),
        provider=wire.get("provider"),
        status=wire.get("status"),
    )
