"""Alerts: operators hear, once a window, of budgets that are used up or nearly, and of soft budgets that are crossed.

Events and fields are those of LiteLLM's `budget_alerts`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from broker.account_records import Entry, EntryQuery, KeyQuery, Kind
from broker.records import KeyRecord
from broker.store_interfaces import Store
from shared.accounts import NEVER, key_account, team_account, user_account
from shared.clock import Clock
from shared.ids import uuid7
from shared.windows import Calendar
from workers.alert_delivery import Messenger, Target
from workers.budget_watch import Alert, Watched, alerts, watched

PAUSE = 60.0  # seconds between looks
_PAGE = 500  # keys, users or teams read at a time
_MOST = 200  # alerts sent in a round; the others follow in the next
_HOLD = 60.0  # seconds after which an alert whose sender died is sent again
_FOR_EVER = 10 * 366 * 86_400.0  # seconds that an alert about a budget without an end is remembered
_MOST_TOLD = 10_000  # alerts that this process remembers; of others the store does

log = structlog.get_logger(__name__)


class Alerts:
    """Run by one process at a time. Each alert is sent at least once, and its note, a lease in the store that ends with
    the budget's window, keeps it from being sent again, by whomever."""

    def __init__(self, store: Store, clock: Clock, calendar: Calendar, messenger: Messenger) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._messenger = messenger
        self._told: OrderedDict[str, float] = OrderedDict()
        """Until when (seconds since the epoch) the store need not be asked."""

    async def round(self) -> float:
        """Look once. Returns the seconds until the next look. Raises `Unavailable`."""
        sent = 0
        async with self._messenger:
            async for page in self._pages():
                for alert in await self._due(page):
                    for target in self._messenger.targets:
                        sent += await self._tell(alert, target)
                        if sent >= _MOST:
                            return PAUSE
        return PAUSE

    async def _pages(self) -> AsyncIterator[list[Watched]]:
        async for keys in self._keys():
            yield await self._watched({key_account(key.hash): key for key in keys})
        async for users in self._entries(Kind.USER):
            yield await self._watched({user_account(user.id): user for user in users})
        async for teams in self._entries(Kind.TEAM):
            yield await self._watched({team_account(team.id): team for team in teams})

    async def _keys(self) -> AsyncIterator[list[KeyRecord]]:
        offset = 0
        while page := await self._store.keys.find(KeyQuery(descending=False, offset=offset, limit=_PAGE)):
            yield page
            offset += _PAGE

    async def _entries(self, kind: Kind) -> AsyncIterator[list[Entry]]:
        offset = 0
        while page := await self._find(kind, offset):
            yield page
            offset += _PAGE

    async def _find(self, kind: Kind, offset: int) -> list[Entry]:
        return await self._store.directory.find(EntryQuery(kind, newest_first=False, offset=offset, limit=_PAGE))

    async def _watched(self, records: Mapping[str, KeyRecord | Entry]) -> list[Watched]:
        """The budgets of these, which are given by account."""
        ids = tuple({str(each.fields["budget_id"]) for each in records.values() if each.fields.get("budget_id")})
        query = EntryQuery(Kind.BUDGET, ids=ids, limit=_PAGE)
        budgets = {each.id: each for each in await self._store.directory.find(query)} if ids else {}
        now = self._clock.now()
        found: list[Watched] = []
        for account, record in records.items():
            found += watched(record, account, budgets, self._calendar, now)
        return found

    async def _due(self, page: Sequence[Watched]) -> list[Alert]:
        """What there is to be told of these budgets. Sums by day find those that it is worth to be exact about."""
        bill = self._store.bill
        totals: dict[tuple[str, float], int] = {}
        for subject, start in {(each.subject, each.budget.start) for each in page}:
            ids = [each.id for each in page if (each.subject, each.budget.start) == (subject, start)]
            totals |= {(id, start): spent for id, spent in (await bill.totals(subject, ids, start)).items()}
        due: list[Alert] = []
        for each in page:
            budget = each.budget
            if alerts(each, budget.base + totals.get((each.id, budget.start), 0)):
                due += alerts(each, budget.base + await bill.spent(each.account, budget.start, budget.end))
        return due

    async def _tell(self, alert: Alert, target: Target) -> bool:
        """Whether the target was told now."""
        store, now = self._store, self._clock.now()
        note = _note(alert, target)
        if self._told.get(note, 0.0) > now:
            return False
        holder = uuid7()
        if not await store.lease(note, holder, _HOLD, now):
            self._remember(note, now + _HOLD)
            return False
        if not await self._messenger.send(alert, target, now):
            await store.lease(note, holder, 0, now)
            return False
        end = alert.about.budget.end
        until = now + _FOR_EVER if end == NEVER else end
        await store.lease(note, holder, until - now, now)
        self._remember(note, until)
        log.info("alert_sent", kind=alert.event, account=alert.about.account, to=target.kind)
        return True

    def _remember(self, note: str, until: float) -> None:
        self._told[note] = until
        self._told.move_to_end(note)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)


def _note(alert: Alert, target: Target) -> str:
    """The same in every window of the budget, whose notes follow each other; another one for another limit."""
    text = f"{alert.about.account}|{alert.mark}|{alert.limit}|{target.kind}|{target.url}"
    return f"alert:{hashlib.sha256(text.encode()).hexdigest()[:40]}"
