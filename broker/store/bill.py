"""The bill: what accounts have spent, and sums by day for reports."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import SpendQuery
from broker.spend_records import Activity, ActivityQuery, Dimension, Subject
from broker.store import ledger
from broker.store.bulk import among
from broker.store.directory_tables import earlier_hashes
from broker.store.ledger import equal, storable_text
from broker.store.reports import day_of, make_room, number_of
from broker.store.rollups import DAY
from broker.store.tables import SUMS, TEXT_LENGTH, daily_customers, daily_keys, daily_spend, daily_tags, daily_totals
from broker.store.tables import ledger as ledger_table
from broker.store.transactions import Transactions
from shared.errors import InvalidRequest

MAX_ACTIVITIES = 100_000
"""A report is never longer."""

_Sums: TypeAlias = tuple[int, ...]


class BillStore:
    """A `broker.directory_interfaces.Bill`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def spent(self, account: str, start: float, end: float) -> int:
        async def spent(connection: AsyncConnection) -> int:
            return await _spent(connection, account, _Window.between(start, end))

        return await self._transactions.read(spent)

    async def totals(self, subject: Subject, ids: Sequence[str], start: float = 0.0) -> Mapping[str, int]:
        return await self._transactions.read(lambda connection: _totals(connection, subject, ids, start))

    async def activity(self, query: ActivityQuery) -> list[Activity]:
        return await self._transactions.read(lambda connection: _activity(connection, query))

    async def count(self, query: SpendQuery, most: int = 100_000) -> int:
        return await self._transactions.read(lambda connection: ledger.count(connection, query, most))

    async def purge(self, older_than: float, limit: int) -> int:
        return await self._transactions.write(lambda connection: ledger.purge(connection, older_than, limit))


# --- Spent ----------------------------------------------------------------------------------------------------------

