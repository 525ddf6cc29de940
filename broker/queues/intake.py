"""The gate between a consumer's lanes and its worker: turns, pauses and the prefetch limits, for every backend."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from broker.queues.lanes import LaneRotation
from shared.jobs import FIRST, Lane

Item = TypeVar("Item")

BATCH_SHARE = 7, 8
"""Of what may be unsettled, the part that batch lanes may take: the rest is kept free for clients."""

KEPT_FREE = 16
"""One in so many is kept free for interactive jobs of the highest precedence, so that whoever has little under way does
not wait for those who have much."""

FEW = 48
"""A worker that takes fewer at a time keeps none free."""


class Intake(Generic[Item]):
    """Hands out one item at a time while fewer than `prefetch` are unsettled, and of a batch lane only while fewer than
    `BATCH_SHARE` of them (at least one) are from such lanes. The last free places are for `FIRST` interactive items.

    `head` gives the precedence of a lane's next item (None when it has none), `take` removes and returns it. The
    backend calls `wake` when something arrives and `settled` with the lane when an item of it is settled.
    """

    def __init__(
        self,
        rotation: LaneRotation,
        prefetch: int,
        head: Callable[[str, Lane], int | None],
        take: Callable[[str, Lane], Item],
    ) -> None:
        self._rotation = rotation
        self._head = head
        self._take = take
        self._most_batch = max(prefetch * BATCH_SHARE[0] // BATCH_SHARE[1], 1)
        self._kept_free = prefetch // KEPT_FREE if prefetch >= FEW else 0
        self._unsettled = dict.fromkeys(Lane, 0)
        self._free = prefetch
        self._getters: deque[asyncio.Future[None]] = deque()
        self._pauses: dict[tuple[str, Lane | None], asyncio.TimerHandle] = {}
        self._held: frozenset[tuple[str, Lane]] = frozenset()
        self._closed = False

    async def next(self) -> Item:
        """The next item; waits for one, forever once the intake is closed."""
        while True:
            turn = self._turn()
            if turn is not None:
                self._unsettled[turn[1]] += 1
                self._free -= 1
                return self._take(*turn)
            await self._woken()

    def settled(self, lane: Lane) -> None:
        self._unsettled[lane] -= 1
        self._free += 1
        self.wake()

    def wake(self) -> None:
        """One waiting getter looks again."""
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def wake_all(self) -> None:
        """Every waiting getter looks again."""
        for _ in range(len(self._getters)):
            self.wake()

    def pause(self, provider: str, lane: Lane | None, seconds: float, resume: Callable[[str], None]) -> None:
        """Hand out nothing of `provider` for so long, or only of one lane nothing but `FIRST` interactive items; then
        call `resume`. 0 resumes at once."""
        timer = self._pauses.get((provider, lane))
        if timer is not None:
            timer.cancel()
        if self._closed:
            return
        if seconds > 0:
            timer = asyncio.get_running_loop().call_later(seconds, self._resume, provider, lane, resume)
            self._pauses[provider, lane] = timer
        else:
            self._resume(provider, lane, resume)

    def paused(self, provider: str, lane: Lane) -> bool:
        """Whether nothing at all of the lane is handed out."""
        return (provider, None) in self._pauses or (lane is Lane.BATCH and (provider, lane) in self._pauses)

    def hold(self, lanes: Collection[tuple[str, Lane]]) -> None:
        """Hand out nothing of these lanes until they are left out of a later call."""
        self._held = frozenset(lanes)
        self.wake_all()

    def held(self, provider: str, lane: Lane) -> bool:
        return (provider, lane) in self._held

    def close(self) -> None:
        """Hand out nothing more. Safe to call twice."""
        self._closed = True
        for timer in self._pauses.values():
            timer.cancel()
        self._pauses.clear()

    def _turn(self) -> tuple[str, Lane] | None:
        if self._closed or self._free <= 0:
            return None
        return self._rotation.next(self._available)

    def _available(self, provider: str, lane: Lane) -> bool:
        head = self._head(provider, lane)
        if head is None or (provider, None) in self._pauses or (provider, lane) in self._held:
            return False
        if lane is Lane.INTERACTIVE and head >= FIRST:
            return True
        if (provider, lane) in self._pauses or self._free <= self._kept_free:
            return False
        return lane is Lane.INTERACTIVE or self._unsettled[lane] < self._most_batch

    async def _woken(self) -> None:
        getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        try:
            await getter
        except asyncio.CancelledError:
            # The wake-up was ours and we leave: pass it on, or another getter sleeps beside a waiting job.
            if getter.done() and not getter.cancelled():
                self.wake()
            raise

    def _resume(self, provider: str, lane: Lane | None, resume: Callable[[str], None]) -> None:
        if self._pauses.pop((provider, lane), None) is not None:
            resume(provider)
        self.wake_all()
