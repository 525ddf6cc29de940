"""After an attempt: the key's state, and after a failure the job's next step."""

import random
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from broker.interfaces import Grant, Limiter, Limits
from shared import errors
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import AppError
from shared.jobs import Job
from workers import hints, retry
from workers.attempt import Attempt
from workers.health import Health

_BURIAL = 60.0  # seconds that a refused key stays out before it is tried again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Again:
    """Publish `successor` after `delay` seconds."""

    successor: Job
    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the client of `error`."""

    error: AppError


class FollowUp:
    def __init__(self, limiter: Limiter, catalog: Catalog, clock: Clock) -> None:
        self._limiter = limiter
        self._catalog = catalog
        self._clock = clock
        self._health = Health(clock, catalog.routing)

    def succeeded(self, attempt: Attempt) -> None:
        self._health.succeeded(attempt.deployment)

    async def settle(self, grant: Grant, attempt: Attempt, *, failed: bool = False) -> None:
        """Replace the reservation by what was used; a failure without an answer used nothing that we know of."""
        unanswered = failed and attempt.usage is None and not attempt.characters
        await self._limiter.settle(grant, 0 if unanswered else attempt.best_usage().total)
        said = hints.rate_headers(attempt.headers)
        if said is not None:
            limits = Limits(rpm=said.limit_requests, tpm=said.limit_tokens)
            await self._limiter.learn(grant, limits, said.remaining_requests, said.remaining_tokens)

    async def give_back(self, grant: Grant) -> None:
        """The key was granted and not used."""
        with suppress(errors.Unavailable):  # else the lease ends by itself
            await self._limiter.settle(grant, 0)

    def next_step(self, attempt: Attempt, error: AppError) -> Again | GiveUp:
        """Retry, go on to the next leg, or tell the client."""
        job = self._with_special_fallbacks(attempt.job, error)
        decision: retry.Decision = retry.GiveUp()
        if not attempt.committed:
            decision = retry.after(
                error,
                job,
                alternatives=len(job.current.deployments) - 1,
                remaining=job.deadline - self._clock.now(),
                jitter=random.random(),
            )
        match decision:
            case retry.Retry(delay, counted):
                delay = max(delay, self._catalog.routing.retry_after)
                successor = job.next_retry(avoid=attempt.deployment.id)
                return Again(successor if counted else replace(successor, retries=job.retries), delay)
            case retry.NextLeg():
                return Again(replace(job.next_leg(), cause=job.cause or error.to_wire()), 0.0)
            case retry.GiveUp():
                return GiveUp(errors.from_wire(job.cause) if job.cause else error)

    def _with_special_fallbacks(self, job: Job, error: AppError) -> Job:
        """Groups that the config names for exactly this error come before the general fallbacks."""
        group, here = job.current.group, job.leg + 1
        # Not those that the key may not call, and none twice: two groups that name each other would never end.
        barred = {*job.barred, *(leg.group for leg in job.route[:here])}
        if isinstance(error, errors.UpstreamContextWindowExceeded):
            legs = self._catalog.legs_for(self._catalog.context_window_fallbacks(group))
            named = tuple(leg for leg in legs if leg.group not in barred)
            return replace(job, route=(*job.route[:here], *named, *job.route[here:])) if named else job
        if isinstance(error, errors.UpstreamContentPolicy):
            # A refusal is not routed around, unless the config says where to.
            legs = self._catalog.legs_for(self._catalog.content_policy_fallbacks(group))
            named = tuple(leg for leg in legs if leg.group not in barred)
            return replace(job, route=(*job.route[:here], *named))
        return job

    async def note_health(self, attempt: Attempt, grant: Grant, error: AppError) -> None:
        """Rest the key if it needs it."""
        deployment = attempt.deployment
        if deployment.provider != attempt.job.provider:
            return  # a `mock_response`, which any client may send: it says nothing of the key
        if isinstance(error, errors.UpstreamAuthentication | errors.UpstreamQuotaExhausted):
            log.error(
                "the provider refused a key; it is out of use for a while",
                provider=deployment.provider,
                deployment=deployment.id,
                seconds=_BURIAL,
                status=error.status,
            )
            await self._limiter.bury(deployment.credential, _BURIAL)
            return
        lonely = len(attempt.job.route) == 1 and len(attempt.job.current.deployments) == 1
        cooldown = self._health.failed(deployment, error, lonely=lonely)
        if cooldown > 0:
            await self._limiter.cool_down(grant.bucket, cooldown)
