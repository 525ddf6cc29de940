"""The key desk: which deployments may serve a job, in which order, and the wait for one of their keys."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from broker.interfaces import Candidate, Grant, Limits
from shared import token_estimates
from shared.catalog import Catalog, Deployment
from shared.jobs import Job, Lane
from workers import preparation
from workers.line import standing
from workers.run import Run
from workers.turnstile import Belated, Postponed, Turnstile

SHORTEST_POSTPONEMENT = 1.0  # seconds; a job that waited in memory in vain should not come back at once
_LEASE_MARGIN = 60.0  # seconds that a lease outlives its attempt's time limit
_CROWD_PAUSE = 0.5  # seconds without new jobs of a provider whose only line is long, so that other providers have room


class KeyDesk:
    def __init__(self, catalog: Catalog, turnstile: Turnstile, renew: Callable[[], Awaitable[None]]) -> None:
        """`renew` makes the catalog the newest that there is."""
        self._catalog = catalog
        self._renew = renew
        self._turnstile = turnstile
        self._crowds: set[tuple[str, Lane]] = set()  # paused, because a line is long
        self._rng = random.Random()

    async def deployments(self, job: Job) -> list[Deployment]:
        """The leg's deployments in the order to try them: weighted at random, the one that failed last at the end.
        Those that were removed since the job was accepted are left out; perhaps none is left. Raises `Unavailable`."""
        known = self._catalog.known(job.current.deployments)
        if not known:  # or they were added a moment ago, and the api heard of it first
            await self._renew()
            known = self._catalog.known(job.current.deployments)
        shuffled = self._catalog.shuffle(known, self._rng)
        return sorted(shuffled, key=lambda each: each.id == job.avoid) if job.avoid else shuffled

    async def enter(
        self, run: Run, deployments: Sequence[Deployment], request: Mapping[str, Any], patience: float
    ) -> Grant | Belated | Postponed:
        """A key for one of the deployments, or what `Turnstile.enter` says instead; waits for `patience` seconds at
        most."""
        prompt = token_estimates.prompt_tokens(run.job.body)
        candidates = [
            Candidate(
                deployment=each.id,
                bucket=each.bucket,
                credential=each.credential,
                limits=Limits(each.rpm, each.tpm, each.max_parallel_requests),
                tokens=prompt + preparation.most_output(request, each),
            )
            for each in deployments
        ]
        job, place = run.job, standing(run.job)
        if self._turnstile.crowded(candidates, place):
            if not self.alone(job):
                return Postponed(SHORTEST_POSTPONEMENT, "crowd")  # other models need this worker's slots
            self._crowds.add((job.provider, job.lane))
            await run.consumer.pause(job.provider, _CROWD_PAUSE, job.lane)
        answer = await self._turnstile.enter(
            f"{job.id}/{job.attempt}",
            candidates,
            standing=place,
            patience=patience,
            lease_ttl=max(each.timeout for each in deployments) + _LEASE_MARGIN,
        )
        if (job.provider, job.lane) in self._crowds and self._turnstile.thinned(candidates, place):
            self._crowds.discard((job.provider, job.lane))
            await run.consumer.pause(job.provider, 0.0, job.lane)
        return answer

    def alone(self, job: Job) -> bool:
        """Whether the provider's jobs all want the buckets of this one: only then may its whole lane wait with it."""
        mine = self.buckets(job)
        others = (each for each in self._catalog.connections() if each.provider == job.provider)
        return all(each.bucket in mine for each in others)

    def buckets(self, job: Job) -> set[str]:
        return {each.bucket for each in self._catalog.known(job.current.deployments)}
