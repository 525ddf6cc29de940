"""`python -m benchmarks.bill`: how long the bill takes to answer over a month of ten million rows.

    python -m benchmarks.bill
    python -m benchmarks.bill --rows 1000000

PostgreSQL of the run's own makes the rows by itself: 30 days, 1,000 keys in 50 teams of 200 users, every key on each of
20 models, 5,000 customers of these keys, two tags a row that come with its key. The sums by day are
filled by the migration, and every question goes through the store, so the time is what a request would wait for it.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median

import asyncpg

from benchmarks.peers import FOLDER
from benchmarks.report import machine
from benchmarks.systems import ROOT
from broker.records import SpendOrder, SpendQuery
from broker.spend_records import ActivityQuery, Dimension, Subject
from broker.store.database import Database, connect
from broker.store.migrations.versions.r0005_bill import ROLLUPS, fill
from shared.accounts import NEVER, PROXY
from shared.jobs import Outcome, Status, Usage
from tests.servers import Postgres

ROWS = 10_000_000
TARGET = 200.0  # ms, of a daily report

_DAY = 86_400.0
_DAYS = 30
_START = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_BATCH = 200  # rows a transaction
_ASKED = 7  # times, after once to warm up

_LEDGER = """
INSERT INTO ledger (
    job_id, attempt, started_at, created_at, endpoint, model, model_group, deployment, provider, upstream_model, status,
    input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
    estimated, cost_nanodollars, queue_wait, ttft, duration, error_code, error_message, stream, key_hash, team_id,
    user_id, tags, response_id, customer_id
)
SELECT
    lpad(to_hex(row), 12, '0') || '-7000-8000-000000000000', 1, at, at, 'chat.completions', 'model-' || model,
    'model-' || model, 'd' || model, 'provider-' || model % 4, 'model-' || model || '-2026-01-01',
    CASE WHEN luck < 0.97 THEN 'success' ELSE 'failure' END, 1000 + model, model, 0, 0, 200, 0, false,
    1000000 + row % 1000000, 0.01, 0.3, 1.2, '', '', true, encode(sha256(key::text::bytea), 'hex'), 'team-' || key % 50,
    'user-' || key % 200, jsonb_build_array('environment-' || key % 3, 'feature-' || key % 20), 'chatcmpl-' || row,
    'customer-' || key * 5 + floor(luck * 5)::int
