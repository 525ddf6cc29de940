"""Spend by day, and altogether: from the sums by day, or from the ledger where a question is finer than these."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import DailySpend, SpendQuery, SpendSummary
from broker.store.ledger import equal, equalities, filters, seconds, served_by
from broker.store.rollups import DAY
from broker.store.tables import daily_keys, daily_spend, daily_totals, ledger

_EPOCH = date(1970, 1, 1)
_WORK_MEMORY = "64MB"

_Sums: TypeAlias = sa.Select[int, str, str, int]  # day, `user` or `model`, its name, and what it cost


def day_of(number: int) -> date:
    return _EPOCH + timedelta(days=number)


def number_of(day: date) -> int:
    """Days since the epoch."""
    return (day - _EPOCH).days


async def summary(connection: AsyncConnection) -> SpendSummary:
    """Sums over the whole ledger."""
    sums = daily_totals.c
    statement = sa.select(sums.upstream_model, sa.func.sum(sums.cost_nanodollars), sa.func.sum(sums.requests))
    found = await connection.execute(statement.group_by(sums.upstream_model))
    rows = [(name, int(cost), int(attempts)) for name, cost, attempts in found]
    return SpendSummary(
        cost=sum(cost for _, cost, _ in rows),
        attempts=sum(attempts for _, _, attempts in rows),
        by_model={name: cost for name, cost, _ in rows},
    )


async def make_room(connection: AsyncConnection) -> None:
    """For sums in memory, where PostgreSQL would sort on disk: until the transaction ends."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text(f"SET LOCAL work_mem = '{_WORK_MEMORY}'"))


async def daily(connection: AsyncConnection, query: SpendQuery) -> list[DailySpend]:
    """Sums by day and user, and by day and model, folded into one entry a day."""
    await make_room(connection)
    sums = _from_rollups(query) if _is_whole(query) else _from_ledger(connection.dialect.name, query)
    days: dict[int, DailySpend] = {}
    # In one statement, so that both are of the same moment.
    rows: list[tuple[Any, ...]] = [tuple(row) for row in await connection.execute(sa.union_all(*sums))]
    for number, which, name, amount in sorted(rows):
        spend = days.get(number) or DailySpend(str(day_of(number)), 0, {}, {})
        if which == "user":
            spend.users[name] = int(amount)
            spend = replace(spend, cost=spend.cost + int(amount))
        else:
            spend.models[name] = int(amount)
        days[number] = spend
    return list(days.values())


def _is_whole(query: SpendQuery) -> bool:
    """Whether it asks for whole days, and for nothing that the sums by day do not know."""
    moments = [seconds(moment) for moment in (query.start, query.end) if moment is not None]
    finer = (query.request_id, query.customer, query.min_cost, query.max_cost)
    return not query.statuses and all(each is None for each in finer) and not any(each % DAY for each in moments)


def _from_rollups(query: SpendQuery) -> Iterator[_Sums]:
    """Each from the table that has the fewest rows for it."""
    users = daily_keys if query.model is None else daily_spend
    models = daily_spend if equalities(query) else daily_totals
    for which, table, name in (("user", users, "user_id"), ("model", models, "upstream_model")):
        c = table.c
        conditions = [equal(c[column], value) for column, value in equalities(query).items()]
        if query.start is not None:
            conditions.append(c.day >= int(seconds(query.start) // DAY))
        if query.end is not None:
            conditions.append(c.day < int(seconds(query.end) // DAY))
        if query.model is not None:
            conditions.append(served_by(table, query.model))
        yield _by(which, c.day, c[name], c.cost_nanodollars).where(*conditions)


def _from_ledger(dialect: str, query: SpendQuery) -> Iterator[_Sums]:
    c = ledger.c
    columns = (_day(dialect).label("day"), c.user_id.label("user"), c.upstream_model.label("model"))
    found = sa.select(*columns, c.cost_nanodollars.label("cost")).where(*filters(query)).cte("found")
    for which in ("user", "model"):
        yield _by(which, found.c.day, found.c[which], found.c.cost)


def _by(which: str, day: sa.ColumnElement[int], name: sa.ColumnElement[str], cost: sa.ColumnElement[int]) -> _Sums:
    return sa.select(day, sa.literal(which), name, sa.func.sum(cost)).group_by(day, name)


def _day(dialect: str) -> sa.ColumnElement[int]:
    """Whole days since the epoch, UTC. SQLite's cast rounds down and it need not have `floor`; PostgreSQL's rounds to
    the nearest."""
    days = ledger.c.started_at / sa.literal_column(f"{DAY}.0")
    return sa.cast(sa.func.floor(days) if dialect == "postgresql" else days, sa.BigInteger)
