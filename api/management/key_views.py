"""Keys as their readers see them: rows with what was spent, and pages of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.management.entries import Desk, for_each
from api.management.entries import named as named_entries
from api.management.shapes import dollars, iso, key_row, status
from api.management.spends import Spend, spend_of, window
from broker.account_records import KeyQuery, Kind
from broker.directory_interfaces import Keys
from broker.records import KeyRecord
from shared.accounts import NEVER, key_account
from shared.errors import InvalidRequest

MOST_SCANNED = 10_000
"""Keys that are read to answer a question that the store cannot."""

_PAGE = 1000
_UNKNOWN = Spend(0, 0, None)  # of a key that was not looked at


@dataclass(frozen=True, slots=True)
class Seen:
    """A key with its money."""

    record: KeyRecord
    spend: Spend
    budget: Mapping[str, Any] | None

    @property
    def row(self) -> dict[str, Any]:
        return key_row(
            self.record,
            spend=self.spend.window,
            total_spend=self.spend.total,
            budget_reset_at=self.spend.reset_at,
            budget=self.budget,
        )

    @property
    def max_budget(self) -> float | None:
        """Its own or its budget's."""
        own = self.record.fields.get("max_budget")
        return own if own is not None else (self.budget or {}).get("max_budget")


async def look(desk: Desk, records: Sequence[KeyRecord]) -> list[Seen]:
    """The records with what they have spent, in their order."""
    store, calendar = desk.context.backends.store, desk.context.settings.management.calendar
    named = tuple({str(record.fields["budget_id"]) for record in records if record.fields.get("budget_id")})
    budgets = await named_entries(desk.directory, Kind.BUDGET, named)
    by_hash = {record.hash: record for record in records}

    async def see(digest: str) -> Seen:
        record = by_hash[digest]
        entry = budgets.get(str(record.fields.get("budget_id")))
        budget = {"budget_id": entry.id, **entry.fields} if entry else None
        fields = {**(budget or {}), **record.fields}
        spend = await spend_of(store.bill, key_account(record.hash), fields, desk.now, calendar)
        return Seen(record, spend, budget)

    seen = await for_each(list(by_hash), see)
    return [seen[record.hash] for record in records]


async def info(desk: Desk, seen: Seen) -> dict[str, Any]:
    """`/key/info`: the row without its hash, and what each of its budgets has left."""
    row = {name: value for name, value in seen.row.items() if name != "token"}
    row["status"] = status(seen.record, desk.now)
    fields = {**(seen.budget or {}), **seen.record.fields}
    models = fields.get("model_max_budget")
    if models:
        row["model_max_budget_usage"] = {
            model: {
                "current_spend": await _spent(desk, key_account(seen.record.hash, model), fields, each),
                **each,
            }
            for model, each in models.items()
        }
    limits = fields.get("budget_limits")
    if limits:
        row["budget_limits"] = [{**each, "reset_at": _reset_at(desk, each)} for each in limits]
        row["budget_limits_usage"] = {
            each["budget_duration"]: {"current_spend": await _spent(desk, key_account(seen.record.hash), fields, each)}
            for each in limits
        }
    return row


async def _spent(desk: Desk, account: str, fields: Mapping[str, Any], budget: Mapping[str, Any]) -> float:
    """Dollars in the window of one of several budgets."""
    start, end = _window(desk, budget)
    since = float(fields.get("spend_since") or 0.0)
    return dollars(await desk.context.backends.store.bill.spent(account, max(start, since), end))


def _reset_at(desk: Desk, budget: Mapping[str, Any]) -> str | None:
    _, end = _window(desk, budget)
    return None if end == NEVER else iso(end)


def _window(desk: Desk, budget: Mapping[str, Any]) -> tuple[float, float]:
    duration = budget.get("time_period") or budget.get("budget_duration")
    return window(desk.context.settings.management.calendar, duration, desk.now)


# --- Lists ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sorting:
    column: str = "created_at"
    """One of `SORTABLE`."""
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """What `/key/list` is asked."""

    queries: tuple[KeyQuery, ...]
    """The keys that any of them finds, each once."""
    page: int
    size: int
    sorting: Sorting = Sorting()
    fields: tuple[tuple[str, str], ...] = ()
    """Fields that must be equal to these texts, or be lists that have them."""


