"""A lease in the store: which process of the fleet does what only one may do."""

import asyncio

from broker.store_interfaces import Store
from shared.clock import Clock
from shared.errors import Unavailable

_RENEWALS = 3  # attempts to renew it before it runs out
_GIVE_UP_PATIENCE = 2.0  # seconds


class Lease:
    """The lease `name`, for `holder`. It runs out `ttl` seconds after its last renewal, so that another process takes
    over from one that died; a third of that before, this one stops believing that it has it."""

    def __init__(self, store: Store, name: str, holder: str, clock: Clock, *, ttl: float) -> None:
        self._store = store
        self._clock = clock
        self._until = float("-inf")
        self.name = name
        self.holder = holder
        self.ttl = ttl

    @property
    def held(self) -> bool:
        """As far as this process knows, and without asking."""
        return self._clock.monotonic() < self._until

    async def acquire(self) -> bool:
        """Take or renew it. Raises `Unavailable`."""
        asked = self._clock.monotonic()
        held = await self._store.lease(self.name, self.holder, self.ttl, self._clock.now())
        self._until = asked + self.ttl * (_RENEWALS - 1) / _RENEWALS if held else float("-inf")
        return held

    async def keep(self) -> None:
        """Renew it for as long as it is held, until cancelled."""
        while True:
            await asyncio.sleep(self.ttl / _RENEWALS)
            if self.held:
                try:
                    await self.acquire()
                except Unavailable:
                    continue  # it runs out by itself, unless the store is back in time

    async def give_up(self) -> None:
        """Let another process take over at once."""
        if not self.held:
            return
        self._until = float("-inf")
        try:
            async with asyncio.timeout(_GIVE_UP_PATIENCE):
                await self._store.lease(self.name, self.holder, 0, self._clock.now())
        except (Unavailable, TimeoutError):
            return  # it runs out by itself
