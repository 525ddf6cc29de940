"""A provider's rate limit, kept exactly, so that a test can prove that nobody ran over it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    remaining: int
    """Requests left now."""
    wait: float
    """Seconds until the next request would be allowed; until the limit is whole again when one is allowed now."""


class Quota:
    """So many requests in `period` seconds, counted as vendors count them:

    - fixed: the count starts again every `period` seconds,
    - sliding: no interval of `period` seconds ever holds more,
    - bucket: refills steadily, and a full one allows all at once.
    """

    def __init__(
        self,
        requests: int,
        period: float = 60.0,
        kind: Literal["fixed", "sliding", "bucket"] = "sliding",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests = requests
        self.period = period
        self.allowed = 0
        self.refused = 0
        self._kind = kind
        self._monotonic = monotonic
        self._start = monotonic()
        self._used = 0
        self._recent: deque[float] = deque()
        self._balance = float(requests)
        self._refilled_at = self._start

    def take(self) -> Verdict:
        verdict = {"fixed": self._fixed, "sliding": self._sliding, "bucket": self._bucket}[self._kind](
            self._monotonic()
        )
        if verdict.allowed:
            self.allowed += 1
        else:
            self.refused += 1
        return verdict

    def _fixed(self, now: float) -> Verdict:
        passed = (now - self._start) // self.period
        if passed:
            self._start += passed * self.period
            self._used = 0
        wait = self._start + self.period - now
        if self._used >= self.requests:
            return Verdict(False, 0, wait)
        self._used += 1
        return Verdict(True, self.requests - self._used, wait)

    def _sliding(self, now: float) -> Verdict:
        while self._recent and self._recent[0] <= now - self.period:
            self._recent.popleft()
        if len(self._recent) >= self.requests:
            return Verdict(False, 0, self._recent[0] + self.period - now)
        self._recent.append(now)
        return Verdict(True, self.requests - len(self._recent), self.period)

    def _bucket(self, now: float) -> Verdict:
        rate = self.requests / self.period
        self._balance = min(float(self.requests), self._balance + (now - self._refilled_at) * rate)
        self._refilled_at = now
        if self._balance < 1.0:
            return Verdict(False, 0, (1.0 - self._balance) / rate)
        self._balance -= 1.0
        return Verdict(True, int(self._balance), (self.requests - self._balance) / rate)
