"""Why a job that waited for its turn did not get it: until when it may wait, and what its client is told."""

from math import inf

from shared import errors
from shared.errors import AppError
from shared.jobs import Job
from workers.turnstile import Postponed


def waits_until(job: Job) -> float:
    """Seconds since the epoch. `start_by` counts until the first attempt has begun: a retry has the whole deadline."""
    if job.start_by and job.attempt == 1:
        return min(job.start_by, job.deadline)
    return job.deadline


def too_late(job: Job, now: float) -> AppError:
    """Its time ran out while it waited."""
    if waits_until(job) < job.deadline:
        return _waited_too_long(job, now)
    return errors.DeadlineExceeded(
        f"Request timed out. Its {job.deadline - job.accepted_at:.1f} s ran out while it waited for its turn at "
        f"{job.provider}: send a longer timeout, or less at once."
    )


def no_deployment(job: Job) -> AppError:
    """Nothing that it was routed to exists any more."""
    return errors.UnknownModel(
        f"No deployment of {job.current.group!r} that this request was routed to exists any more: it was deleted while "
        "the request waited, or api and worker do not run the same config.",
        param="model",
    )


def no_key(job: Job, postponed: Postponed, now: float) -> AppError:
    """No key of its last leg is free in time."""
    if postponed.seconds == inf:
        return errors.CredentialsExhausted(
            f"Every API key for {job.current.group!r} at {job.provider} was refused by the provider: check the keys."
        )
    until = waits_until(job)
    if until < job.deadline and now + postponed.seconds >= until:
        return _waited_too_long(job, now, postponed.seconds)
    return errors.RateLimited(
        f"No deployments available for selected model, Try again in {postponed.seconds:.0f} seconds. "
        f"Passed model={job.model}. Every key is at its limit ({postponed.reason}) beyond the request's deadline.",
        retry_after=postponed.seconds,
    )


def _waited_too_long(job: Job, now: float, more: float | None = None) -> AppError:
    """`more`: seconds until a key is free, when known."""
    limit = job.start_by - job.accepted_at
    prospect = "" if more is None else f"a key is free in {more:.1f} s, "
    return errors.QueueWaitExceeded(
        f"The request has waited {now - job.accepted_at:.1f} s for its turn at {job.provider}, {prospect}and its "
        f"max_queue_wait is {limit:g} s: send it again later, or allow a longer wait.",
        retry_after=more,
    )