_STORED = {"created_at": "created_at", "updated_at": "updated_at", "key_alias": "alias"}
"""Columns that the store sorts by."""

_ORDERS: dict[str, Callable[[Seen], Any]] = {
    "spend": lambda seen: seen.spend.window,
    "max_budget": lambda seen: seen.max_budget or 0.0,
    "created_at": lambda seen: seen.record.created_at,
    "updated_at": lambda seen: seen.record.updated_at,
    "token": lambda seen: seen.record.hash,
    "key_alias": lambda seen: seen.record.alias,
}
SORTABLE = tuple(_ORDERS)
"""LiteLLM's names of the columns."""


async def listed(desk: Desk, listing: Listing) -> tuple[list[Seen], int]:
    """A page, and how many keys there are on all pages."""
    sorting, keys = listing.sorting, desk.context.backends.store.keys
    offset = (listing.page - 1) * listing.size
    exact = len(listing.queries) == 1 and not listing.fields and not ambiguous(listing.queries[0])
    if exact and sorting.column in _STORED:
        query = replace(listing.queries[0], sort=_STORED[sorting.column], descending=sorting.descending)
        total = await keys.count(query)
        page = replace(query, offset=offset, limit=listing.size)
        return await look(desk, await keys.find(page) if offset < total else []), total
    found: dict[str, KeyRecord] = {}
    for query in listing.queries:
        found |= {record.hash: record for record in await scan(keys, query) if _has(record, listing.fields)}
    costly = sorting.column in ("spend", "max_budget")
    seen = await look(desk, [*found.values()]) if costly else [Seen(each, _UNKNOWN, None) for each in found.values()]
    order = _ORDERS[sorting.column]
    seen.sort(key=lambda each: (order(each), each.record.hash), reverse=sorting.descending)
    shown = seen[offset : offset + listing.size]
    return shown if costly else await look(desk, [each.record for each in shown]), len(seen)


async def aliased(keys: Keys, query: KeyQuery, first: int) -> tuple[list[KeyRecord], int]:
    """A page of keys that have an alias, sorted by it and beginning with number `first`, and how many there are."""
    ordered = replace(query, sort="alias", descending=False)
    if ambiguous(query):
        found = [record for record in await scan(keys, ordered) if record.alias]
        return found[first : first + query.limit], len(found)
    nameless = await keys.count(replace(query, alias=""))  # they come first
    total = await keys.count(query) - nameless
    return await keys.find(replace(ordered, offset=nameless + first)) if first < total else [], total


def ambiguous(query: KeyQuery) -> bool:
    """Whether the store finds keys whose hashes have the text in them, where a part of the alias is meant: `a` is in
    nearly every hash."""
    return query.text is not None and _PART_OF_HASH.fullmatch(query.text.lower()) is not None


_PART_OF_HASH = re.compile(r"[0-9a-f]{1,63}")


async def scan(keys: Keys, query: KeyQuery) -> list[KeyRecord]:
    """All that the query means, on all its pages. Raises `InvalidRequest` when they are too many."""
    if await keys.count(query) > MOST_SCANNED:
        raise InvalidRequest(
            f"More than {MOST_SCANNED} keys would have to be looked through: narrow the list by user_id or team_id, "
            "or sort it by created_at, updated_at or key_alias."
        )
    records: list[KeyRecord] = []
    for offset in range(0, MOST_SCANNED, _PAGE):
        page = await keys.find(replace(query, offset=offset, limit=_PAGE))
        records += page
        if len(page) < _PAGE:
            break
    if not ambiguous(query):
        return records
    text = (query.text or "").casefold()
    return [record for record in records if text in record.alias.casefold()]


def _has(record: KeyRecord, fields: tuple[tuple[str, str], ...]) -> bool:
    def held(name: str, text: str) -> bool:
        value = record.fields.get(name)
        return text in value if isinstance(value, list) else value == text

    return all(held(name, text) for name, text in fields)
