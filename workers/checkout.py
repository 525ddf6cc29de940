"""The checkout: gives back, when a job's life ends, what the job holds in its accounts."""

import asyncio
from collections.abc import Sequence

import structlog

from broker.account_interfaces import Accounts
from shared.accounts import charged
from shared.errors import Unavailable
from shared.jobs import Job, Outcome

_MOST = 1_000  # under way at a time; more of them only ever wait for accounts that do not answer
_AT_A_TIME = 100  # jobs that end together
_LAST = 5.0  # seconds that a stopping process waits for those under way

log = structlog.get_logger(__name__)


class Checkout:
    """An end is an end, whatever the accounts say: what cannot be given back ends by itself, with its reservation.

    Without `accounts`, and for jobs that carry none, nothing is done. With `ledger` off (`disable_spend_logs`) no row
    will ever be charged, so no money stays reserved for one.
    """

    def __init__(self, accounts: Accounts | None, *, ledger: bool = True) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._leaving: set[asyncio.Task[None]] = set()
        self._away = False

    def start(self, job: Job, rows: Sequence[Outcome] | None) -> "asyncio.Task[None] | None":
        """The job's life is over; `rows` are those that the ledger does not have yet, None if they are not known.
        Awaiting the task is optional: it raises nothing."""
        if self._accounts is None or not job.accounts:
            return None
        if len(self._leaving) >= _MOST:
            self._note_away("too many wait for an answer")
            return None
        task = asyncio.create_task(self._leave(job, rows), name="checkout")
        self._leaving.add(task)  # owns it; `close` awaits what is left
        task.add_done_callback(self._leaving.discard)
        return task

    async def abandoned(self, job_id: str, accounts: Sequence[str]) -> None:
        """A job ended without a worker, or without one that is known to be alive: what it cost comes with its rows."""
        if self._accounts is not None and accounts:
            await self._finish(job_id, accounts, None, 0)

    async def all_abandoned(self, jobs: Sequence[Job]) -> None:
        """As `abandoned`, of rows of the store. A line's accounts are not in its row, so all are asked that it may
        have."""
        for begin in range(0, len(jobs), _AT_A_TIME):
            some = jobs[begin : begin + _AT_A_TIME]
            await asyncio.gather(*(self.abandoned(job.id, job.accounts or tuple(charged(job))) for job in some))

    async def close(self) -> None:
        """Wait, but not for ever, for those under way."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_LAST)

    async def _leave(self, job: Job, rows: Sequence[Outcome] | None) -> None:
        tokens = None if rows is None else sum(row.usage.total for row in rows)
        # Money stays reserved where the charge of a last row will end that: an account of the first model hears nothing
        # of a row of a fallback.
        charges = {account for row in rows or () if self._ledger and row.last for account in charged(row)}
        billed = [account for account in job.accounts if account in charges]
        rest = [account for account in job.accounts if account not in charges]
        if billed:
            await self._finish(job.id, billed, tokens, sum(row.cost for row in rows or ()))
        if rest:
            await self._finish(job.id, rest, tokens, 0)

    async def _finish(self, job_id: str, accounts: Sequence[str], tokens: int | None, cost: int) -> None:
        assert self._accounts is not None
        try:
            await self._accounts.finish(job_id, accounts, tokens=tokens, cost=cost)
        except Unavailable as error:
            self._note_away(error.message)
        else:
            self._away = False

    def _note_away(self, reason: str) -> None:
        if not self._away:
            self._away = True
            log.warning("accounts_not_told_of_an_end", reason=reason, then="its reservation ends by itself")
