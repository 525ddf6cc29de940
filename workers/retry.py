"""What to do after a failed attempt. Decisions only: the pipeline performs them.

The rules follow LiteLLM's router (retries within the group, then fallbacks, then the first group's error) with one
difference: a provider that says when to come back is waited for, up to the job's deadline.
"""

from dataclasses import dataclass

from shared import errors
from shared.errors import AppError
from shared.jobs import Job

_FIRST_BACKOFF = 0.5  # seconds, doubled with each retry
_LONGEST_BACKOFF = 8.0
_PATIENCE = 10.0  # seconds; a longer Retry-After is not waited for while the route has another leg


@dataclass(frozen=True, slots=True)
class Retry:
    """Again on the same leg, another deployment first, after `delay` seconds."""

    delay: float
    counted: bool = True
    """False: the wait was the provider's wish and does not spend a retry."""


@dataclass(frozen=True, slots=True)
class NextLeg:
    """The next provider or fallback group of the route, now."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the client."""


Decision = Retry | NextLeg | GiveUp


def after(error: AppError, job: Job, *, alternatives: int, remaining: float, jitter: float) -> Decision:
    """The next step after `error`.

    `alternatives` counts the other deployments of the leg, `remaining` is seconds to the deadline, `jitter` a random
    number in 0..1.
    """
    onward: Decision = NextLeg() if job.leg + 1 < len(job.route) else GiveUp()
    if isinstance(error, errors.Cancelled | errors.DeadlineExceeded) or remaining <= 0:
        return GiveUp()
    if not error.retryable:
        return onward
    if isinstance(error, errors.UpstreamRateLimited):
        return _after_rate_limit(error, job, onward, alternatives=alternatives, remaining=remaining, jitter=jitter)
    if job.retries >= job.max_retries:
        return onward
    if alternatives:
        return Retry(0.0)
    if isinstance(error, errors.UpstreamAuthentication | errors.UpstreamQuotaExhausted | errors.UpstreamTimeout):
        # The same key is refused again; a route that stayed silent once is not worth a second wait.
        return onward
    return _retry_within(_backoff(job.retries, error.retry_after, jitter), remaining, onward)


def _after_rate_limit(
    error: AppError, job: Job, onward: Decision, *, alternatives: int, remaining: float, jitter: float
) -> Decision:
    last_leg = isinstance(onward, GiveUp)
    hint = error.retry_after
    if last_leg and hint is not None and hint < remaining:
        return Retry(0.0 if alternatives else hint, counted=False)
    if job.retries >= job.max_retries or (not last_leg and hint is not None and hint > _PATIENCE):
        return onward
    if hint is None and not alternatives and not last_leg:
        return onward  # the key cools down for longer than a backoff, and somebody else can answer now
    if alternatives:
        return Retry(0.0)
    return _retry_within(_backoff(job.retries, hint, jitter), remaining, onward)


def _retry_within(delay: float, remaining: float, onward: Decision) -> Decision:
    return Retry(delay) if delay < remaining else onward


def _backoff(retries: int, hint: float | None, jitter: float) -> float:
    own = min(_FIRST_BACKOFF * 2**retries, _LONGEST_BACKOFF) * (0.8 + 0.4 * jitter)
    return own if hint is None else max(hint, own if hint == 0 else 0.0)
