"""The limiter on Redis: one script call for each decision, on the server's clock.

Keys, under the namespace: `{limits}:bucket:<bucket>`, `{limits}:leases:<bucket>`, `{limits}:dead:<credential>`. They
share a hash tag because one script call looks at several buckets. Every key expires when it no longer matters. Let the
server run with `noeviction`: an evicted bucket is a full one.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from broker.interfaces import BucketState, Candidate, Grant, Limits, Refusal
from broker.limits.token_bucket import MAX_COOLDOWN, Wait, shortest
from broker.redis_pipe import Pipe, Script

_LEARN_EVERY = 1.0  # seconds between reports of the same bucket that bring no news
_MAX_UNLEASED = 50_000  # leases; forgetting one costs a needless round trip
_MAX_REPORTS = 10_000  # buckets whose latest report is remembered


def connect(url: str, *, namespace: str = "headrace", clock: Callable[[], float] | None = None) -> "RedisLimiter":
    """`clock` replaces the server's time in tests: seconds, from any start."""
    return RedisLimiter(url, namespace, clock)


def _script(name: str) -> Script:
    folder = Path(__file__).parent
    return Script(f"{(folder / 'buckets.lua').read_text()}\n{(folder / name).read_text()}")


_TAKE, _SETTLE, _LEARN = _script("take.lua"), _script("settle.lua"), _script("learn.lua")
_COOL_DOWN, _STATE = _script("cool_down.lua"), _script("state.lua")


class RedisLimiter:
    def __init__(self, url: str, namespace: str, clock: Callable[[], float] | None) -> None:
        self._pipe = Pipe(url)
        self._bucket = f"{namespace}:{{limits}}:bucket:"
        self._leases = f"{namespace}:{{limits}}:leases:"
        self._dead = f"{namespace}:{{limits}}:dead:"
        self._clock = clock
        self._unleased: dict[str, None] = {}  # grants that nothing limited: nothing was written that could be settled
        self._reports: dict[str, tuple[float, Limits]] = {}  # bucket -> when it was last reported, and which limits

    async def __aenter__(self) -> Self:
        await self._pipe.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pipe.__aexit__(*exc_info)

    async def take(self, lease: str, candidates: Sequence[Candidate], *, lease_ttl: float = 660.0) -> Grant | Refusal:
        if not candidates:
            return Refusal(math.inf, "dead")
        keys: list[str] = []
        arguments = [self._now(), lease, _text(lease_ttl)]
        for candidate in candidates:
            keys += (
                self._bucket + candidate.bucket,
                self._leases + candidate.bucket,
                self._dead + candidate.credential,
            )
            limits = candidate.limits
            arguments += (_text(limits.rpm), _text(limits.tpm), _text(limits.parallel), _text(candidate.tokens))
        chosen, *answer = await self._pipe.evaluate(_TAKE, keys, arguments)
        if not chosen:
            wait = shortest([Wait(float(answer[0]), answer[1].decode())])
            return Refusal(wait.seconds, wait.reason)
        reserved, rpm, tpm = map(_number, answer)
        candidate = candidates[chosen - 1]
        applied = Limits(rpm=rpm, tpm=tpm, parallel=candidate.limits.parallel)
        if applied == Limits():
            self._remember_unleased(lease)
        return Grant(candidate.deployment, candidate.bucket, lease, int(reserved or 0), applied)

    async def settle(self, grant: Grant, tokens: int | None) -> None:
        if grant.lease in self._unleased:
            del self._unleased[grant.lease]
            return
        keys = (self._bucket + grant.bucket, self._leases + grant.bucket)
        await self._pipe.evaluate(_SETTLE, keys, (self._now(), grant.lease, grant.reserved, _text(tokens)))

    async def learn(
        self, grant: Grant, limits: Limits, remaining_requests: int | None, remaining_tokens: int | None
    ) -> None:
        if not self._news(grant.bucket, limits, remaining_requests, remaining_tokens):
            return
        said = (limits.rpm, limits.tpm, remaining_requests, remaining_tokens)
        await self._pipe.evaluate(_LEARN, (self._bucket + grant.bucket,), (self._now(), *map(_text, said)))

    async def cool_down(self, bucket: str, seconds: float) -> None:
        clamped = min(max(seconds, 0.0), MAX_COOLDOWN)
        await self._pipe.evaluate(_COOL_DOWN, (self._bucket + bucket,), (self._now(), _text(clamped)))

    async def bury(self, credential: str, seconds: float) -> None:
        if seconds <= 0:
            await self._pipe.call("DEL", self._dead + credential)
        else:
            await self._pipe.call("SET", self._dead + credential, b"1", "PX", max(1, int(seconds * 1000)))

    async def state(self, buckets: Sequence[str]) -> list[BucketState]:
        keys = [prefix + bucket for bucket in buckets for prefix in (self._bucket, self._leases)]
        answer = await self._pipe.evaluate(_STATE, keys, (self._now(),))
        numbers = iter([_number(each) for each in answer])
        return [
            BucketState(bucket, requests, tokens, int(in_flight or 0), cooldown or 0.0, Limits(rpm=rpm, tpm=tpm))
            for bucket, requests, tokens, in_flight, cooldown, rpm, tpm in zip(buckets, *[numbers] * 6, strict=True)
        ]

    async def dead(self, credentials: Sequence[str]) -> frozenset[str]:
        if not credentials:
            return frozenset()
        found = await self._pipe.call("MGET", *[self._dead + each for each in credentials])
        return frozenset(each for each, mark in zip(credentials, found, strict=True) if mark is not None)

    async def ping(self) -> None:
        await self._pipe.call("PING")

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    def _remember_unleased(self, lease: str) -> None:
        if len(self._unleased) >= _MAX_UNLEASED:
            del self._unleased[next(iter(self._unleased))]
        self._unleased[lease] = None

    def _news(self, bucket: str, limits: Limits, requests: int | None, tokens: int | None) -> bool:
        """Whether a report is worth a round trip: every answer carries one, and most say what the last one said."""
        if limits == Limits() and requests is None and tokens is None:
            return False
        now = time.monotonic()
        reported, known = self._reports.get(bucket, (-math.inf, None))
        if limits == known and now - reported < _LEARN_EVERY and requests != 0 and tokens != 0:
            return False
        if bucket not in self._reports and len(self._reports) >= _MAX_REPORTS:
            del self._reports[next(iter(self._reports))]
        self._reports[bucket] = (now, limits)
        return True


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)


def _number(text: bytes) -> float | None:
    return float(text) if text else None
