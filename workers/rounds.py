"""A part of the keeper: rounds of work, one after the other, for as long as the process runs."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from shared.errors import Unavailable
from workers.lease import Lease

_FIRST_BACKOFF = 0.2  # seconds, doubled up to the longest
_LONGEST_BACKOFF = 5.0
_LEASE_POLLS = 3  # times that a lease which another process holds is asked for while it would run out

log = structlog.get_logger(__name__)

Round = Callable[[], Awaitable[float]]
"""Does what there is to do and returns the seconds until there may be more."""


class Rounds:
    """Calls `once` over and over, while `lease` (if there is one) is this process's. A server that is away, and a bug,
    cost a round and not the part: it goes on after a pause that grows to 5 s."""

    def __init__(self, name: str, once: Round, lease: Lease | None = None) -> None:
        self.name = name
        self._once = once
        self._lease = lease
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """There is something to do: the next round need not wait."""
        self._awake.set()

    async def run(self) -> None:
        """Until cancelled; then the lease is given up."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._lease is not None:
                    group.create_task(self._lease.keep(), name=f"lease {self._lease.name}")
                group.create_task(self._loop(), name=self.name)
        finally:
            if self._lease is not None:
                await asyncio.shield(self._lease.give_up())

    async def _loop(self) -> None:
        backoff = _FIRST_BACKOFF
        away = False
        while True:
            try:
                pause = await self._turn()
            except Unavailable as error:
                if not away:
                    log.warning("part_waits_for_a_server", part=self.name, reason=error.message)
                away = True
                pause = backoff
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
            except Exception:
                log.exception("part_failed", part=self.name)
                pause = backoff
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
            else:
                if away:
                    log.info("part_goes_on", part=self.name)
                away = False
                backoff = _FIRST_BACKOFF
            await self._rest(pause)

    async def _turn(self) -> float:
        lease = self._lease
        if lease is None or lease.held or await lease.acquire():
            return await self._once()
        return lease.ttl / _LEASE_POLLS

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        self._awake.clear()
