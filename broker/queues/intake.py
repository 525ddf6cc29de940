"""The gate between a consumer's lanes and its worker: turns, pauses and the prefetch limit, for every backend."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from broker.queues.lanes import LaneRotation
from shared.jobs import Lane

Item = TypeVar("Item")


class Intake(Generic[Item]):
    """Hands out one item at a time while fewer than `prefetch` are unsettled.

    `waiting` says whether a lane has something, `take` removes and returns it. The backend calls `wake` when something
    arrives and `settled` when an item is settled.
    """

    def __init__(
        self,
        rotation: LaneRotation,
        prefetch: int,
        waiting: Callable[[str, Lane], bool],
        take: Callable[[str, Lane], Item],
    ) -> None:
        self._rotation = rotation
        self._prefetch = prefetch
        self._waiting = waiting
        self._take = take
        self._unsettled = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._paused: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    async def next(self) -> Item:
        """The next item; waits for one, forever once the intake is closed."""
        while True:
            turn = self._turn()
            if turn is not None:
                self._unsettled += 1
                return self._take(*turn)
            await self._woken()

    def settled(self) -> None:
        self._unsettled -= 1
        self.wake()

    def wake(self) -> None:
        """One waiting getter looks again."""
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def pause(self, provider: str, seconds: float, resume: Callable[[str], None]) -> None:
        """Hand out nothing of `provider` for so long, then call `resume`; 0 resumes at once."""
        timer = self._timers.pop(provider, None)
        if timer is not None:
            timer.cancel()
        if self._closed:
            return
        if seconds <= 0:
            self._resume(provider, resume)
            return
        self._paused.add(provider)
        self._timers[provider] = asyncio.get_running_loop().call_later(seconds, self._resume, provider, resume)

    def paused(self, provider: str) -> bool:
        return provider in self._paused

    def close(self) -> None:
        """Hand out nothing more. Safe to call twice."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _turn(self) -> tuple[str, Lane] | None:
        if self._closed or self._unsettled >= self._prefetch:
            return None
        return self._rotation.next(self._available)

    def _available(self, provider: str, lane: Lane) -> bool:
        return provider not in self._paused and self._waiting(provider, lane)

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

    def _resume(self, provider: str, resume: Callable[[str], None]) -> None:
        self._timers.pop(provider, None)
        if provider in self._paused:
            self._paused.remove(provider)
            resume(provider)
        for _ in range(len(self._getters)):
            self.wake()
