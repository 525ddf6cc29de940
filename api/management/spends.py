"""What a subject has spent in the current window of its budget, and in all its life."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.management.shapes import NANO
from broker.directory_interfaces import Bill
from shared.accounts import NEVER
from shared.windows import Calendar, Duration


@dataclass(frozen=True, slots=True)
class Spend:
    """Nano-dollars, and seconds since the epoch."""

    window: int
    """In the current window; without one, since ever."""
    total: int
    reset_at: float | None
    """None when the budget does not start anew."""


async def spend_of(
    bill: Bill, account: str, fields: Mapping[str, Any], now: float, calendar: Calendar, *, total: int | None = None
) -> Spend:
    """Of the account whose subject has these fields, those of its budget filled in. What `reset_spend` or an import has
    set counts from then on, in the window that it was set in and in budgets without one. `total` is what the bill has
    of it, if that is known already."""
    start, end = window(calendar, fields.get("budget_duration"), now)
    since = float(fields.get("spend_since") or 0.0)
    base = nano(fields.get("spend_base")) if since >= start else 0
    if total is None:
        total = await bill.spent(account, 0.0, NEVER)
    always = total == 0 or (max(start, since), end) == (0.0, NEVER)
    spent = base + (total if always else await bill.spent(account, max(start, since), end))
    return Spend(spent, nano(fields.get("total_spend_base")) + total, None if end == NEVER else end)


def nano(dollars: object) -> int:
    return round(dollars * NANO) if isinstance(dollars, int | float) else 0


def window(calendar: Calendar, duration: str | None, now: float) -> tuple[float, float]:
    """Start and end of the window that `now` is in; without a duration, all of time."""
    return calendar.window(Duration.parse(duration) if duration else None, now)
