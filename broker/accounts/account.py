"""An account's book: how full its bucket is, who holds what of it, what its budgets have spent. Pure; time is an
argument. `book.lua` and the scripts beside it are the same algorithm on Redis, operation by operation.

A budget's `spent` comes from the ledger, once, and is counted on from there. What makes that exact are *marks*, which
only grow: a window remembers the mark of its seed, a reservation the mark under which it was made. A row whose
reservation is younger than the seed cannot have been in what the ledger said, so its cost is added. Of any other row
that is not known: it is `doubtful`, counts against the budget all the same, and is gone when the ledger has been asked
again, which is due at once if it would turn somebody away, else every `ASK_AGAIN` seconds. Were the seed void instead,
an account that is never idle would never get one: some row is always on its way between the ledger and here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from broker.account_interfaces import AccountState, Admitted, Charge, Limit, Refused, Unseeded
from shared.accounts import Account, Budget

IDLE_TTL = 3600.0
"""Seconds that an account is remembered which nobody holds anything of."""
CHARGE_TTL = 7 * 86400.0
"""Seconds that the cost of a finished job stays reserved while its row is not in the ledger."""
ASK_AGAIN = 5.0
"""Seconds between two questions to the ledger for the sake of exactness alone. What is in doubt is at most the cost of
the jobs that were under way at the seed, so there is no hurry."""
SLOT_RETRY = 1.0
"""Seconds to wait for a parallel slot: one frees when its holder is done, which nobody can foretell."""
MAX_ACCOUNTS, MAX_BUDGETS = 16, 8  # in one admission
MAX_WINDOWS = 2 * MAX_BUDGETS  # twice, because processes learn of a change one after the other
MAX_MONEY = 2**53
"""Nano-dollars: below it a double, Lua's only number, is exact. Nine million dollars."""
_OVER = 60.0  # seconds that a window outlasts its end: whose clock is behind may still ask for it
_TURN = 0.01  # seconds to wait for a window that is over by our clock and not by that of who asks
_SLACK = 2e-6
"""Seconds: whoever waits exactly as long as it was told is not refused over a rounding error. Seconds since the epoch
have a resolution of 0.24 us in a double."""


class Stage(Enum):
    """Of a reservation."""

    OPEN = "open"
    FINISHED = "finished"  # only its money is held, until the row is there
    CHARGED = "charged"  # the row was there first: only its slot is held, until the job is over


@dataclass(slots=True)
class Reservation:
    expiry: float
    tokens: int
    """Taken from the bucket."""
    cost: int | None
    """Nano-dollars held; None when the account had no budget, or the row is there."""
    mark: int
    stage: Stage = Stage.OPEN


@dataclass(slots=True)
class Window:
    """What a budget has spent from its start to its end."""

    spent: int | None = None
    """None until the ledger has said; then there is a ticket."""
    doubtful: int = 0
    """Charged, and maybe in `spent` as well."""
    since: int = 0
    """Charged since the ticket was given out."""
    ticket: int | None = None
    asked_at: float = -math.inf
    seeded: int = 0
    """The mark of its seed."""


class Request(NamedTuple):
    job_id: str
    tokens: int
    cost: int
    ttl: float


class Wait(NamedTuple):
    seconds: float
    limit: Limit
    allowed: float
    used: float


