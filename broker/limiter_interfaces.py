"""What providers allow: the seam of buckets for keys and models. Promises as in `broker.interfaces`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.values import value


@value(frozen=True, slots=True)
class Limits:
    """What one bucket allows. None means no limit of that kind."""

    rpm: float | None = None
    """Requests a minute."""
    tpm: float | None = None
    """Tokens a minute."""
    parallel: int | None = None
    """Requests at a time."""


@value(frozen=True, slots=True)
class Candidate:
    deployment: str
    bucket: str
    """Key and model that the provider meters together; deployments may share it."""
    credential: str
    """The provider key's fingerprint; a dead key takes all its deployments out."""
    limits: Limits
    tokens: int
    """Tokens to reserve; clamped to the bucket's capacity, so that a large request can pass when the bucket is full."""


@value(frozen=True, slots=True)
class Grant:
    """Permission for one attempt. Settle it on every exit path."""

    deployment: str
    bucket: str
    lease: str
    """Unique to this attempt: `<job id>/<attempt>`."""
    reserved: int
    limits: Limits


@value(frozen=True, slots=True)
class Refusal:
    """Nobody may go now. Nothing was written."""

    wait: float
    """Seconds until the first candidate could be granted; `inf` when all are dead."""
    reason: str
    """requests, tokens, parallel, cooldown or dead: what the candidate that is free first is waiting for."""


@dataclass(frozen=True, slots=True)
class BucketState:
    bucket: str
    requests: float | None
    tokens: float | None
    """Balances, refilled up to now; None when never used or not limited. Negative after an overshoot."""
    in_flight: int
    cooldown: float
    """Seconds left."""
    limits: Limits = field(default_factory=Limits)
    """In force for requests and tokens: those of the config, else those learnt."""


class Limiter(Protocol):
    async def take(self, lease: str, candidates: Sequence[Candidate], *, lease_ttl: float = 660.0) -> Grant | Refusal:
        """Grant the first candidate, in the order given, that is not dead, not cooling down, and whose bucket has a
        request, its tokens and a parallel slot: all of them or none. One atomic step on the server's clock for all
        processes. `lease_ttl` seconds after an attempt that was never settled, its slot frees itself."""
        ...

    async def settle(self, grant: Grant, tokens: int | None) -> None:
        """Give the slot back and replace the reserved tokens by those really used (None: keep the reservation, 0:
        refund all). A balance may become negative. Settling a lease twice, or one that expired, changes nothing."""
        ...

    async def learn(
        self,
        grant: Grant,
        limits: Limits,
        remaining_requests: int | None,
        remaining_tokens: int | None,
    ) -> None:
        """What the provider's `x-ratelimit-*` headers said. Limits that the config did not set are adopted; a lower
        `remaining` than our balance is believed, a higher one is not (other attempts are on their way)."""
        ...

    async def cool_down(self, bucket: str, seconds: float) -> None:
        """No process may use the bucket for so long (0 to 3,600 s; clamped). A longer cooldown in force is kept."""
        ...

    async def bury(self, credential: str, seconds: float) -> None:
        """The provider refused the key (401, 402, 403): nobody uses it for so long. 0 revives it."""
        ...

    async def state(self, buckets: Sequence[str]) -> list[BucketState]: ...

    async def dead(self, credentials: Sequence[str]) -> frozenset[str]:
        """Those of them that are buried."""
        ...

    async def ping(self) -> None: ...
