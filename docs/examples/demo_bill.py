"""The bill: every attempt that the ledger knows, added up by model."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from typing import Any

from openai import AsyncOpenAI
from rich.table import Table

_TIMEOUT = 20.0  # seconds until the ledger must have everything
_POLL = 0.2  # seconds
_MOST_ROWS = 10_000  # what `/spend/logs` gives at a time

Row = dict[str, Any]


class BillIncomplete(Exception):
    """The ledger lacks answers that were given."""


async def complete_bill(client: AsyncOpenAI, answers: int) -> tuple[list[Row], float]:
    """Every attempt, and the dollars of all together, when `answers` successful ones are in the ledger.

    `client` talks to the root of the server, not to its `/v1`. An answer is with its client before it is in the ledger,
    which is written in bulk a moment later. Raises `BillIncomplete`.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            while True:
                rows = await client.get("/spend/logs", cast_to=list[Row], options={"params": {"limit": _MOST_ROWS}})
                total = await client.get("/global/spend", cast_to=dict[str, Any])
                if _successes(rows) >= answers and total["attempts"] == len(rows):
                    return rows, total["spend"]
                await asyncio.sleep(_POLL)
    except TimeoutError as exc:
        raise BillIncomplete(f"{answers} answers were given and {_successes(rows)} are in the ledger") from exc


def table(rows: Sequence[Row], total: float) -> Table:
    """A row a model, with the totals below it: attempts, tokens in and out, dollars, seconds on the queue."""
    by_model: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row["model_group"]].append(row)
    bill = Table(show_footer=True)
    columns = ("attempts", "failed", "in", "out", "dollars", "wait p50", "p99")
    bill.add_column("model", footer="total")
    for name, total_of in zip(columns, (*_counts(rows), f"{total:.6f}", *_waits(rows)), strict=True):
        bill.add_column(name, footer=total_of, justify="right")
    for model, its in sorted(by_model.items()):
        bill.add_row(model, *_counts(its), f"{sum(row['spend'] for row in its):.6f}", *_waits(its))
    return bill


def _counts(rows: Sequence[Row]) -> tuple[str, str, str, str]:
    tokens_in = sum(row["prompt_tokens"] for row in rows)
    tokens_out = sum(row["completion_tokens"] for row in rows)
    return f"{len(rows):,}", f"{len(rows) - _successes(rows):,}", f"{tokens_in:,}", f"{tokens_out:,}"


def _waits(rows: Sequence[Row]) -> tuple[str, str]:
    waits = sorted(row["queue_wait_ms"] / 1000 for row in rows)
    return f"{percentile(waits, 50):.2f} s", f"{percentile(waits, 99):.2f} s"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent are no larger than; 0 for nothing."""
    return ordered[max(ceil(len(ordered) * percent / 100) - 1, 0)] if ordered else 0.0


def _successes(rows: Sequence[Row]) -> int:
    return sum(row["status"] == "success" for row in rows)
