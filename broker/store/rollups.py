"""The ledger's sums by UTC day, kept while it is written.

Sums of a transaction's new rows are made here first, so that a database adds one row for each key, model and the like,
and not one for each attempt.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.store import bulk
from broker.store.tables import SUMS, TEXT_LENGTH, daily_customers, daily_keys, daily_spend, daily_tags, daily_totals
from shared.jobs import Outcome, Status

DAY = 86_400
"""Seconds."""

_Dimensions: TypeAlias = tuple[int, *tuple[str, ...]]  # the day, then texts in the order of the table's columns
_Amounts: TypeAlias = tuple[int, ...]  # in the order of `SUMS`
_Sums: TypeAlias = dict[_Dimensions, _Amounts]

# Whoever writes several takes them in this order, and in each the rows by their key: two recorders that add to the same
# sums then wait for each other in one direction only. Those with fewer rows, where recorders meet more often, are last.
_TABLES = (daily_spend, daily_customers, daily_tags, daily_keys, daily_totals)
_ADD = {table.name: bulk.accumulate(table, SUMS) for table in _TABLES}


async def grow(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> None:
    """Add what was added to the ledger in the same transaction."""
    for table, sums in _sums(outcomes).items():
        if sums:
            statement = _ADD[table.name][connection.dialect.name]
            await connection.execute(statement, {"rows": bulk.document(_rows(table, sums))})


def _sums(outcomes: Iterable[Outcome]) -> Mapping[sa.Table, _Sums]:
    spend: _Sums = {}
    customers: _Sums = {}
    tags: _Sums = {}
    keys: _Sums = {}
    totals: _Sums = {}
    for each in outcomes:
        day = int(each.started_at // DAY)
        key, team, user = each.key[:TEXT_LENGTH], each.team[:TEXT_LENGTH], each.user[:TEXT_LENGTH]
        served = (each.group[:TEXT_LENGTH], each.upstream_model[:TEXT_LENGTH], each.provider[:TEXT_LENGTH])
        endpoint = each.endpoint[:TEXT_LENGTH]
        amounts = _amounts(each)
        _add(spend, (day, key, team, user, *served, endpoint), amounts)
        _add(keys, (day, key, team, user), amounts)
        _add(totals, (day, *served, endpoint), amounts)
        if each.customer:
            _add(customers, (day, each.customer[:TEXT_LENGTH], *served), amounts)
        for tag in {tag[:TEXT_LENGTH] for tag in each.tags if tag}:
            _add(tags, (day, tag, key, *served), amounts)
    return dict(zip(_TABLES, (spend, customers, tags, keys, totals), strict=True))


def _amounts(outcome: Outcome) -> _Amounts:
    usage = outcome.usage
    written = usage.cache_write + usage.cache_write_1h
    succeeded = int(outcome.status is Status.SUCCESS)
    return (outcome.cost, usage.prompt, usage.output, usage.cache_read, written, 1, succeeded)


def _add(sums: _Sums, dimensions: _Dimensions, amounts: _Amounts) -> None:
    so_far = sums.get(dimensions)
    sums[dimensions] = amounts if so_far is None else tuple(map(add, so_far, amounts))


def _rows(table: sa.Table, sums: _Sums) -> list[dict[str, int | str]]:
    """In the order of the primary key."""
    names = ("day", "id", *table.info["dimensions"], *SUMS)
    rows: list[tuple[int | str, ...]] = [
        (dimensions[0], _id(dimensions[1:]), *dimensions[1:], *amounts) for dimensions, amounts in sums.items()
    ]
    rows.sort()  # no two have the same day and id, so nothing else is compared
    return [dict(zip(names, row, strict=True)) for row in rows]


def _id(texts: Iterable[str]) -> str:
    """As the migration that filled the rollups made it. No text has a NUL in it."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
