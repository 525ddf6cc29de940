"""Who is next when more comes in one turn of the event loop than it should do at once.

What a turn publishes leaves at its end, and nobody else has a turn meanwhile: a burst of 500 requests, or of 60
providers' answers, would keep a request of somebody else waiting for all of them.
"""

import asyncio
from collections import deque


class Turns:
    """Lets the first `most` that come in a turn go on at once, and the others in later turns: one of each tenant, then
    the next of each. As many wait as there are connections."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by tenant, whose turn is next first
        self._due = False

    async def wait(self, tenant: str) -> None:
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
