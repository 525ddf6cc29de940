"""The limiter of the embedded profile: one process, the same algorithm as on Redis."""

from collections.abc import Sequence
from typing import Self

from broker.interfaces import BucketState, Candidate, Grant, Limits, Refusal
from broker.limits.token_bucket import MAX_COOLDOWN, Bucket, Wait, shortest
from shared.clock import Clock, SystemClock

_SWEEP_AT = 10_000  # buckets, or dead keys, after which those nobody needs any more are looked for
_FOREVER = float("inf")


def connect(url: str = "memory://", *, clock: Clock | None = None) -> "MemoryLimiter":
    return MemoryLimiter(clock or SystemClock())


class MemoryLimiter:
    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._buckets: dict[str, Bucket] = {}
        self._dead: dict[str, float] = {}  # credential -> until when
        self._sweep_at = _SWEEP_AT

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return

    async def take(self, lease: str, candidates: Sequence[Candidate], *, lease_ttl: float = 660.0) -> Grant | Refusal:
        now = self._now()
        waits = []
        for candidate in candidates:
            if self._dead.get(candidate.credential, -_FOREVER) > now:
                waits.append(Wait(_FOREVER, "dead"))
                continue
            taken = self._bucket(candidate.bucket, now).take(lease, candidate, now, lease_ttl)
            if not isinstance(taken, Wait):
                return Grant(candidate.deployment, candidate.bucket, lease, taken.reserved, taken.limits)
            waits.append(taken)
        first = shortest(waits)
        return Refusal(first.seconds, first.reason)

    async def settle(self, grant: Grant, tokens: int | None) -> None:
        now = self._now()
        self._bucket(grant.bucket, now).settle(grant.lease, grant.reserved, tokens, now)

    async def learn(
        self, grant: Grant, limits: Limits, remaining_requests: int | None, remaining_tokens: int | None
    ) -> None:
        now = self._now()
        self._bucket(grant.bucket, now).learn(limits, remaining_requests, remaining_tokens, now)

    async def cool_down(self, bucket: str, seconds: float) -> None:
        now = self._now()
        self._bucket(bucket, now).cool_down(min(max(seconds, 0.0), MAX_COOLDOWN), now)

    async def bury(self, credential: str, seconds: float) -> None:
        now = self._now()
        if seconds <= 0:
            self._dead.pop(credential, None)
            return
        if len(self._dead) >= _SWEEP_AT:
            self._dead = {name: until for name, until in self._dead.items() if until > now}
        self._dead[credential] = now + seconds

    async def state(self, buckets: Sequence[str]) -> list[BucketState]:
        now = self._now()
        return [self._buckets.get(name, Bucket()).state(name, now) for name in buckets]

    async def dead(self, credentials: Sequence[str]) -> frozenset[str]:
        now = self._now()
        return frozenset(each for each in credentials if self._dead.get(each, -_FOREVER) > now)

    async def ping(self) -> None:
        return

    def _bucket(self, name: str, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            bucket = self._buckets[name] = Bucket()
        return bucket

    def _sweep(self, now: float) -> None:
        """Forget buckets that nothing has touched for as long as Redis would keep them."""
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if not bucket.forgettable(now)}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._buckets))
