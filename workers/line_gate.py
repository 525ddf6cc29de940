"""The line gate: lines of batches, and what else waits in the store, pass their key's limits and budgets when they are
released. A line that is over a limit is no failure: it waits where it is, and its tenant's others with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from broker.gate import Gate
from broker.policies import Policy
from broker.records import JobRecord
from broker.store_interfaces import Jobs
from shared import token_estimates
from shared.clock import Clock
from shared.errors import AppError, LimitExceeded, Unavailable
from shared.jobs import Ending, Job, JobState

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Held:
    records: list[JobRecord]
    """In the order in which they should go."""
    seconds: float
    """Until the first of them may."""


@dataclass(slots=True)
class Sorted:
    """What becomes of jobs that are to be released."""

    go: list[JobRecord] = field(default_factory=list)
    """With the accounts that they were admitted to."""
    held: dict[str, Held] = field(default_factory=dict)
    """By tenant."""
    ended: list[JobRecord] = field(default_factory=list)
    """In the store they are errors now."""


class LineGate:
    """Jobs of keys without limits pass for nothing: a key is looked up once for all its jobs of a step."""

    def __init__(self, gate: Gate, jobs: Jobs, clock: Clock) -> None:
        self._gate = gate
        self._jobs = jobs
        self._clock = clock

    async def sort(self, records: Sequence[JobRecord]) -> Sorted:
        """Raises `Unavailable`, having given back what was taken."""
        result = Sorted()
        policies: dict[str, Policy | AppError] = {}
        endings: list[Ending] = []
        try:
            for record in records:
                job = record.job
                if (held := result.held.get(job.tenant)) is not None:
                    held.records.append(record)
                    continue
                if job.key not in policies:
                    policies[job.key] = await self._policy(job.key)
                verdict = await self._verdict(record, policies[job.key])
                match verdict:
                    case Job():
                        result.go.append(record if verdict is job else replace(record, job=verdict))
                    case float() | int():
                        result.held[job.tenant] = Held([record], verdict)
                    case AppError():
                        result.ended.append(record)
                        endings.append(self._ending(job, verdict))
            if endings:
                await self._jobs.end(endings)
        except Unavailable:
            await self.leave(result.go)
            raise
        return result

    async def leave(self, records: Sequence[JobRecord]) -> None:
        """They did not go after all. What accounts that are away keep, the same jobs find when they come again."""
        for record in records:
            if record.job.accounts:
                try:
                    await self._gate.leave(record.job)
                except Unavailable as error:
                    log.warning("lines_not_given_back", reason=error.message)
                    return

    async def _policy(self, key: str) -> Policy | AppError:
        """An error: the key may not be used (any more)."""
        try:
            return await self._gate.policies.look_up(key)
        except Unavailable:
            raise
        except AppError as error:
            return error

    async def _verdict(self, record: JobRecord, policy: Policy | AppError) -> Job | float | AppError:
        """The job as it goes, the seconds that it has to wait, or why it ends."""
        job = record.job
        if isinstance(policy, AppError):
            return policy
        if not policy.limited and not job.customer:
            return job
        prompt = token_estimates.prompt_tokens(job.body)
        try:
            return await self._gate.enter(job, policy, tokens=prompt, output=max(record.weight - prompt, 0))
        except LimitExceeded as error:
            return error if error.retry_after is None else error.retry_after
        except Unavailable:
            raise
        except AppError as error:
            return error

    def _ending(self, job: Job, error: AppError) -> Ending:
        return Ending(job.id, JobState.FAILED, self._clock.now(), attempts=0, error=error.to_wire())
