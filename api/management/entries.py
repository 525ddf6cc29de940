"""Entries of the directory: made, patched and looked for the same way, whatever they are."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request

from api.auth import Principal
from api.context import Context, context_of
from api.management.access import actor, author
from api.management.bodies import changed, refuse_large
from broker.account_records import Actor, Entry, EntryQuery, Kind
from broker.directory_interfaces import Directory
from broker.store_interfaces import Store
from shared.errors import InvalidRequest

T = TypeVar("T")

PAGE = 1000  # what one query of the directory may give
MOST_LISTED = 10_000  # entries that are read for one answer

_AT_ONCE = 8  # questions to the store


@dataclass(frozen=True, slots=True)
class Desk:
    """Where one management request is worked on: with what, by whom, and when."""

    context: Context
    caller: Principal
    actor: Actor
    now: float
    """Seconds since the epoch."""

    @property
    def store(self) -> Store:
        return self.context.backends.store

    @property
    def directory(self) -> Directory:
        return self.store.directory

    @property
    def author(self) -> str:
        return author(self.caller)

    def entry(self, kind: Kind, id: str, fields: Mapping[str, Any], *, alias: str = "") -> Entry:
        """A new one, without the fields that are null. Raises `InvalidRequest` above 64 KiB."""
        return _bounded(
            Entry(
                kind,
                id,
                alias,
                fields=changed({}, dict(fields)),
                created_at=self.now,
                created_by=self.author,
                updated_at=self.now,
                updated_by=self.author,
            )
        )

    def member(self, team: str, user: str, fields: Mapping[str, Any]) -> Entry:
        """A user's place in a team."""
        return replace(self.entry(Kind.MEMBER, f"{team}/{user}", fields), team=team, user=user)

    def patched(self, entry: Entry, changes: Mapping[str, Any], *, alias: str | None = None) -> Entry:
        """With these fields changed, and those that are None gone. Raises `InvalidRequest` above 64 KiB."""
        return _bounded(
            replace(
                entry,
                alias=entry.alias if alias is None else alias,
                fields=changed(dict(entry.fields), dict(changes)),
                updated_at=self.now,
                updated_by=self.author,
            )
        )

    def changes_nothing(self, entry: Entry, changes: Mapping[str, Any], *, alias: str | None = None) -> bool:
        after = self.patched(entry, changes, alias=alias)
        return (after.alias, after.fields) == (entry.alias, entry.fields)


def desk_of(request: Request, caller: Principal) -> Desk:
    context = context_of(request)
    return Desk(context, caller, actor(request, caller), context.clock.now())


async def for_each(items: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """What `ask` answers for each of them, a few at a time."""
    turns = asyncio.Semaphore(_AT_ONCE)
    answers: dict[str, T] = {}

    async def one(item: str) -> None:
        async with turns:
            answers[item] = await ask(item)

    try:
        async with asyncio.TaskGroup() as group:
            for item in dict.fromkeys(items):
                group.create_task(one(item))
    except ExceptionGroup as failures:  # one says it all: they asked the same store
        raise failures.exceptions[0] from failures
    return answers


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list that may be sorted and filtered by what the store does not know."""

    query: EntryQuery
    page: int
    size: int
    order: Callable[[Entry], Any] | None = None
    """None: by the time they were made."""
    descending: bool = True
    keep: Callable[[Entry], bool] | None = None


async def listed(directory: Directory, listing: Listing) -> tuple[list[Entry], int]:
    """A page, and how many there are on all pages. Raises `InvalidRequest` when too many would have to be read."""
    offset = (listing.page - 1) * listing.size
    query = replace(listing.query, newest_first=listing.descending)
    total = await directory.count(query)
    if listing.order is None and listing.keep is None:
        found = await directory.find(replace(query, offset=offset, limit=listing.size)) if offset < total else []
        return found, total
    if total > MOST_LISTED:
        raise InvalidRequest(f"More than {MOST_LISTED} would have to be looked through: narrow the list.")
    found = [each for each in await every(directory, query) if listing.keep is None or listing.keep(each)]
    if listing.order is not None:
        found.sort(key=listing.order, reverse=listing.descending)
    return found[offset : offset + listing.size], len(found)


def page_of(items: str, rows: list[dict[str, Any]], total: int, page: int, size: int) -> dict[str, Any]:
    """LiteLLM's page, its rows under the name `items`."""
    return {items: rows, "total": total, "page": page, "page_size": size, "total_pages": -(-total // size)}


async def every(directory: Directory, query: EntryQuery, most: int = MOST_LISTED) -> list[Entry]:
    """All pages of the query, as far as `most` entries; its offset and limit do not count."""
    found: list[Entry] = []
    while len(found) < most:
        page = await directory.find(replace(query, offset=len(found), limit=min(PAGE, most - len(found))))
        found += page
        if len(page) < PAGE:
            break
    return found


async def named(directory: Directory, kind: Kind, ids: Sequence[str]) -> dict[str, Entry]:
    """Those of them that are there, by id."""
    wanted = tuple(dict.fromkeys(ids))
    found: dict[str, Entry] = {}
    for first in range(0, len(wanted), PAGE):
        query = EntryQuery(kind, ids=wanted[first : first + PAGE], limit=PAGE)
        found |= {entry.id: entry for entry in await directory.find(query)}
    return found


async def budgets_of(directory: Directory, entries: Sequence[Entry]) -> dict[str, Entry]:
    """The budgets that these name, by id."""
    return await named(
        directory, Kind.BUDGET, [each.fields["budget_id"] for each in entries if each.fields.get("budget_id")]
    )


async def require_budget(directory: Directory, fields: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` if the fields name a budget that is not there."""
    id = fields.get("budget_id")
    if id is not None and await directory.get(Kind.BUDGET, id) is None:
        raise InvalidRequest(
            f"Budget not found, passed budget_id={id}. Make it with /budget/new first.", param="budget_id"
        )


def require_some(ids: Sequence[str], param: str) -> None:
    """Raises `InvalidRequest` for an empty list."""
    if not ids:
        raise InvalidRequest(f"{param} is required, and must name at least one.", param=param)


def spent_from_now(fields: Mapping[str, Any], now: float) -> dict[str, Any]:
    """`spend`, as a client sets it, in our words: what counts as spent whatever the ledger had before."""
    rest = {name: value for name, value in fields.items() if name != "spend"}
    if fields.get("spend") is None:
        return rest
    return {**rest, "spend_base": fields["spend"], "spend_since": now}


def _bounded(entry: Entry) -> Entry:
    refuse_large("metadata", entry.fields)
    return entry