@dataclass(slots=True)
class Book:
    marks: Iterator[int]
    """Greater ones than any before, for this account, ever."""
    at: float = 0.0
    """When the balances were last brought up to date; they grow from there."""
    requests: float | None = None
    tokens: float | None = None
    rpm: int | None = None
    tpm: int | None = None
    """As configured for the latest admission."""
    in_flight: int = 0
    reserved: int = 0
    """Nano-dollars, of all reservations."""
    mark: int = 0
    touched: float = -math.inf
    reservations: dict[str, Reservation] = field(default_factory=dict)
    first_expiry: float = math.inf
    """No reservation expires before."""
    windows: dict[tuple[float, float], Window] = field(default_factory=dict)

    def drop_expired(self, now: float) -> None:
        if now < self.first_expiry:
            return
        for job_id in [name for name, each in self.reservations.items() if each.expiry <= now]:
            self._release(job_id)
        self.first_expiry = min((each.expiry for each in self.reservations.values()), default=math.inf)

    def unknown(self, budgets: Sequence[Budget], cost: int, now: float) -> list[tuple[float, float]]:
        """Windows that the ledger must be asked about before it can be said whether the job may go."""
        return list(dict.fromkeys((each.start, each.end) for each in budgets if self._asks(each, cost, now)))

    def ask(self, window: tuple[float, float], now: float) -> int:
        """A ticket. Everybody gets the same one until the first answer: a new one would void those given out."""
        entry = self.windows.setdefault(window, Window())
        if entry.ticket is None:
            entry.ticket, entry.since = self._next_mark(), 0
        entry.asked_at = now
        return entry.ticket

    def seed(self, window: tuple[float, float], spent: int, ticket: int) -> None:
        entry = self.windows.get(window)
        if entry is not None and entry.ticket == ticket:
            seeded = self._next_mark()
            self.windows[window] = Window(spent, doubtful=entry.since, asked_at=entry.asked_at, seeded=seeded)

    def longest_wait(self, account: Account, request: Request, now: float) -> Wait:
        requests, tokens = self._levels(account.rpm, account.tpm, now)
        waits = [Wait(0.0, Limit.REQUESTS, 0.0, 0.0)]
        if account.rpm is not None and requests is not None:
            wait = _until(requests, 1, account.rpm)
            waits.append(Wait(wait, Limit.REQUESTS, account.rpm, account.rpm - requests))
        if account.tpm is not None and tokens is not None:
            wait = _until(tokens, min(request.tokens, account.tpm), account.tpm)
            waits.append(Wait(wait, Limit.TOKENS, account.tpm, account.tpm - tokens))
        if account.parallel is not None and self.in_flight >= account.parallel:
            wait = SLOT_RETRY if account.parallel > 0 else math.inf
            waits.append(Wait(wait, Limit.PARALLEL, account.parallel, self.in_flight))
        for budget in account.budgets:
            used = self._used(budget) + self.reserved
            waits.append(Wait(self._until_budget(budget, request.cost, now), Limit.BUDGET, budget.limit, used))
        return max(waits, key=lambda wait: wait.seconds)

    def take(self, account: Account, request: Request, now: float) -> None:
        """What `longest_wait` has found to be there."""
        tokens = 0 if account.tpm is None else min(request.tokens, account.tpm)
        left = [budget.limit - self._used(budget) - self.reserved for budget in account.budgets]
        cost = min(request.cost, *left) if left else None
        self.rpm, self.tpm = account.rpm, account.tpm
        self._refill(now)
        self.requests = None if self.requests is None else self.requests - 1
        self.tokens = None if self.tokens is None else self.tokens - tokens
        self.in_flight += 1
        self.reserved += cost or 0
        self._hold(request.job_id, Reservation(now + request.ttl, tokens, cost, self.mark))

    def renew(self, job_id: str, expiry: float) -> None:
        reservation = self.reservations[job_id]
        if reservation.stage is not Stage.FINISHED:
            reservation.expiry = max(reservation.expiry, expiry)

    def finish(self, job_id: str, tokens: int | None, cost: int, now: float) -> None:
        reservation = self.reservations.get(job_id)
        if reservation is None or reservation.stage is Stage.FINISHED:
            return
        if tokens is not None:
            self._refill(now)
            if self.tpm is not None and self.tokens is not None:
                self.tokens = min(float(self.tpm), self.tokens + (reservation.tokens - tokens))
        self._release(job_id)
        if reservation.cost is not None and cost > 0:
            self.reserved += cost
            self._hold(job_id, Reservation(now + CHARGE_TTL, 0, cost, reservation.mark, Stage.FINISHED))

    def charge(self, row: Charge) -> None:
        reservation = self.reservations.get(row.job_id)
        if reservation is not None and reservation.stage is Stage.CHARGED:
            reservation = None
        for (start, end), window in self.windows.items():
            if not start <= row.started_at < end:
                continue
            if window.ticket is not None:
                window.since += row.cost
            if window.spent is None:
                continue
            if reservation is not None and row.last and reservation.mark >= window.seeded:
                window.spent += row.cost
            else:
                window.doubtful += row.cost
        if reservation is not None and row.last:
            if reservation.stage is Stage.FINISHED:
                self._release(row.job_id)
            else:
                self.reserved -= reservation.cost or 0
                reservation.cost, reservation.stage = None, Stage.CHARGED

    def forget(self) -> None:
        self.windows.clear()

    def forget_old_windows(self, budgets: Sequence[Budget], now: float) -> None:
        asked = {(budget.start, budget.end) for budget in budgets}
        for window in [window for window in self.windows if window not in asked and window[1] <= now - _OVER]:
            del self.windows[window]
        if len(self.windows) > MAX_WINDOWS:
            self.windows = {window: entry for window, entry in self.windows.items() if window in asked}

    def remaining(self, account: Account, now: float) -> tuple[float | None, float | None]:
        return self._levels(account.rpm, account.tpm, now)

    def spent(self, account: Account, job_id: str) -> int | None:
        """By the first budget, and reserved by others than the job."""
        if not account.budgets:
            return None
        own = self.reservations.get(job_id)
        return self._used(account.budgets[0]) + self.reserved - ((own.cost or 0) if own else 0)

    def state(self, now: float) -> AccountState:
        requests, tokens = (None, None) if self._unused else self._levels(self.rpm, self.tpm, now)
        exact = {w: each.spent for w, each in self.windows.items() if each.spent is not None and not each.doubtful}
        return AccountState(requests, tokens, self.in_flight, self.reserved, exact)

    def forgettable(self, now: float) -> bool:
        """Untouched for so long that it is as good as a new one."""
        requests, tokens = self._levels(self.rpm, self.tpm, now)
        full = (requests is None or requests >= (self.rpm or 0)) and (tokens is None or tokens >= (self.tpm or 0))
        return full and not self.reservations and now - self.touched > IDLE_TTL

    @property
    def _unused(self) -> bool:
        return self.requests is None and self.tokens is None

    def _levels(self, rpm: int | None, tpm: int | None, now: float) -> tuple[float | None, float | None]:
        elapsed = max(0.0, now - self.at)
        return _level(self.requests, rpm, elapsed), _level(self.tokens, tpm, elapsed)

    def _refill(self, now: float) -> None:
        self.requests, self.tokens = self._levels(self.rpm, self.tpm, now)
        self.at = max(self.at, now)

    def _used(self, budget: Budget) -> int:
        """All but what is reserved."""
        window = self.windows.get((budget.start, budget.end))
        return budget.base + ((window.spent or 0) + window.doubtful if window else 0)

    def _asks(self, budget: Budget, cost: int, now: float) -> bool:
        window = self.windows.get((budget.start, budget.end))
        if window is None or window.spent is None:
            return True
        if not window.doubtful:
            return False
        used = self._used(budget)
        refused_in_doubt = not self._fits(budget, used, cost) and self._fits(budget, used - window.doubtful, cost)
        return refused_in_doubt or now - window.asked_at >= ASK_AGAIN

    def _fits(self, budget: Budget, used: int, cost: int) -> bool:
        used += self.reserved
        alone = self.in_flight == 0 or self.reserved == 0  # what finished jobs have reserved is what they cost
        return used + cost <= budget.limit or (alone and used < budget.limit)

    def _until_budget(self, budget: Budget, cost: int, now: float) -> float:
        if self._fits(budget, self._used(budget), cost):
            return 0.0
        if budget.limit <= 0 < cost:
            return math.inf
        return max(budget.end - now, _TURN)

    def _hold(self, job_id: str, reservation: Reservation) -> None:
        self.reservations[job_id] = reservation
        self.first_expiry = min(self.first_expiry, reservation.expiry)

    def _release(self, job_id: str) -> None:
        """Its tokens stay taken: nobody said that they were not used."""
        reservation = self.reservations.pop(job_id)
        self.reserved -= reservation.cost or 0
        if reservation.stage is not Stage.FINISHED:
            self.in_flight -= 1

    def _next_mark(self) -> int:
        self.mark = next(self.marks)
        return self.mark


