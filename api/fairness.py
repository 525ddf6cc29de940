"""How much each tenant has under way at this api, and which precedence its next job gets for it.

Whoever floods the interactive lane stands behind everybody who does not: with few jobs under way a tenant goes first,
and the more it has, the lower are its next ones. A tenant that is alone notices nothing: its own jobs keep their order.
"""

from math import inf

from shared.clock import Clock
from shared.jobs import FIRST, Job, Lane

_FEWER_THAN = (inf, 256, 64, 16)
"""By precedence, how many jobs a tenant that has it must stay under; the new one is not counted. Models take seconds:
whoever asks once a second has about ten under way all the time, and is no flood."""

_CALM_BELOW = (128, 32, 8, 0)
"""With fewer than so many, half the bound of the next precedence, a tenant may rise to it."""

CALM = 5.0
"""Seconds for which it must have had so few: what it sends next must not overtake what it sent before, and a flood in
bursts is a flood."""

_MOST_RESTING = 10_000
"""Tenants remembered that have nothing under way; those that have rested longest are forgotten first."""


class Seat:
    """One job under way."""

    __slots__ = ("_outstanding", "_tenant", "precedence")

    def __init__(self, outstanding: "Outstanding", tenant: str, precedence: int) -> None:
        self._outstanding: Outstanding | None = outstanding
        self._tenant = tenant
        self.precedence = precedence

    def leave(self) -> None:
        """The job has ended, or nobody waits for it any more. Safe to call twice."""
        if self._outstanding is not None:
            self._outstanding.leave(self._tenant)
            self._outstanding = None


class _Tenant:
    __slots__ = ("calm_since", "jobs", "precedence")

    def __init__(self) -> None:
        self.jobs = 0
        self.precedence = FIRST
        self.calm_since: float | None = None


class Outstanding:
    """Interactive jobs under way, counted by tenant."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._tenants: dict[str, _Tenant] = {}
        self._resting: dict[str, float] = {}
        """Until when tenants are remembered that have nothing under way and whose precedence is not the highest again;
        in the order in which they are forgotten."""

    def precedence(self, tenant: str) -> int:
        """Of the tenant's next job."""
        found = self._tenants.get(tenant)
        if found is None:
            return FIRST
        if found.jobs >= _FEWER_THAN[found.precedence]:
            while found.jobs >= _FEWER_THAN[found.precedence]:
                found.precedence -= 1
            found.calm_since = None
        elif found.jobs < _CALM_BELOW[found.precedence]:
            self._rise(found)
        else:
            found.calm_since = None
        return found.precedence

    def take(self, job: Job) -> Seat | None:
        """A seat for an interactive job that is about to be published; others need none."""
        if job.lane is not Lane.INTERACTIVE:
            return None
        tenant = job.tenant
        precedence = self.precedence(tenant)
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = _Tenant()
        found.jobs += 1
        self._resting.pop(tenant, None)
        return Seat(self, tenant, precedence)

    def leave(self, tenant: str) -> None:
        found = self._tenants[tenant]
        found.jobs -= 1
        if found.calm_since is None and found.jobs < _CALM_BELOW[found.precedence]:
            found.calm_since = self._now()
        if not found.jobs:
            if found.precedence == FIRST:
                del self._tenants[tenant]
            else:
                self._rest(tenant)

    def __len__(self) -> int:
        """Tenants that are remembered."""
        return len(self._tenants)

    def _rise(self, tenant: _Tenant) -> None:
        now = self._now()
        since = now if tenant.calm_since is None else tenant.calm_since
        while tenant.jobs < _CALM_BELOW[tenant.precedence] and now - since >= CALM:
            tenant.precedence += 1
            since += CALM
        tenant.calm_since = since

    def _rest(self, tenant: str) -> None:
        now = self._now()
        self._resting[tenant] = now + FIRST * CALM
        while len(self._resting) > _MOST_RESTING or next(iter(self._resting.values())) <= now:
            oldest = next(iter(self._resting))
            del self._resting[oldest], self._tenants[oldest]
