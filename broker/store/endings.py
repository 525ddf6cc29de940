"""How durable jobs end: their state and answer, their batch's counters, and the webhooks owed, in one transaction."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.records import WebhookDelivery
from broker.store import bulk, job_rows, notices, webhooks
from broker.store.job_tables import batches, job_requests, jobs
from shared.jobs import Ending, JobState

_CHUNK = 16 * 1024 * 1024  # bytes of answers that one statement carries; the last of them may go over it

_COLUMNS = ("state", "finished_at", "attempts", "cost_nanodollars", "error", "served", "answer")
_END = bulk.update(
    jobs,
    _COLUMNS,
    {
        "moved_at": "given.finished_at",
        "expires_at": "CASE WHEN batch_id = '' THEN given.finished_at + result_ttl END",
    },
)


async def end(connection: AsyncConnection, endings: Sequence[Ending], now: float) -> list[str]:
    """End those jobs that are unfinished; returns their ids. Of several endings of a job the first counts."""
    first: dict[str, Ending] = {}
    for ending in endings:
        first.setdefault(ending.job_id, ending)
    columns = (jobs.c.owner, jobs.c.batch_id, jobs.c.webhook)
    unfinished = await job_rows.lock(connection, first, (), *columns)
    for chunk in _chunks(first[row.id] for row in unfinished):
        large = bulk.Bytes()
        await bulk.execute(connection, _END, [job_rows.ending_row(ending, large) for ending in chunk], large)
    await count(connection, [(row.batch_id, first[row.id]) for row in unfinished if row.batch_id])
    await webhooks.owe(connection, await _notices(connection, [row for row in unfinished if row.webhook], first, now))
    return [row.id for row in unfinished]


def _chunks(endings: Iterable[Ending]) -> Iterator[list[Ending]]:
    chunk: list[Ending] = []
    size = 0
    for ending in endings:
        chunk.append(ending)
        size += len(ending.answer)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def count(connection: AsyncConnection, ended: Iterable[tuple[str, Ending]]) -> None:
    """Add endings to the counters of their batches."""
    sums: dict[str, list[int]] = {}
    for batch_id, ending in ended:
        counters = sums.setdefault(batch_id, [0, 0, 0])
        counters[0 if ending.state is JobState.COMPLETED else 1] += 1
        counters[2] += ending.cost
    for batch_id, (completed, failed, cost) in sorted(sums.items()):
        await connection.execute(
            sa.update(batches)
            .where(batches.c.id == batch_id)
            .values(
                completed=batches.c.completed + completed,
                failed=batches.c.failed + failed,
                cost_nanodollars=batches.c.cost_nanodollars + cost,
            )
        )


async def _notices(
    connection: AsyncConnection, rows: Sequence[sa.Row[Any]], endings: dict[str, Ending], now: float
) -> list[WebhookDelivery]:
    if not rows:
        return []
    statement = sa.select(job_requests.c.id, job_requests.c.model, job_requests.c.custom_id).where(
        bulk.among(connection, job_requests.c.id, [row.id for row in rows])
    )
    payloads = {
        job_id: notices.job_payload(endings[job_id], model, custom_id)
        for job_id, model, custom_id in await connection.execute(statement)
    }
    return [
        notices.of_job(notices.Addressee(row.webhook, row.owner), endings[row.id], payloads[row.id], now)
        for row in rows
    ]