def admit(
    accounts: Sequence[Account], books: Sequence[Book], request: Request, now: float
) -> Admitted | Refused | Unseeded:
    """What `Accounts.admit` promises, with an account's book at the account's place."""
    both = list(zip(accounts, books, strict=True))
    for book in books:
        book.drop_expired(now)
    new = [(account, book) for account, book in both if request.job_id not in book.reservations]
    asked = [(*pair, window) for pair in new for window in pair[1].unknown(pair[0].budgets, request.cost, now)]
    if asked:
        for account, book in new:
            book.forget_old_windows(account.budgets, now)
        return Unseeded(tuple((account.id, *window, book.ask(window, now)) for account, book, window in asked))
    waits = [(book.longest_wait(account, request, now), account) for account, book in new]
    if waits:
        wait, account = max(waits, key=lambda each: each[0].seconds)
        if wait.seconds > 0:
            return Refused(account.id, wait.limit, rounded_up(wait.seconds), wait.allowed, wait.used)
    for account, book in both:
        if request.job_id in book.reservations:
            book.renew(request.job_id, now + request.ttl)
        else:
            book.forget_old_windows(account.budgets, now)
            book.take(account, request, now)
    return Admitted(
        remaining=tuple(book.remaining(account, now) for account, book in both),
        spent=tuple(book.spent(account, request.job_id) for account, book in both),
    )


