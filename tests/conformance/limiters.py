"""A limiter of each kind, and what its tests ask of one."""

from collections.abc import Callable
from typing import Any

import pytest

from broker.interfaces import Candidate, Grant, Limiter, Limits, Refusal
from broker.limits import memory, redis
from tests.fakes.clock import FakeClock

Connect = Callable[[], memory.MemoryLimiter | redis.RedisLimiter]


def opener(url: str, namespace: str, clock: FakeClock | None) -> Connect:
    if url == "memory://":
        limiter = memory.connect(url, clock=clock)
        return lambda: limiter
    return lambda: redis.connect(url, namespace=namespace, clock=clock.monotonic if clock else None)


def candidate(limits: Limits, tokens: int = 0, name: str = "a") -> Candidate:
    return Candidate(f"deployment-{name}", f"bucket-{name}", f"key-{name}", limits, tokens)


async def granted(limiter: Limiter, lease: str, *candidates: Candidate, lease_ttl: float = 660.0) -> Grant:
    answer = await limiter.take(lease, candidates, lease_ttl=lease_ttl)
    assert isinstance(answer, Grant)
    return answer


async def refused(limiter: Limiter, *candidates: Candidate) -> Refusal:
    answer = await limiter.take("refused", candidates)
    assert isinstance(answer, Refusal)
    return answer


def about(seconds: float) -> Any:
    """A wait, which is rounded up to a microsecond."""
    return pytest.approx(seconds, abs=2e-6)
