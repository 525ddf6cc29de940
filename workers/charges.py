"""Charges: tells the accounts which rows the ledger has, so that what was reserved is spent."""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from broker.account_interfaces import Accounts, Charge
from shared.accounts import charged
from shared.errors import Unavailable
from shared.jobs import Outcome

_RETRY = 1.0  # seconds
_MOST_OWED = 20_000  # rows; of those that are forgotten, what was reserved stays reserved until its time is over
_AT_ONCE = 2_000  # rows in one call

log = structlog.get_logger(__name__)


class Charges:
    """The ledger is the truth, so accounts that are away hold up nobody: what they missed is owed, and as soon as they
    answer they forget what they know, ask the ledger, and are told of the rows that they missed. That they forget once
    at the start too is for the process before, which may have died between a commit and its charge."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._owed: deque[Charge] = deque(maxlen=_MOST_OWED)
        self._doubt = asyncio.Event()
        self._doubt.set()
        self._away = False

    async def charge(self, outcomes: Iterable[Outcome]) -> None:
        """Call it when they are committed, and before the queue hears of it."""
        rows = [_charge(each) for each in outcomes if each.cost or each.last]
        if not rows:
            return
        if self._away:  # `run` asks; a commit should not wait for an answer that does not come
            self._owed.extend(rows)
            return
        try:
            await self._accounts.charge(rows)
        except Unavailable as error:
            self._owed.extend(rows)
            self._note_away(error)

    async def run(self) -> None:
        """Put right what went wrong, until cancelled."""
        while True:
            await self._doubt.wait()
            self._doubt.clear()  # first: a charge that fails meanwhile is a new doubt
            try:
                await self._accounts.forget()
                await self._pay()
            except Unavailable as error:
                self._note_away(error)
                await asyncio.sleep(_RETRY)

    async def _pay(self) -> None:
        while self._owed:
            rows = [self._owed.popleft() for _ in range(min(len(self._owed), _AT_ONCE))]
            try:
                await self._accounts.charge(rows)
            except Unavailable:
                self._owed.extendleft(reversed(rows))
                raise
        if self._away:
            self._away = False
            log.info("accounts_available")

    def _note_away(self, error: Unavailable) -> None:
        self._doubt.set()
        if not self._away:
            self._away = True
            log.warning("accounts_unavailable", error=error.message, then="the ledger is asked again")


def _charge(row: Outcome) -> Charge:
    return Charge(row.job_id, tuple(charged(row)), row.started_at, row.cost, row.last)
