"""Batches in the store: taken in from their files, counted while they run, read out when they are done."""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from broker.records import BatchQuery, BatchRecord, BatchStatus, EndedLine, JobRecord, Progress, ProviderBatch
from broker.store import batch_lines, batch_rows, provider_batches
from broker.store.transactions import Transactions
from shared.jobs import JobState


class BatchStore:
    """A `broker.store_interfaces.Batches`."""

    def __init__(self, transactions: Transactions, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._now = now

    async def add(self, record: BatchRecord) -> BatchRecord | None:
        now = self._now()
        return await self._transactions.write(lambda connection: batch_rows.add(connection, record, now))

    async def keyed(self, owner: str, idempotency_key: str) -> BatchRecord | None:
        now = self._now()
        return await self._transactions.read(
            lambda connection: batch_rows.keyed(connection, owner, idempotency_key, now)
        )

    async def get(self, batch_id: str, owner: str | None = None) -> BatchRecord | None:
        return await self._transactions.read(lambda connection: batch_rows.get(connection, batch_id, owner))

    async def find(self, query: BatchQuery) -> list[BatchRecord]:
        return await self._transactions.read(lambda connection: batch_rows.find(connection, query))

    async def take_in(
        self, batch_id: str, records: Sequence[JobRecord], progress: Progress, *, held: bool = True
    ) -> bool:
        return await self._transactions.write(
            lambda connection: batch_lines.take_in(connection, batch_id, records, progress, held=held)
        )

    async def known_custom_ids(self, batch_id: str, custom_ids: Sequence[str]) -> set[str]:
        return await self._transactions.read(
            lambda connection: batch_lines.known_custom_ids(connection, batch_id, custom_ids)
        )

    async def move(  # noqa: PLR0913 - as the protocol has it
        self,
        batch_id: str,
        status: BatchStatus,
        now: float,
        *,
        expected: Sequence[BatchStatus],
        output_file_id: str = "",
        error_file_id: str = "",
        errors: Sequence[dict[str, object]] = (),
    ) -> BatchRecord | None:
        change = batch_rows.Change(status, now, expected, output_file_id, error_file_id, errors)
        return await self._transactions.write(lambda connection: batch_rows.move(connection, batch_id, change))

    async def unfinished_lines(self, batch_id: str) -> dict[JobState, int]:
        return await self._transactions.read(lambda connection: batch_lines.unfinished(connection, batch_id))

    async def cancel_lines(self, batch_id: str, state: JobState, now: float) -> int:
        return await self._transactions.write(lambda connection: batch_lines.cancel(connection, batch_id, state, now))

    async def dispatched_lines(self, batch_id: str, after_line: int = 0, limit: int = 1000) -> list[str]:
        return await self._transactions.read(
            lambda connection: batch_lines.dispatched(connection, batch_id, after_line, limit)
        )

    async def endings(self, batch_id: str, *, completed: bool) -> AsyncIterator[list[EndedLine]]:
        line = 0
        while page := await self._page_of_endings(batch_id, completed, line):
            yield page
            line = page[-1].line

    async def _page_of_endings(self, batch_id: str, completed: bool, after_line: int) -> list[EndedLine]:
        # A transaction a page: one over all would hold a connection for as long as the reader takes.
        return await self._transactions.read(
            lambda connection: batch_lines.endings(connection, batch_id, completed, after_line)
        )

    async def purge(self, now: float, older_than: float, limit: int) -> int:
        return await self._transactions.write(lambda connection: batch_rows.purge(connection, older_than, limit))

    async def add_provider_batch(self, record: ProviderBatch) -> None:
        await self._transactions.write(lambda connection: provider_batches.add(connection, record))

    async def save_provider_batch(self, record: ProviderBatch) -> None:
        await self._transactions.write(lambda connection: provider_batches.save(connection, record))

    async def provider_batches(self, batch_id: str | None = None) -> list[ProviderBatch]:
        return await self._transactions.read(lambda connection: provider_batches.unsettled(connection, batch_id))

    async def consigned(self, provider_batch: str, after_line: int = 0, limit: int = 500) -> list[JobRecord]:
        return await self._transactions.read(
            lambda connection: batch_lines.consigned(connection, provider_batch, after_line, limit)
        )

    async def queued_lines(
        self, batch_id: str, provider: str, after_line: int = 0, limit: int = 500
    ) -> list[JobRecord]:
        return await self._transactions.read(
            lambda connection: batch_lines.queued(connection, batch_id, provider, after_line, limit)
        )

    async def lines(self, batch_id: str, job_ids: Sequence[str]) -> list[JobRecord]:
        return await self._transactions.read(lambda connection: batch_lines.some(connection, batch_id, job_ids))
