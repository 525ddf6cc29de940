"""What a job may cost, before anybody has run it."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shared.catalog import Catalog, Deployment
from shared.jobs import Usage

if TYPE_CHECKING:
    from shared.pricing import PriceBook


class PriceEstimates:
    """The price list is loaded when it is needed first, in a thread: a process without budgets never needs it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._book: PriceBook | None = None
        self._loading = asyncio.Lock()

    async def dearest(self, deployments: Iterable[str], usage: Usage) -> int:
        """Nano-dollars at the dearest of the deployments; those that are not in the catalog (any more) count 0."""
        book = self._book or await self._loaded()
        return max((book.cost(each, usage) for each in self.catalog.known(deployments)), default=0)

    async def known(self, deployments: Sequence[Deployment], usage: Usage, *, service_tier: str = "") -> int | None:
        """Nano-dollars at the dearest of those that somebody has a price for; None if nobody has one for any."""
        book = self._book or await self._loaded()
        costs = [book.cost(each, usage, service_tier=service_tier) for each in deployments if book.known(each)]
        return max(costs, default=None)

    async def _loaded(self) -> "PriceBook":
        async with self._loading:
            if self._book is None:
                self._book = await asyncio.to_thread(_load)
        return self._book


def _load() -> "PriceBook":
    from shared.pricing import PriceBook  # its import is most of the work

    return PriceBook()
