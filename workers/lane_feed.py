"""The next jobs of one batch lane: read from the store in pages, chosen in the order that is fair to tenants."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from broker.records import JobRecord
from broker.store_interfaces import Jobs
from shared.clock import Clock
from workers.fair_order import FairOrder
from workers.pace import Pace

_PAGE_STEPS = 2  # steps of the feeder that all tenants' pages together should last
_SMALLEST_PAGE = 16
_LARGEST_PAGE = 200
_FRESH = 2.0  # seconds; an older page does not know of jobs with more priority that came since
_LOW_WATER = 0.25  # of a page; with less left the next one is read while jobs are published
_MOST_BYTES = 8 * 1024 * 1024  # of request bodies in all pages of a lane, as far as their mean size tells
_TENANTS_AT_A_TIME = 16  # tenants whose pages are read before their turn
_READS_AT_A_TIME = 4  # the store has few connections, and others need them too


@dataclass(slots=True)
class _Page:
    jobs: deque[JobRecord]
    read_at: float
    """Monotonic seconds."""
    last: bool
    """The tenant had no more when it was read."""


class LaneFeed:
    """A copy of the head of the store's queue, which may be thrown away at any time. It holds a page for each tenant
    whose turn is near."""

    def __init__(self, provider: str, jobs: Jobs, clock: Clock) -> None:
        self.provider = provider
        self.pace = Pace()
        self._jobs = jobs
        self._clock = clock
        self._order = FairOrder()
        self._tenants: set[str] = set()
        self._held: dict[str, float] = {}
        """Until when (monotonic seconds) tenants wait that are at a limit."""
        self._pages: dict[str, _Page] = {}
        self._mean_bytes = 0.0
        self._step = 0

    def waiting(self, tenants: Collection[str]) -> None:
        """These tenants have queued jobs for the lane, and no others."""
        self._tenants = set(tenants)
        self._line_up()
        self._pages = {tenant: page for tenant, page in self._pages.items() if tenant in self._tenants}

    def forget(self) -> None:
        """The copy is wrong: jobs went back to the queue."""
        self._pages.clear()

    async def choose(self, limit: int) -> list[JobRecord]:
        """At most `limit` jobs, in the order in which they should go. Fewer when that order asks for a page that is not
        there yet; none when nothing is queued."""
        self._step = limit
        if self._held:
            self._line_up()
        await self._read([tenant for tenant in self._soon() if not self._usable(tenant)])
        chosen: list[JobRecord] = []
        while len(chosen) < limit and (tenant := self._order.next()) is not None:
            page = self._pages.get(tenant)
            if page is None or not page.jobs:
                if page is not None and page.last:
                    self._leave(tenant)
                elif chosen:
                    break
                else:
                    await self._read([tenant])
                continue
            record = page.jobs.popleft()
            self._order.released(tenant, record.weight)
            chosen.append(record)
        return chosen

    def hold(self, tenant: str, records: Sequence[JobRecord], seconds: float) -> None:
        """The tenant waits for so long; these of its jobs were chosen just now and go first then."""
        self.dropped(records)
        now = self._clock.monotonic()
        page = self._pages.setdefault(tenant, _Page(deque(), now, last=False))
        page.jobs.extendleft(reversed(records))
        self._tenants.add(tenant)
        self._held[tenant] = now + seconds
        self._line_up()

    def dropped(self, records: Iterable[JobRecord]) -> None:
        """These were chosen just now and do not go: they cost their tenants nothing."""
        for record in records:
            if record.job.tenant not in self._tenants:  # its last job was chosen
                self._tenants.add(record.job.tenant)
                self._line_up()
            self._order.returned(record.job.tenant, record.weight)

    @property
    def wait(self) -> float:
        """Seconds until the next look at the lane."""
        now = self._clock.monotonic()
        return min([self.pace.wait, *(max(until - now, 0.0) for until in self._held.values())])

    async def read_ahead(self) -> None:
        """Have the next pages ready. What was chosen must have left the store's queue already."""
        low = self._size() * _LOW_WATER
        await self._read([tenant for tenant in self._soon() if self._left(tenant) < low])

    def _soon(self) -> list[str]:
        return self._order.first(_TENANTS_AT_A_TIME)

    def _usable(self, tenant: str) -> bool:
        page = self._pages.get(tenant)
        return page is not None and (page.last or bool(page.jobs)) and self._clock.monotonic() - page.read_at <= _FRESH

    def _left(self, tenant: str) -> float:
        """Jobs of the tenant's page; unlimited when there are no more to be read."""
        page = self._pages.get(tenant)
        if page is None:
            return 0.0
        return float("inf") if page.last else len(page.jobs)

    async def _read(self, tenants: Iterable[str]) -> None:
        limit = self._size()
        gate = asyncio.Semaphore(_READS_AT_A_TIME)

        async def read(tenant: str) -> None:
            async with gate:
                records = await self._jobs.head(tenant, self.provider, limit)
            self._note_sizes(records)
            self._pages[tenant] = _Page(deque(records), self._clock.monotonic(), len(records) < limit)

        await asyncio.gather(*map(read, tenants))

    def _leave(self, tenant: str) -> None:
        """Its last job went; should more have come since, the next `waiting` says so."""
        self._tenants.discard(tenant)
        self._pages.pop(tenant, None)
        self._line_up()

    def _line_up(self) -> None:
        """Those that may go have their turns."""
        if self._held:
            now = self._clock.monotonic()
            self._held = {each: until for each, until in self._held.items() if until > now and each in self._tenants}
        self._order.waiting(self._tenants - self._held.keys())

    def _size(self) -> int:
        """Jobs to read at a time."""
        share = self._step * _PAGE_STEPS // max(len(self._tenants), 1)
        wanted = min(max(share, _SMALLEST_PAGE), _LARGEST_PAGE)
        pages = max(len(self._pages), 1)
        affordable = int(_MOST_BYTES / pages / self._mean_bytes) if self._mean_bytes else wanted
        return max(min(wanted, affordable), 1)

    def _note_sizes(self, records: list[JobRecord]) -> None:
        if not records:
            return
        mean = sum(len(record.job.body) for record in records) / len(records)
        self._mean_bytes = max(mean, (self._mean_bytes + mean) / 2)