def limited(account: Account) -> bool:
    """Whether anything holds it back."""
    return bool(account.budgets) or not (account.rpm is None and account.tpm is None and account.parallel is None)


def for_all(accounts: Sequence[Account], admitted: Admitted) -> Admitted:
    """What was admitted to those accounts that are limited, at its place among all."""
    if len(admitted.spent) == len(accounts):
        return admitted
    remaining, spent = iter(admitted.remaining), iter(admitted.spent)
    return Admitted(
        remaining=tuple(next(remaining) if limited(account) else (None, None) for account in accounts),
        spent=tuple(next(spent) if limited(account) else None for account in accounts),
    )


def check(accounts: Sequence[Account], request: Request) -> None:
    if len(accounts) > MAX_ACCOUNTS:
        raise ValueError(f"{len(accounts)} accounts in one admission: {MAX_ACCOUNTS} at most")
    if len({account.id for account in accounts}) < len(accounts):
        raise ValueError(f"an account is named twice in one admission: {[account.id for account in accounts]}")
    for account in accounts:
        if len(account.budgets) > MAX_BUDGETS:
            raise ValueError(f"{account.id} has {len(account.budgets)} budgets: {MAX_BUDGETS} at most")
    if request.tokens < 0 or not 0 <= request.cost < MAX_MONEY or not request.ttl > 0:
        raise ValueError(f"an admission takes 0 or more tokens, 0 to 2^53 nano-dollars, and some time: {request}")


def rounded_up(seconds: float) -> float:
    """In whole microseconds."""
    return seconds if math.isinf(seconds) else math.ceil(seconds * 1e6) / 1e6


def _level(balance: float | None, per_minute: int | None, elapsed: float) -> float | None:
    if per_minute is None:
        return None
    if balance is None:
        return float(per_minute)  # a bucket starts full
    return min(float(per_minute), balance + elapsed * (per_minute / 60))


def _until(balance: float, needed: int, per_minute: int) -> float:
    if per_minute <= 0:
        return math.inf  # a limit of zero closes the bucket
    wait = (needed - balance) / (per_minute / 60)
    return 0.0 if wait <= _SLACK else wait
