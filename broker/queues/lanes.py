"""Whose turn is it: round robin between providers, weighted deficit round robin between the lanes of each."""

from collections import deque
from collections.abc import Callable, Sequence

from shared.jobs import Lane

QUANTUM = {Lane.INTERACTIVE: 8, Lane.BATCH: 1}
"""Jobs of each lane in one round, while both wait: a batch never starves and never delays a client by much."""


class LaneRotation:
    """Deficit round robin (Shreedhar and Varghese, 1995) with jobs of equal cost, so that a deficit is a whole number
    of jobs left in the round."""

    def __init__(self, providers: Sequence[str], lanes: Sequence[Lane]) -> None:
        self._providers = deque(dict.fromkeys(providers))
        self._lanes = sorted(set(lanes), key=lambda lane: -QUANTUM[lane])
        self._credit = {provider: dict.fromkeys(self._lanes, 0) for provider in self._providers}

    def add(self, provider: str) -> bool:
        """Whether it is new."""
        if provider in self._credit:
            return False
        self._providers.append(provider)
        self._credit[provider] = dict.fromkeys(self._lanes, 0)
        return True

    def next(self, waiting: Callable[[str, Lane], bool]) -> tuple[str, Lane] | None:
        """The lane to take one job from, among those that `waiting` says have one; None when none has."""
        for _ in range(len(self._providers)):
            provider = self._providers[0]
            self._providers.rotate(-1)
            lane = self._next_lane(provider, waiting)
            if lane is not None:
                return provider, lane
        return None

    def _next_lane(self, provider: str, waiting: Callable[[str, Lane], bool]) -> Lane | None:
        credit = self._credit[provider]
        ready = []
        for lane in self._lanes:
            if waiting(provider, lane):
                ready.append(lane)
            else:
                credit[lane] = 0  # an empty lane saves nothing up for later
        if not ready:
            return None
        if not any(credit[lane] for lane in ready):
            for lane in ready:
                credit[lane] = QUANTUM[lane]
        chosen = next(lane for lane in ready if credit[lane])
        credit[chosen] -= 1
        return chosen