FROM (
    SELECT row, $2::float8 + (row - 1) * ($3::float8 / $1::bigint) AS at, floor(random() * 1000)::int AS key,
        floor(random() * 20)::int AS model, random() AS luck
    FROM generate_series(1, $1::bigint) AS row
) AS drawn
"""
_KEY = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"  # SHA-256 of "0", the first key

Question = Callable[[Database], Awaitable[object]]


def _activity(**query: object) -> Question:
    asked = ActivityQuery(start=date(2026, 1, 1), end=date(2026, 1, 30), **query)  # type: ignore[arg-type]
    return lambda store: store.bill.activity(asked)


_RAGGED = (_START + _DAY / 2, _START + 20.25 * _DAY)
_MONTH = SpendQuery(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 31, tzinfo=UTC))
_HOUR = SpendQuery(start=datetime(2026, 1, 9, 10, tzinfo=UTC), end=datetime(2026, 1, 9, 11, tzinfo=UTC), limit=50)

QUESTIONS: dict[str, Question] = {
    "daily report": _activity(),
    "daily report by model": _activity(by=(Dimension.MODEL, Dimension.PROVIDER)),
    "daily report by team": _activity(subject=Subject.TEAM),
    "daily report by user": _activity(subject=Subject.USER),
    "daily report by key": _activity(subject=Subject.KEY),
    "daily report by tag": _activity(subject=Subject.TAG),
    "daily report of one team, by key and model": _activity(
        subject=Subject.TEAM, ids=("team-7",), by=(Dimension.KEY, Dimension.MODEL)
    ),
    "daily report of one key, by model": _activity(subject=Subject.KEY, ids=(_KEY,), by=(Dimension.MODEL,)),
    "daily report of one customer": _activity(subject=Subject.CUSTOMER, ids=("customer-7",)),
    "month by key": _activity(subject=Subject.KEY, daily=False),
    "month by customer": _activity(subject=Subject.CUSTOMER, daily=False),
    "month by day, users and models (`/spend/logs`)": lambda store: store.daily(_MONTH),
    "everything (`/global/spend`)": lambda store: store.summary(),
    "spent: a key, for ever": lambda store: store.bill.spent(f"key:{_KEY}", 0.0, NEVER),
    "spent: a key, ragged": lambda store: store.bill.spent(f"key:{_KEY}", *_RAGGED),
    "spent: a key with a model, ragged": lambda store: store.bill.spent(f"key:{_KEY}/model-3", *_RAGGED),
    "spent: a team, ragged": lambda store: store.bill.spent("team:team-7", *_RAGGED),
    "spent: a member, ragged": lambda store: store.bill.spent("member:team-7/user-7", *_RAGGED),
    "spent: a customer, ragged": lambda store: store.bill.spent("customer:customer-7", *_RAGGED),
    "spent: everybody, ragged": lambda store: store.bill.spent(PROXY, *_RAGGED),
    "newest 50 rows": lambda store: store.spend(SpendQuery(limit=50)),
    "newest 50 failures": lambda store: store.spend(SpendQuery(limit=50, statuses=(Status.FAILURE,))),
    "dearest 50 rows of an hour": lambda store: store.spend(SpendQuery(_HOUR.start, _HOUR.end, order=SpendOrder.COST)),
    "count of an hour": lambda store: store.bill.count(_HOUR),
}


@dataclass(slots=True)
class Results:
    rows: int
    made: float = 0.0
    """Seconds to make the ledger and its indexes."""
    filled: float = 0.0
    """Seconds that the migration takes for the sums."""
    tables: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Rows and MiB, indexes included."""
    times: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    """By question: median and slowest in milliseconds, and the lines of the answer."""
    recording: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Milliseconds a row, and of these CPU of the recorder's process."""
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bill", description="The bill over a month of rows.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the ledger ({ROWS:,})")
    rows = parser.parse_args().rows
    out = (ROOT / "benchmarks" if rows == ROWS else FOLDER) / "results"
    results = asyncio.run(_measure(rows))
    print(_write(results, out))


async def _measure(rows: int) -> Results:
    results = Results(rows)
    async with _database(results) as (store, admin):
        for name, question in QUESTIONS.items():
            results.times[name] = await _time(question, store)
            print(f"{name:50} {results.times[name][0]:8.1f} ms", flush=True)
        for name in ("ledger", *ROLLUPS):
            size = await admin.fetchval("SELECT pg_total_relation_size($1::text::regclass)", name)
            results.tables[name] = (await admin.fetchval(f"SELECT count(*) FROM {name}"), size / 2**20)
        results.recording["20 different sums in a transaction"] = await _record(store, keys=1)
        results.recording["as many as rows"] = await _record(store, keys=1_000)
    return results


@asynccontextmanager
async def _database(results: Results) -> AsyncIterator[tuple[Database, asyncpg.Connection]]:
    async with Postgres() as server, connect(server.url) as store:
        await store.migrate()
        admin = await asyncpg.connect(server.url, server_settings={"maintenance_work_mem": "512MB"})
        try:
            begun = time.perf_counter()
            async with _without_indexes(admin, "ledger"):
                await admin.execute("SELECT setseed(0.5)")
                await admin.execute(_LEDGER, results.rows, _START, _DAYS * _DAY)
            results.made = time.perf_counter() - begun
            begun = time.perf_counter()
            async with _without_indexes(admin, *ROLLUPS):
                await store._transactions.migrate(lambda connection: connection.run_sync(fill))
            results.filled = time.perf_counter() - begun
            await admin.execute("VACUUM ANALYZE")
            print(f"made in {results.made:.0f} s, filled in {results.filled:.0f} s", flush=True)
            yield store, admin
        finally:
            await admin.close()


