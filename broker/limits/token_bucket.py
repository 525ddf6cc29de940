"""The token bucket: how full it is, whether an attempt may go, and how long it must wait. Pure; time is an argument.

`buckets.lua` is the same algorithm on Redis, operation by operation, so that both give equal answers to the last bit.

A bucket fills at PACE of its limit. For requests it holds the share that PACE leaves over, so that the burst and a
minute's refill together stay within the limit however the vendor counts; under a slow limit it holds a few more, up to
five, because an agent's parallel calls come together. For tokens it holds the whole minute's limit, so that one large
request fits.
An empty server therefore forgets little: after a restart at most one burst goes out that should have waited.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.interfaces import BucketState, Candidate, Limits

PACE = 0.99
"""Share of the limit that is handed out: 1 % under it, clock jitter never tips the provider's own window over."""
BURST_REQUESTS = 0.01  # of a minute's requests: what PACE leaves over
SMALL_BURST, SMALL_BURST_SHARE = 5.0, 0.1
"""Requests that may go at once under any limit, and the most of a minute's requests that this may be."""
LEARNED_TTL = 3600.0
"""Seconds that a limit learnt from a provider's headers is believed without being seen again."""
PARALLEL_RETRY = 0.25
"""Seconds to wait for a parallel slot: one frees when its holder is done, which nobody can foretell."""
MAX_COOLDOWN = 3600.0  # seconds
_SLACK = 2e-6
"""Seconds: whoever waits exactly as long as it was told is not refused over a rounding error. Seconds since the epoch
have a resolution of 0.24 us in a double."""


@dataclass(slots=True)
class Bucket:
    at: float = 0.0
    """When the balances were last brought up to date; they grow from there."""
    requests: float | None = None
    tokens: float | None = None
    configured: Limits = field(default_factory=Limits)
    """What the config gave for the latest attempt."""
    learned: Limits = field(default_factory=Limits)
    """What the provider said of the limits that the config does not give."""
    learned_at: float = -math.inf
    cooldown_until: float = -math.inf
    leases: dict[str, float] = field(default_factory=dict)
    """Lease -> when it expires."""
    lapse: float = math.inf
    """No lease expires before."""

    def refill(self, limits: Limits, now: float) -> None:
        elapsed = max(0.0, now - self.at)
        self.requests = _level(self.requests, request_capacity(limits.rpm), limits.rpm, elapsed)
        self.tokens = _level(self.tokens, token_capacity(limits.tpm), limits.tpm, elapsed)
        self.at = max(self.at, now)

    def limits(self, configured: Limits, now: float) -> Limits:
        """The configured limits, and where there is none what was learnt."""
        if now - self.learned_at >= LEARNED_TTL:
            return configured
        return Limits(
            rpm=configured.rpm if configured.rpm is not None else self.learned.rpm,
            tpm=configured.tpm if configured.tpm is not None else self.learned.tpm,
            parallel=configured.parallel,
        )

    def in_flight(self, now: float) -> int:
        return sum(expiry > now for expiry in self.leases.values())

    def take(self, lease: str, candidate: Candidate, now: float, lease_ttl: float) -> "Taken | Wait":
        """All that the candidate needs or nothing; nothing is changed by a `Wait`."""
        limits = self.limits(candidate.limits, now)
        rpm, tpm, parallel = limits.rpm, limits.tpm, limits.parallel
        reserved = reservation(candidate.tokens, tpm)
        elapsed = max(0.0, now - self.at)
        requests = _level(self.requests, request_capacity(rpm), rpm, elapsed)
        tokens = _level(self.tokens, token_capacity(tpm), tpm, elapsed)
        waits = (
            max(0.0, self.cooldown_until - now),
            _wait(requests, 1, rpm),
            _wait(tokens, reserved, tpm),
            self._wait_for_slot(parallel, now),
        )
        longest = max(waits)
        if longest > 0:
            return Wait(longest, _REASONS[waits.index(longest)])
        if rpm is not None or tpm is not None or parallel is not None:
            self.configured = candidate.limits
            self.requests = None if requests is None else requests - 1
            self.tokens = None if tokens is None else tokens - reserved
            self.at = max(self.at, now)
            self._forget_expired(now)
            self.leases[lease] = now + lease_ttl
            self.lapse = min(self.lapse, now + lease_ttl)
        return Taken(limits, reserved)

    def settle(self, lease: str, reserved: int, tokens: int | None, now: float) -> None:
        expiry = self.leases.get(lease, -math.inf)
        if expiry <= now:
            return
        del self.leases[lease]
        if tokens is None:
            return
        limits = self.limits(self.configured, now)
        self.refill(limits, now)
        if limits.tpm is not None and self.tokens is not None:
            self.tokens = min(token_capacity(limits.tpm), self.tokens + (reserved - tokens))

    def learn(self, limits: Limits, requests: int | None, tokens: int | None, now: float) -> None:
        known = self.limits(Limits(), now)
        rpm = limits.rpm if limits.rpm is not None else known.rpm
        tpm = limits.tpm if limits.tpm is not None else known.tpm
        if limits.rpm is not None or limits.tpm is not None:
            self.learned, self.learned_at = Limits(rpm=rpm, tpm=tpm), now
        self.refill(self.limits(self.configured, now), now)
        if requests is not None and self.requests is not None:
            self.requests = min(self.requests, float(requests))
        if tokens is not None and self.tokens is not None:
            self.tokens = min(self.tokens, float(tokens))

    def cool_down(self, seconds: float, now: float) -> None:
        self.cooldown_until = max(self.cooldown_until, now + seconds)

    def forgettable(self, now: float) -> bool:
        """Untouched for so long that it is as good as a new one."""
        idle = now - max(self.at, self.learned_at, self.cooldown_until) > LEARNED_TTL
        full = all(balance is None or balance >= 0 for balance in (self.requests, self.tokens))
        return idle and full and not self.in_flight(now)

    def state(self, name: str, now: float) -> BucketState:
        limits = self.limits(self.configured, now)
        elapsed = max(0.0, now - self.at)
        used = self.requests is not None or self.tokens is not None
        return BucketState(
            bucket=name,
            requests=_level(self.requests, request_capacity(limits.rpm), limits.rpm, elapsed) if used else None,
            tokens=_level(self.tokens, token_capacity(limits.tpm), limits.tpm, elapsed) if used else None,
            in_flight=self.in_flight(now),
            cooldown=max(0.0, self.cooldown_until - now),
            limits=Limits(rpm=limits.rpm, tpm=limits.tpm),
        )

    def _forget_expired(self, now: float) -> None:
        if now >= self.lapse:
            self.leases = {name: expiry for name, expiry in self.leases.items() if expiry > now}
            self.lapse = min(self.leases.values(), default=math.inf)

    def _wait_for_slot(self, parallel: int | None, now: float) -> float:
        # Counting the live ones takes a look at each: only when all together could be too many.
        if parallel is None or len(self.leases) < parallel or self.in_flight(now) < parallel:
            return 0.0
        return PARALLEL_RETRY if parallel > 0 else math.inf


