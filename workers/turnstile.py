"""Waits for a key: one Lua call over all candidates when there is room, a fair line in front of it when there is not.

Without the line, every refill would wake every waiting job and all but one would ask in vain.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from math import floor, inf

from broker import topology
from broker.interfaces import Candidate, Grant, Limiter, Limits, Refusal
from shared.errors import Unavailable
from shared.jobs import Lane
from shared.values import value
from workers.line import Line, Place, Standing

SHORT_WAIT = 5.0  # seconds that a job may wait in memory; longer waits go through a delay level of the queue
_POLLS = {"parallel": 0.05, "tokens": 0.25}
"""Seconds between two looks, by reason: a slot, or tokens that were reserved and not used, may come back on another
worker at any time, and nobody tells us."""
_SHORTEST_WAIT = 0.001  # seconds
_CROWD = 32  # jobs in one line
_REFILLED = ("requests", "tokens")
"""Reasons for which a key is free again by time alone: whoever asks in between takes from those who wait for it."""
_RETURN = 0.5  # seconds that a job from a delay level may need to be here again
_KEPT_SLOTS = 8
"""Of a key's parallel slots one in so many is kept for first jobs while such come: a slot is not given up early."""
_FIRSTS_COME = 10.0  # seconds since the last one


@value(frozen=True, slots=True)
class Postponed:
    """No key is free soon: come back after `seconds` (inf: all are dead)."""

    seconds: float
    reason: str


@value(frozen=True, slots=True)
class Belated:
    """A grant that the job had to wait for: another worker may have had a copy of the job meanwhile."""

    grant: Grant