@asynccontextmanager
async def _without_indexes(admin: asyncpg.Connection, *tables: str) -> AsyncIterator[None]:
    """They are faster made than kept."""
    indexes = await admin.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY($1) AND indexname NOT LIKE '%_pkey'", tables
    )
    for index in indexes:
        await admin.execute(f"DROP INDEX {index['indexname']}")
    yield
    for index in indexes:
        await admin.execute(index["indexdef"])


async def _time(question: Question, store: Database) -> tuple[float, float, int]:
    answer = await question(store)
    times = []
    for _ in range(_ASKED):
        begun = time.perf_counter()
        await question(store)
        times.append((time.perf_counter() - begun) * 1000)
    return median(times), max(times), len(answer) if isinstance(answer, list) else 1


async def _record(store: Database, keys: int, batches: int = 50) -> tuple[float, float]:
    made = [[_outcome(batch * _BATCH + row, keys) for row in range(_BATCH)] for batch in range(batches)]
    begun, cpu = time.perf_counter(), time.process_time()
    for batch in made:
        await store.record(batch)
    rows = batches * _BATCH
    return (time.perf_counter() - begun) * 1000 / rows, (time.process_time() - cpu) * 1000 / rows


def _outcome(number: int, keys: int) -> Outcome:
    key, model = number * 7919 % keys, number % 20
    return Outcome(
        job_id=f"{keys:x}-{number:032x}",
        attempt=1,
        started_at=_START + _DAYS * _DAY + number,
        endpoint="chat.completions",
        model=f"model-{model}",
        group=f"model-{model}",
        deployment=f"d{model}",
        provider=f"provider-{model % 4}",
        upstream_model=f"model-{model}-2026-01-01",
        status=Status.SUCCESS,
        usage=Usage(input=1000, output=200),
        cost=1_000_000,
        key=f"{key:064x}",
        team=f"team-{key % 50}",
        user=f"user-{key % 200}",
        customer=f"customer-{key}",
        tags=("environment-0",),
        response_id=f"chatcmpl-{number:032x}",
    )


# --- Report ---------------------------------------------------------------------------------------------------------


def _write(results: Results, out: Path) -> str:
    text = _markdown(results)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "bill.md"
    path.write_text(text)
    return f"\n{text}\nwritten to {path}"


def _markdown(results: Results) -> str:
    report = results.times["daily report"][0]
    lines = [
        "# The bill",
        "",
        f"A ledger of {results.rows:,} rows in {_DAYS} days, made by `python -m benchmarks.bill`.",
        f"Machine: `{json.dumps(machine())}`, load average {results.load_average:.1f}. PostgreSQL as it comes.",
        "",
        f"A daily report: {report:.1f} ms (target {TARGET:.0f} ms: {'met' if report <= TARGET else 'missed'}).",
        "",
        "| question | median ms | slowest ms | lines |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {mid:.1f} | {most:.1f} | {count:,} |" for name, (mid, most, count) in results.times.items()),
        "",
        "| table | rows | MiB with indexes |",
        "|---|---:|---:|",
        *(f"| {name} | {count:,} | {size:,.0f} |" for name, (count, size) in results.tables.items()),
        "",
        f"The migration fills the sums of this ledger in {results.filled:.0f} s.",
        "",
        f"Recording {_BATCH} rows a transaction, each with a customer and a tag, into these tables:",
        "",
        "| sums | ms a row | CPU ms a row in the recorder |",
        "|---|---:|---:|",
        *(f"| {name} | {wall:.3f} | {cpu:.3f} |" for name, (wall, cpu) in results.recording.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