_REASONS = ("cooldown", "requests", "tokens", "parallel")
"""Why a job must wait, in the order of the waits in `Bucket.take`."""


class Taken(NamedTuple):
    limits: Limits
    """The limits that applied, learnt ones included."""
    reserved: int
    """Tokens."""


class Wait(NamedTuple):
    seconds: float
    reason: str


def request_capacity(rpm: float | None) -> float:
    return 0.0 if rpm is None else max(1.0, min(SMALL_BURST, rpm * SMALL_BURST_SHARE), rpm * BURST_REQUESTS)


def token_capacity(tpm: float | None) -> float:
    return 0.0 if tpm is None else tpm


def reservation(tokens: int, tpm: float | None) -> int:
    """Tokens to reserve: clamped, or a request larger than the bucket would wait for ever."""
    return tokens if tpm is None else min(tokens, math.floor(tpm))


def shortest(waits: Sequence[Wait]) -> Wait:
    """The wait that ends first, the first one among equals; in whole microseconds, rounded up."""
    best = min(waits, key=lambda wait: wait.seconds, default=Wait(math.inf, "dead"))
    seconds = best.seconds if math.isinf(best.seconds) else math.ceil(best.seconds * 1e6) / 1e6
    return Wait(seconds, best.reason)


def _level(balance: float | None, capacity: float, per_minute: float | None, elapsed: float) -> float | None:
    if per_minute is None:
        return None
    if balance is None:
        return capacity  # a bucket starts full
    return min(capacity, balance + elapsed * (PACE * per_minute / 60))


def _wait(balance: float | None, needed: int, per_minute: float | None) -> float:
    if balance is None or per_minute is None:
        return 0.0
    if per_minute <= 0:
        return math.inf  # a limit of zero closes the bucket
    wait = (needed - balance) / (PACE * per_minute / 60)
    return 0.0 if wait <= _SLACK else wait
