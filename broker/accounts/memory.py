"""The accounts of the embedded profile: one process, the same algorithm as on Redis."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Self

from broker.account_interfaces import AccountState, Admitted, Charge, Refused, Unseeded
from broker.accounts.account import Book, Request, admit, check, for_all, limited
from shared.accounts import Account
from shared.clock import Clock, SystemClock

_SWEEP_AT = 10_000  # accounts, after which those nobody needs any more are looked for


def connect(url: str = "memory://", *, clock: Clock | None = None) -> "MemoryAccounts":
    return MemoryAccounts(clock or SystemClock())


class MemoryAccounts:
    def __init__(self, clock: Clock) -> None:
        self._now = clock.now  # the wall clock: budgets begin and end by it
        self._marks = itertools.count(1)
        self._books: dict[str, Book] = {}
        self._sweep_at = _SWEEP_AT

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return

    async def admit(
        self, job_id: str, accounts: Sequence[Account], *, tokens: int, cost: int, ttl: float
    ) -> Admitted | Refused | Unseeded:
        request = Request(job_id, tokens, cost, ttl)
        check(accounts, request)
        asked = [account for account in accounts if limited(account)]
        now = self._now()
        answer = admit(asked, [self._book(account.id, now) for account in asked], request, now)
        return for_all(accounts, answer) if isinstance(answer, Admitted) else answer

    async def seed(self, account: str, start: float, end: float, spent: int, ticket: int) -> None:
        for book in self._known([account]):
            book.seed((start, end), spent, ticket)

    async def finish(self, job_id: str, accounts: Sequence[str], *, tokens: int | None, cost: int) -> None:
        for book in self._known(accounts):
            book.finish(job_id, tokens, cost, self._now())

    async def charge(self, rows: Sequence[Charge]) -> None:
        for row in rows:
            for book in self._known(row.accounts):
                book.charge(row)

    async def forget(self, account: str | None = None) -> None:
        for book in self._books.values() if account is None else self._known([account]):
            book.forget()

    async def states(self, accounts: Sequence[str]) -> list[AccountState]:
        now = self._now()
        found = {name: book for name in accounts for book in self._known([name])}
        return [found[name].state(now) if name in found else Book(self._marks).state(now) for name in accounts]

    async def ping(self) -> None:
        return

    def _known(self, accounts: Sequence[str]) -> Iterator[Book]:
        now = self._now()
        for name in accounts:
            book = self._books.get(name)
            if book is not None:
                book.touched = now
                book.drop_expired(now)
                yield book

    def _book(self, name: str, now: float) -> Book:
        book = self._books.get(name)
        if book is None:
            if len(self._books) >= self._sweep_at:
                self._sweep(now)
            book = self._books[name] = Book(self._marks)
        book.touched = now
        return book

    def _sweep(self, now: float) -> None:
        """Forget accounts that Redis would have forgotten as well."""
        for book in self._books.values():
            book.drop_expired(now)
        self._books = {name: book for name, book in self._books.items() if not book.forgettable(now)}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._books))