_LAST_DAY = 2**31 - 1  # of the column


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of time as whole days, from `first` up to and not including `last`, and the parts of days around."""

    first: int
    last: int
    ragged: tuple[tuple[float, float], ...]

    @classmethod
    def between(cls, start: float, end: float) -> "_Window":
        first = -_number(-start)
        last = _number(end)
        if first > last:  # within a day
            return cls(0, 0, ((start, end),))
        edges = ((start, float(first * DAY)), (float(last * DAY), end))
        return cls(first, last, tuple((a, b) for a, b in edges if a < b and math.isfinite(b - a)))


def _number(moment: float) -> int:
    """Whole days since the epoch, brought to what the column holds."""
    days = moment // DAY if math.isfinite(moment) else moment
    return int(max(min(days, _LAST_DAY), -_LAST_DAY))


async def _spent(connection: AsyncConnection, account: str, window: _Window) -> int:
    table, alternatives = _charged(account)
    hashes = {key for each in alternatives if (key := each.get("key_hash"))}
    lineages = await _lineages(connection, hashes)

    def total(source: sa.Table, *when: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        rows = sa.or_(sa.false(), *(sa.and_(*_equal(connection, source, each, lineages)) for each in alternatives))
        found = sa.select(sa.func.sum(source.c.cost_nanodollars)).where(rows, *when)
        return sa.func.coalesce(found.scalar_subquery(), 0)

    # One statement, and so one moment: no row is counted twice, or missed, between the ledger and its sums.
    began = ledger_table.c.started_at
    parts = [total(ledger_table, began >= start, began < end) for start, end in window.ragged]
    if window.first < window.last:
        parts.append(total(table, table.c.day >= window.first, table.c.day < window.last))
    found = (await connection.execute(sa.select(*parts))).one() if parts else ()
    return sum(int(each) for each in found)


def _charged(account: str) -> tuple[sa.Table, list[dict[str, str]]]:
    """The sums that know the account, and which of their columns must be equal to what: the converse of
    `shared.accounts.charged`. Any of the alternatives will do: ids may have slashes in them, as the account's id has
    between them."""
    kind, _, id = account.partition(":")
    match kind:
        case "proxy":
            return daily_totals, [{}]
        case "key":
            key, _, group = id.partition("/")
            if group:
                return daily_spend, [{"key_hash": key, "model_group": group}]
            return daily_keys, [{"key_hash": key}]
        case "user":
            return daily_keys, [{"user_id": id}]
        case "team":
            pairs = [{"team_id": team, "model_group": group} for team, group in _splits(id)]
            whole = [{"team_id": id}] if len(id) <= TEXT_LENGTH else []
            return daily_spend if pairs else daily_keys, [*whole, *pairs]
        case "member":
            return daily_keys, [{"team_id": team, "user_id": user} for team, user in _splits(id)]
        case "customer":
            return daily_customers, [{"customer_id": id}]
        case _:
            raise ValueError(f"unknown account {account!r}: expected proxy, key:, user:, team:, member: or customer:")


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """At every slash with something on both sides; no team's id is longer than a row's texts."""
    for at, character in enumerate(text[: TEXT_LENGTH + 1]):
        if character == "/" and 0 < at < len(text) - 1:
            yield text[:at], text[at + 1 :]


def _equal(
    connection: AsyncConnection, table: sa.Table, wanted: Mapping[str, str], lineages: Mapping[str, list[str]]
) -> Iterator[sa.ColumnElement[bool]]:
    yield sa.true()
    for name, value in wanted.items():
        column = table.c[name]
        if not value:
            yield sa.false()  # nobody: rows without a key, user or the like are charged to none
        else:
            yield among(connection, column, lineages[value]) if name == "key_hash" else equal(column, value)


async def _lineages(connection: AsyncConnection, hashes: Iterable[str]) -> dict[str, list[str]]:
    """By the hash that a key has now, it and all that it had before."""
    known = {each: [each] for each in hashes}
    earlier = earlier_hashes.c
    if known:
        statement = sa.select(earlier.key_hash, earlier.hash).where(among(connection, earlier.key_hash, known))
        for now, before in await connection.execute(statement):
            known[now].append(before)
    return known


# --- Reports --------------------------------------------------------------------------------------------------------

_SUBJECTS = {
    Subject.KEY: "key_hash",
    Subject.USER: "user_id",
    Subject.TEAM: "team_id",
    Subject.CUSTOMER: "customer_id",
    Subject.TAG: "tag",
}
_COLUMNS = {
    Dimension.KEY: "key_hash",
    Dimension.USER: "user_id",
    Dimension.TEAM: "team_id",
    Dimension.GROUP: "model_group",
    Dimension.MODEL: "upstream_model",
    Dimension.PROVIDER: "provider",
    Dimension.ENDPOINT: "endpoint",
}


async def _totals(connection: AsyncConnection, subject: Subject, ids: Sequence[str], start: float) -> dict[str, int]:
    table = _source(ActivityQuery(subject=subject))
    column = table.c[_SUBJECTS[subject]]
    owners = await _owners(connection, subject, ids)
    statement = (
        sa.select(column, sa.func.sum(table.c.cost_nanodollars))
        .where(among(connection, column, owners), column != "", table.c.day >= _number(start))
        .group_by(column)
    )
    totals: dict[str, int] = {}
    for found, cost in await connection.execute(statement):
        for id in owners[found]:
            totals[id] = totals.get(id, 0) + int(cost)
    return totals


async def _owners(connection: AsyncConnection, subject: Subject, ids: Sequence[str]) -> dict[str, list[str]]:
    """Who of `ids` the sums belong to, by the id that the sums have: of a key also one that it had before, and of an
    absurdly long one as much as rows hold."""
    lineages = await _lineages(connection, ids) if subject is Subject.KEY else {each: [each] for each in ids}
    owners: dict[str, list[str]] = {}
    for id, own in lineages.items():
        for each in own:
            owners.setdefault(storable_text(each), []).append(id)
    return owners


async def _activity(connection: AsyncConnection, query: ActivityQuery) -> list[Activity]:
    await make_room(connection)
    table = _source(query)
    owners = await _owners(connection, query.subject, query.ids) if query.subject else {}
    keys = [table.c.day] if query.daily else []
    keys += [table.c[_SUBJECTS[query.subject]]] if query.subject else []
    keys += [_column(table, each) for each in query.by]
    statement = (
        sa.select(*(key.label(f"key{number}") for number, key in enumerate(keys)), *_sums(table))
        .where(*await _conditions(connection, table, query, owners))
        .group_by(*keys)
        .having(sa.func.sum(table.c.requests) > 0)  # without keys there is a row even if there is nothing to sum
        .limit(MAX_ACTIVITIES + 1)
    )
    rows = [tuple(row) for row in await connection.execute(statement)]
    if len(rows) > MAX_ACTIVITIES:
        raise InvalidRequest(f"The report has over {MAX_ACTIVITIES:,} lines: ask for fewer days, ids or details.")
    return _activities(rows, query, owners)


def _source(query: ActivityQuery) -> sa.Table:
    """The table with the fewest rows that has all the columns."""
    wanted = {_COLUMNS[each] for each in query.by}
    wanted |= {_SUBJECTS[query.subject]} if query.subject else set()
    wanted |= {"key_hash"} if query.key is not None else set()
    wanted |= {"model_group"} if query.group is not None else set()
    match query.subject:
        case Subject.CUSTOMER:
            return daily_customers
        case Subject.TAG:
            return daily_tags
        case _:
            return next(table for table in (daily_totals, daily_keys, daily_spend) if wanted <= set(table.c.keys()))


def _column(table: sa.Table, dimension: Dimension) -> sa.Column[Any]:
    if _COLUMNS[dimension] not in table.c:
        raise InvalidRequest(f"There are no sums by {dimension} of customers or tags.")
    return table.c[_COLUMNS[dimension]]


def _sums(table: sa.Table) -> Iterator[sa.ColumnElement[int]]:
    for name in SUMS:  # PostgreSQL would make slow decimals of them
        yield sa.cast(sa.func.sum(table.c[name]), sa.BigInteger)


async def _conditions(
    connection: AsyncConnection, table: sa.Table, query: ActivityQuery, owners: Mapping[str, list[str]]
) -> list[sa.ColumnElement[bool]]:
    conditions = []
    if query.start is not None:
        conditions.append(table.c.day >= number_of(query.start))
    if query.end is not None:
        conditions.append(table.c.day <= number_of(query.end))
    if query.subject is not None:
        subject = table.c[_SUBJECTS[query.subject]]
        conditions.append(subject != "")
        if query.ids:
            conditions.append(among(connection, subject, owners))
    if query.key is not None:
        lineage = (await _lineages(connection, [query.key]))[query.key]
        conditions.append(among(connection, _column(table, Dimension.KEY), lineage))
    if query.group is not None:
        conditions.append(equal(table.c.model_group, query.group))
    return conditions


def _activities(
    rows: Iterable[tuple[Any, ...]], query: ActivityQuery, owners: Mapping[str, list[str]]
) -> list[Activity]:
    """Newest day first. Rows of a key's earlier hashes are one with those of the hash that it has now."""
    folded: dict[tuple[Any, ...], _Sums] = {}
    for row in rows:
        keys, sums = row[: -len(SUMS)], row[-len(SUMS) :]
        day, *others = keys if query.daily else (None, *keys)
        subject, *by = others if query.subject else ("", *others)
        for owner in owners[subject] if query.ids and query.subject else (subject,):
            key = (day, owner, *by)
            folded[key] = tuple(map(add, folded[key], sums)) if key in folded else sums
    ordered = sorted(folded.items())
    if query.daily:
        ordered.sort(key=lambda item: item[0][0], reverse=True)
    return [_an_activity(keys, sums) for keys, sums in ordered]


def _an_activity(keys: tuple[Any, ...], sums: _Sums) -> Activity:
    day, subject, *by = keys
    cost, prompt, completion, read, written, requests, succeeded = sums
    return Activity(
        day=None if day is None else day_of(day),
        subject=subject,
        by=tuple(by),
        cost=cost,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cache_read_tokens=read,
        cache_write_tokens=written,
        requests=requests,
        succeeded=succeeded,
        failed=requests - succeeded,
    )
