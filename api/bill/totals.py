"""Sums of sums by day, in LiteLLM's names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from api.management.shapes import dollars
from broker.spend_records import Activity

K = TypeVar("K")


@dataclass(slots=True)
class Totals:
    """Money stays in whole nano-dollars until it is shown: so often as it was added, it is exact."""

    cost: int = 0
    prompt: int = 0
    completion: int = 0
    cache_read: int = 0
    cache_write: int = 0
    requests: int = 0
    succeeded: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    @property
    def spend(self) -> float:
        """Dollars."""
        return dollars(self.cost)

    def add(self, more: Activity) -> None:
        self.cost += more.cost
        self.prompt += more.prompt_tokens
        self.completion += more.completion_tokens
        self.cache_read += more.cache_read_tokens
        self.cache_write += more.cache_write_tokens
        self.requests += more.requests
        self.succeeded += more.succeeded

    def metrics(self) -> dict[str, Any]:
        """LiteLLM's `SpendMetrics`."""
        return {
            "spend": self.spend,
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation_input_tokens": self.cache_write,
            "total_tokens": self.tokens,
            "successful_requests": self.succeeded,
            "failed_requests": self.requests - self.succeeded,
            "api_requests": self.requests,
        }


def added(activities: Iterable[Activity]) -> Totals:
    totals = Totals()
    for each in activities:
        totals.add(each)
    return totals


def folded(activities: Iterable[Activity], key: Callable[[Activity], K]) -> dict[K, Totals]:
    """By what `key` says of each, in the order of their appearance."""
    found: dict[K, Totals] = {}
    for each in activities:
        found.setdefault(key(each), Totals()).add(each)
    return found


def dearest_first(totals: dict[K, Totals]) -> list[tuple[K, Totals]]:
    return sorted(totals.items(), key=lambda item: item[1].cost, reverse=True)
