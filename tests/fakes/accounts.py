"""Accounts that write down what they are told, and can be away. They admit everybody."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.account_interfaces import AccountState, Admitted, Charge, Refused, Unseeded
from shared.accounts import Account
from shared.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Finish:
    job_id: str
    accounts: tuple[str, ...]
    tokens: int | None
    cost: int


@dataclass
class NotedAccounts:
    journal: list[str] = field(default_factory=list)
    """Names of calls, in order; may be shared with other fakes."""
    finished: list[Finish] = field(default_factory=list)
    charges: list[list[Charge]] = field(default_factory=list)
    """Call by call."""
    forgotten: int = 0
    away: bool = False
    attempts: int = 0
    """Calls, those that failed included."""

    async def admit(
        self, job_id: str, accounts: Sequence[Account], *, tokens: int, cost: int, ttl: float
    ) -> Admitted | Refused | Unseeded:
        self._call("admit")
        return Admitted()

    async def seed(self, account: str, start: float, end: float, spent: int, ticket: int) -> None:
        self._call("seed")

    async def finish(self, job_id: str, accounts: Sequence[str], *, tokens: int | None, cost: int) -> None:
        self._call("finish")
        self.finished.append(Finish(job_id, tuple(accounts), tokens, cost))

    async def charge(self, rows: Sequence[Charge]) -> None:
        self._call("charge")
        self.charges.append(list(rows))

    async def forget(self, account: str | None = None) -> None:
        self._call("forget")
        self.forgotten += 1

    async def states(self, accounts: Sequence[str]) -> list[AccountState]:
        return [AccountState(None, None, 0, 0, {}) for _ in accounts]

    async def ping(self) -> None:
        self._call("ping")

    def _call(self, name: str) -> None:
        self.attempts += 1
        if self.away:
            raise Unavailable("the fake accounts are away")
        self.journal.append(name)
