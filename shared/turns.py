"""Who is next when more comes in one turn of the event loop than it should do at once.

What a turn publishes leaves at its end, and nobody else has a turn meanwhile: a burst of 500 requests, or of 60
providers' answers, would keep a request of somebody else waiting for all of them.
"""

import asyncio
import math
import time
from collections import deque

_LATELY = 10.0  # seconds; whoever asks seldom may have to wait once


class Company:
    """Whether several tenants have come lately: who is alone delays nobody, and need not pay for turns."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._changed = -math.inf

    def beside(self, tenant: str) -> bool:
        """Note that `tenant` has come; whether others have."""
        now = time.monotonic()
        if tenant != self._last:
            if self._last is not None:
                self._changed = now
            self._last = tenant
        return now - self._changed < _LATELY


class Turns:
    """Lets the first `most` that come in a turn go on at once, and the others in later turns: one of each tenant, then
    the next of each; of a tenant that is alone, all at once. As many wait as there are connections."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by tenant, whose turn is next first
        self._due = False
        self._company = Company()

    async def wait(self, tenant: str, *, first: bool = False) -> None:
        """Return in the tenant's turn; `first` goes on at once, and the others are to look out for it."""
        crowded = self._company.beside(tenant) or bool(self._waiting)
        if first or not crowded:
            return
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left > 0:
            self._left -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(mine)
        await mine

    def _next(self) -> None:
        """The next turn."""
        self._left = self._most
        while self._left > 0 and self._waiting:
            tenant = next(iter(self._waiting))
            line = self._waiting.pop(tenant)
            first = line.popleft()
            if line:
                self._waiting[tenant] = line  # behind all others
            if not first.done():  # or it was given up
                first.set_result(None)
                self._left -= 1
        self._due = self._left < self._most
        if self._due:
            asyncio.get_running_loop().call_soon(self._next)
