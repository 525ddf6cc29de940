"""Waits for a key: one Lua call over all candidates when there is room, a fair line in front of it when there is not.

Without the line, every refill would wake every waiting job and all but one would ask in vain.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import floor, inf

from broker.interfaces import Candidate, Grant, Limiter, Refusal
from shared.errors import Unavailable

SHORT_WAIT = 5.0  # seconds that a job may wait in memory; longer waits go through a delay level of the queue
_POLLS = {"parallel": 0.05, "tokens": 0.25}
"""Seconds between two looks, by reason: a slot, or tokens that were reserved and not used, may come back on another
worker at any time, and nobody tells us."""
_SHORTEST_WAIT = 0.001  # seconds
_CROWD = 32  # jobs in one line


@dataclass(frozen=True, slots=True)
class Postponed:
    """No key is free soon: come back after `seconds` (inf: all are dead)."""

    seconds: float
    reason: str


class Turnstile:
    """Jobs that want the same set of buckets pass one after the other, in order of arrival."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._lines: dict[tuple[str, ...], _Line] = {}

    def crowded(self, candidates: Sequence[Candidate]) -> bool:
        """Whether so many jobs wait for these keys that this worker should take no more of them for a while."""
        line = self._lines.get(_name(candidates))
        return line is not None and line.waiting >= _CROWD

    async def enter(
        self, lease: str, candidates: Sequence[Candidate], *, patience: float, lease_ttl: float
    ) -> Grant | Postponed:
        """A grant for the first free candidate, waiting up to `SHORT_WAIT` for it at the head of the line.

        Raises `TimeoutError` when `patience` seconds went by, in the line and at its head together.
        """
        name = _name(candidates)
        line = self._lines.get(name)
        if line is None:
            # Nobody is waiting for these keys: ask right away, and stand in line only when refused.
            answer = await self._take(lease, candidates, lease_ttl)
            if isinstance(answer, Grant):
                return answer
            line = self._lines.setdefault(name, _Line())
        line.waiting += 1
        try:
            async with asyncio.timeout(patience), line.lock:
                return await self._wait_at_the_head(lease, candidates, min(patience, SHORT_WAIT), lease_ttl)
        finally:
            line.waiting -= 1
            if line.waiting == 0 and self._lines.get(name) is line:
                del self._lines[name]

    async def _wait_at_the_head(
        self, lease: str, candidates: Sequence[Candidate], patience: float, lease_ttl: float
    ) -> Grant | Postponed:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        while True:
            answer = await self._take(lease, candidates, lease_ttl)
            if isinstance(answer, Grant):
                return answer
            wait = _wait(answer)
            if loop.time() + wait > give_up:
                return Postponed(answer.wait if answer.reason != "parallel" else wait, answer.reason)
            await asyncio.sleep(wait)

    async def _take(self, lease: str, candidates: Sequence[Candidate], lease_ttl: float) -> Grant | Refusal:
        try:
            return await self._limiter.take(lease, candidates, lease_ttl=lease_ttl)
        except asyncio.CancelledError:
            # The answer on its way may be a grant, and whoever leaves gives it back.
            await asyncio.shield(self._give_back(lease, candidates))
            raise

    async def _give_back(self, lease: str, candidates: Sequence[Candidate]) -> None:
        """Settle the lease wherever it may be. Where the limit is not ours, neither is the reservation's size."""
        with suppress(Unavailable):  # else the lease ends by itself
            for each in candidates:
                tpm = each.limits.tpm
                reserved = 0 if tpm is None else min(each.tokens, floor(tpm))
                grant = Grant(each.deployment, each.bucket, lease, reserved, each.limits)
                await self._limiter.settle(grant, None if tpm is None else 0)


class _Line:
    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def _name(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(sorted(candidate.bucket for candidate in candidates))


def _wait(refusal: Refusal) -> float:
    if refusal.wait == inf:
        return inf
    wait = max(refusal.wait, _SHORTEST_WAIT)
    return min(wait, _POLLS.get(refusal.reason, wait))
