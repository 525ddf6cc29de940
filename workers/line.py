"""The order of a line: interactive jobs before batch jobs, tenants fairly, each tenant's own by arrival."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from shared.jobs import FIRST, Job, Lane
from shared.values import value
from workers.fair_order import FairOrder


@value(frozen=True, slots=True)
class Standing:
    """What decides about a job's place in a line."""

    lane: Lane
    tenant: str
    first: bool
    """It is interactive, and of a tenant that has little under way."""


def standing(job: Job) -> Standing:
    interactive = job.lane is Lane.INTERACTIVE
    return Standing(job.lane, job.tenant, interactive and job.precedence >= FIRST)


@dataclass(eq=False, slots=True)
class Place:
    standing: Standing
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever has news for the job in this place."""


class Line:
    """Start-time fair queueing between the tenants of each lane, as the feeder does it for batches."""

    def __init__(self) -> None:
        self._orders = {lane: FairOrder() for lane in Lane}
        self._places: dict[Lane, dict[str, deque[Place]]] = {lane: {} for lane in Lane}
        self._counts = dict.fromkeys(Lane, 0)

    def join(self, standing: Standing) -> Place:
        place = Place(standing)
        places = self._places[standing.lane]
        if standing.tenant not in places:
            places[standing.tenant] = deque()
            self._orders[standing.lane].waiting(places)
        places[standing.tenant].append(place)
        self._counts[standing.lane] += 1
        return place

    def first(self) -> Place | None:
        """Whose turn it is; None in an empty line."""
        for lane in (Lane.INTERACTIVE, Lane.BATCH):
            tenant = self._orders[lane].next()
            if tenant is not None:
                return self._places[lane][tenant][0]
        return None

    def leave(self, place: Place, cost: float = 0.0) -> None:
        """`cost` is what was granted, in tokens; 0 when nothing was."""
        lane, tenant = place.standing.lane, place.standing.tenant
        places = self._places[lane]
        places[tenant].remove(place)
        self._counts[lane] -= 1
        if cost > 0:
            self._orders[lane].released(tenant, cost)
        if not places[tenant]:
            del places[tenant]
            self._orders[lane].waiting(places)

    def waiting(self, *lanes: Lane) -> int:
        return sum(self._counts[lane] for lane in lanes)

    def __bool__(self) -> bool:
        return any(self._counts.values())
