"""The accounts on Redis: one script call for each decision, on the server's clock.

Keys, under the namespace: `{accounts}:account:<id>`, `{accounts}:open:<id>`, `{accounts}:epoch`. They share a hash tag
because one script call looks at several accounts. Every key expires when it no longer matters. Let the server run with
`noeviction`: an evicted account has nothing reserved.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from broker.account_interfaces import AccountState, Admitted, Charge, Limit, Refused, Unseeded
from broker.accounts.account import Request, check, for_all, limited, rounded_up
from broker.redis_pipe import Pipe, Script
from shared.accounts import Account

_ROWS_AT_ONCE = 50  # in one script call, which all others wait for


def connect(url: str, *, namespace: str = "headrace", clock: Callable[[], float] | None = None) -> "RedisAccounts":
    """`clock` replaces the server's time in tests: seconds since the epoch."""
    return RedisAccounts(url, namespace, clock)


def _script(name: str) -> Script:
    folder = Path(__file__).parent
    return Script(f"{(folder / 'book.lua').read_text()}\n{(folder / name).read_text()}")


_ADMIT, _SEED, _FINISH = _script("admit.lua"), _script("seed.lua"), _script("finish.lua")
_CHARGE, _FORGET, _STATES = _script("charge.lua"), _script("forget.lua"), _script("states.lua")


class RedisAccounts:
    def __init__(self, url: str, namespace: str, clock: Callable[[], float] | None) -> None:
        self._pipe = Pipe(url)
        self._account = f"{namespace}:{{accounts}}:account:"
        self._open = f"{namespace}:{{accounts}}:open:"
        self._epoch = f"{namespace}:{{accounts}}:epoch"
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._pipe.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pipe.__aexit__(*exc_info)

    async def admit(
        self, job_id: str, accounts: Sequence[Account], *, tokens: int, cost: int, ttl: float
    ) -> Admitted | Refused | Unseeded:
        check(accounts, Request(job_id, tokens, cost, ttl))
        asked = [account for account in accounts if limited(account)]
        if not asked:
            return for_all(accounts, Admitted())
        keys = self._keys([account.id for account in asked])
        arguments = [self._now(), job_id, repr(tokens), repr(cost), repr(ttl)]
        for account in asked:
            arguments += (_text(account.rpm), _text(account.tpm), _text(account.parallel), repr(len(account.budgets)))
            for budget in account.budgets:
                arguments += (repr(float(budget.start)), repr(float(budget.end)), repr(budget.limit), repr(budget.base))
        outcome = b"again"
        while outcome == b"again":  # each time fewer expired reservations are left to drop
            outcome, *answer = await self._pipe.evaluate(_ADMIT, keys, arguments)
        if outcome == b"admitted":
            numbers = [_number(each) for each in answer]
            remaining = tuple(zip(numbers[::3], numbers[1::3], strict=True))
            spent = tuple(None if each is None else int(each) for each in numbers[2::3])
            return for_all(accounts, Admitted(remaining, spent))
        if outcome == b"refused":
            limit, (place, wait, allowed, used) = Limit(answer.pop(1).decode()), map(float, answer)
            return Refused(asked[int(place)].id, limit, rounded_up(wait), allowed, used)
        fields = iter(answer)
        return Unseeded(
            tuple(
                (asked[int(place)].id, float(start), float(end), int(ticket))
                for place, start, end, ticket in zip(*[fields] * 4, strict=True)
            )
        )

    async def seed(self, account: str, start: float, end: float, spent: int, ticket: int) -> None:
        arguments = (self._now(), repr(float(start)), repr(float(end)), repr(spent), repr(ticket))
        await self._pipe.evaluate(_SEED, self._keys([account]), arguments)

    async def finish(self, job_id: str, accounts: Sequence[str], *, tokens: int | None, cost: int) -> None:
        if accounts:
            arguments = (self._now(), job_id, _text(tokens), repr(cost))
            await self._pipe.evaluate(_FINISH, self._keys(accounts), arguments)

    async def charge(self, rows: Sequence[Charge]) -> None:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            names = dict.fromkeys(name for row in some for name in row.accounts)
            places = {name: str(place) for place, name in enumerate(names)}
            arguments = [self._now()]
            for row in some:
                accounts = [places[name] for name in row.accounts]
                arguments += (row.job_id, repr(row.started_at), repr(row.cost), "1" if row.last else "")
                arguments += (repr(len(accounts)), *accounts)
            await self._pipe.evaluate(_CHARGE, self._keys(places), arguments)

    async def forget(self, account: str | None = None) -> None:
        await self._pipe.evaluate(_FORGET, self._keys([] if account is None else [account]), (self._now(),))

    async def states(self, accounts: Sequence[str]) -> list[AccountState]:
        answers = await self._pipe.evaluate(_STATES, self._keys(accounts), (self._now(),))
        return [_state(answer) for answer in answers]

    async def ping(self) -> None:
        await self._pipe.call("PING")

    def _keys(self, accounts: Iterable[str]) -> list[str]:
        keys = [self._epoch]
        for name in accounts:
            keys += (self._account + name, self._open + name)
        return keys

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())


def _state(answer: list[bytes]) -> AccountState:
    requests, tokens, in_flight, reserved, *windows = answer
    fields = iter(windows)
    spent = {(float(start), float(end)): int(each) for start, end, each in zip(fields, fields, fields, strict=True)}
    return AccountState(_number(requests), _number(tokens), int(in_flight), int(reserved), spent)


def _text(number: int | None) -> str:
    return "" if number is None else repr(number)


def _number(text: bytes) -> float | None:
    return float(text) if text else None