class Turnstile:
    """Jobs that want the same set of buckets pass one after the other, in the order of `workers.line`."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._lines: dict[tuple[str, ...], Line] = {}
        # Both by the set of buckets, of which there are as many as the config makes.
        self._owed: dict[tuple[str, ...], float] = {}
        """Until when batch jobs leave what is refilled to an interactive job that will be back."""
        self._firsts: dict[tuple[str, ...], float] = {}
        """When the last first job came."""

    def crowded(self, candidates: Sequence[Candidate], standing: Standing) -> bool:
        """Whether so many jobs wait for these keys, before this one or beside it, that this worker should take no more
        of its kind for a while. First jobs are always taken: each tenant has few."""
        return not standing.first and self._waiting(candidates, standing.lane) >= _CROWD

    def thinned(self, candidates: Sequence[Candidate], standing: Standing) -> bool:
        """Whether so few are left of a crowd that this worker should take more, or the key would soon be idle."""
        return self._waiting(candidates, standing.lane) < _CROWD // 2

    def expect(self, buckets: Collection[str], postponed: Postponed, delay: float) -> None:
        """A postponed interactive job comes back through a delay level of `delay` seconds: until then batch jobs leave
        it what is refilled, or it would find nothing each time."""
        if postponed.reason in _REFILLED:
            back = topology.delay_level_ms(delay) / 1000 + _RETURN
            self._owed[_name(buckets)] = asyncio.get_running_loop().time() + back

    def freed(self, bucket: str) -> None:
        """An attempt of this worker is over: a slot of the bucket, and tokens that it had reserved, may be free."""
        for name, line in self._lines.items():
            if bucket in name:
                _wake_first(line)

    async def enter(
        self, lease: str, candidates: Sequence[Candidate], *, standing: Standing, patience: float, lease_ttl: float
    ) -> Grant | Belated | Postponed:
        """A grant for the first free candidate, waiting up to `SHORT_WAIT` for it at the head of the line.

        Raises `TimeoutError` when `patience` seconds went by, in the line and at its head together.
        """
        name = _name_of(candidates)
        if standing.first:
            self._firsts[name] = asyncio.get_running_loop().time()
        visit = _Visit(name, lease, candidates, standing, lease_ttl)
        line = self._lines.get(name)
        if line is None:
            # Nobody is waiting for these keys: ask right away, and stand in line only when refused.
            answer = await self._ask(visit)
            if isinstance(answer, Grant | Postponed):
                return answer
            line = self._lines.setdefault(name, Line())
        place = line.join(standing)
        cost = 0.0
        try:
            async with asyncio.timeout(patience):
                waited = await self._wait(line, place, visit, min(patience, SHORT_WAIT))
            if isinstance(waited, Belated):
                cost = max(candidates[0].tokens, 1)
            return waited
        finally:
            line.leave(place, cost)
            _wake_first(line)
            if not line and self._lines.get(name) is line:
                del self._lines[name]

    def _waiting(self, candidates: Sequence[Candidate], lane: Lane) -> int:
        """Jobs that wait for these keys, before a job of the lane or beside it."""
        line = self._lines.get(_name_of(candidates))
        if line is None:
            return 0
        return line.waiting(Lane.INTERACTIVE) if lane is Lane.INTERACTIVE else line.waiting(*Lane)

    async def _wait(self, line: Line, place: Place, visit: "_Visit", patience: float) -> Belated | Postponed:
        loop = asyncio.get_running_loop()
        give_up: float | None = None
        while True:
            place.woken.clear()
            if line.first() is not place:
                await place.woken.wait()
                continue
            give_up = give_up or loop.time() + patience
            answer = await self._ask(visit)
            if isinstance(answer, Grant):
                return Belated(answer)
            if isinstance(answer, Postponed):
                return answer
            wait = _wait(answer)
            if loop.time() + wait > give_up:
                return Postponed(answer.wait if answer.reason != "parallel" else wait, answer.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await place.woken.wait()

    async def _ask(self, visit: "_Visit") -> Grant | Refusal | Postponed:
        candidates = visit.candidates
        if visit.standing.lane is Lane.BATCH and (owed := self._left(self._owed, visit.name, 0.0)) > 0:
            return Postponed(owed, "interactive")
        if not visit.standing.first and self._left(self._firsts, visit.name, _FIRSTS_COME) > 0:
            candidates = [_narrowed(each) for each in candidates]
        answer = await self._take(visit.lease, candidates, visit.lease_ttl)
        if isinstance(answer, Grant) and visit.standing.lane is Lane.INTERACTIVE:
            self._owed.pop(visit.name, None)
        return answer

    def _left(self, times: dict[tuple[str, ...], float], name: tuple[str, ...], after: float) -> float:
        """Seconds until `after` seconds after that time; 0 when it is over, and then it is forgotten."""
        at = times.get(name)
        if at is None:
            return 0.0
        left = at + after - asyncio.get_running_loop().time()
        if left <= 0:
            del times[name]
        return max(left, 0.0)

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


@value(frozen=True, slots=True)
class _Visit:
    name: tuple[str, ...]
    lease: str
    candidates: Sequence[Candidate]
    standing: Standing
    lease_ttl: float


def _wake_first(line: Line) -> None:
    first = line.first()
    if first is not None:
        first.woken.set()


def _name_of(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    return _name([candidate.bucket for candidate in candidates])


def _name(buckets: Collection[str]) -> tuple[str, ...]:
    return tuple(buckets) if len(buckets) == 1 else tuple(sorted(set(buckets)))


def _narrowed(candidate: Candidate) -> Candidate:
    """As jobs see it for which the last slots are not."""
    parallel = candidate.limits.parallel
    if parallel is None or parallel < _KEPT_SLOTS:
        return candidate
    limits = Limits(candidate.limits.rpm, candidate.limits.tpm, parallel - parallel // _KEPT_SLOTS)
    return Candidate(candidate.deployment, candidate.bucket, candidate.credential, limits, candidate.tokens)


def _wait(refusal: Refusal) -> float:
    if refusal.wait == inf:
        return inf
    wait = max(refusal.wait, _SHORTEST_WAIT)
    return min(wait, _POLLS.get(refusal.reason, wait))
