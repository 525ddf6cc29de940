"""Whose turn it is: start-time fair queueing between tenants. Pure: no clock, no I/O."""

from collections.abc import Collection
from heapq import heapify, heappop, heappush, nlargest, nsmallest
from itertools import count

_MOST_IDLE = 10_000  # idle tenants remembered; forgetting one costs it nothing and may spare it a debt of one job


class FairOrder:
    """Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for Integrated
    Services Packet Switching Networks", 1996), with tenants as flows and estimated tokens as lengths.

    A job's start tag is the larger of the virtual time at which its tenant became busy and the finish tag of the
    tenant's job before; its finish tag is that plus its weight. The least start tag goes first, and becomes the virtual
    time. So over any interval in which two tenants wait, the weights released for them differ by at most the largest
    weight of the one plus the largest of the other, whatever came before: who was idle has saved nothing up, and
    who was served alone owes at most its last job.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self._starts: dict[str, float] = {}
        """Start tag of the next job of each tenant that waits."""
        self._debts: dict[str, float] = {}
        """Finish tags, over the virtual time, of tenants that do not wait."""
        self._turns: list[tuple[float, int, str]] = []
        self._arrivals = count()

    def waiting(self, tenants: Collection[str]) -> None:
        """These tenants have jobs, and no others. Call it whenever that may have changed."""
        present = set(tenants)
        for tenant in [each for each in self._starts if each not in present]:
            self._debts[tenant] = self._starts.pop(tenant)
        for tenant in tenants:
            if tenant not in self._starts:
                self._starts[tenant] = max(self._virtual, self._debts.pop(tenant, 0.0))
                self._enqueue(tenant)
        self._forget()

    def next(self) -> str | None:
        """The tenant whose job goes next; None when nobody waits."""
        while self._turns:
            start, _, tenant = self._turns[0]
            if self._starts.get(tenant) == start:
                return tenant
            heappop(self._turns)  # it left, and perhaps came back
        return None

    def first(self, limit: int) -> list[str]:
        """The tenants with the `limit` least start tags, least first."""
        return nsmallest(limit, self._starts, key=self._starts.__getitem__)

    def released(self, tenant: str, weight: float) -> None:
        """A job of `weight` (over 0) of a waiting tenant went."""
        start = self._starts[tenant]
        self._virtual = max(self._virtual, start)
        self._starts[tenant] = start + weight
        self._enqueue(tenant)

    def returned(self, tenant: str, weight: float) -> None:
        """A job of a waiting tenant that had been released did not go after all: it owes nothing for it, and has saved
        nothing up."""
        self._starts[tenant] = max(self._starts[tenant] - weight, self._virtual)
        self._enqueue(tenant)

    def __len__(self) -> int:
        """Tenants that are remembered."""
        return len(self._starts) + len(self._debts)

    def _enqueue(self, tenant: str) -> None:
        heappush(self._turns, (self._starts[tenant], next(self._arrivals), tenant))
        if len(self._turns) > 2 * len(self._starts) + 16:  # those that left
            self._turns = [turn for turn in self._turns if self._starts.get(turn[2]) == turn[0]]
            heapify(self._turns)

    def _forget(self) -> None:
        if not self._starts:  # the end of a busy period: nobody owes anybody
            self._debts.clear()
            self._turns.clear()
            return
        self._debts = {tenant: finish for tenant, finish in self._debts.items() if finish > self._virtual}
        if len(self._debts) > _MOST_IDLE:
            self._debts = dict(nlargest(_MOST_IDLE, self._debts.items(), key=lambda debt: debt[1]))
