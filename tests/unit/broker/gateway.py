"""A gate in a test, with everything that it asks."""

import asyncio
from types import SimpleNamespace
from typing import Any

from broker import policy as policy_module
from broker.account_records import Entry, Kind, Resolved
from broker.accounts.memory import MemoryAccounts
from broker.events.memory import MemoryEventLog
from broker.gate import Gate
from broker.policies import PolicyCache
from broker.policy import Policy
from broker.price_estimates import PriceEstimates
from broker.records import KeyRecord
from shared.catalog import Catalog, Deployment, Prices
from shared.clock import SystemClock
from shared.errors import (
    Unavailable,
)
from shared.jobs import Job, Leg
from shared.management import Management
from tests.fakes.clock import FakeClock

DOLLAR = 1_000_000_000
CATALOG = Catalog(
    [
        Deployment("cheap", "m", "openai", "cheap", prices=Prices(input=1e-6, output=2e-6)),
        Deployment("dear", "m", "openai", "dear", prices=Prices(input=1e-3, output=2e-3)),
        Deployment("nameless", "free", "hosted_vllm", "nobody-has-a-price-for-this"),
    ]
)


class Bill:
    """A ledger that has this, and can be away."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.asked: list[tuple[str, float, float]] = []
        self.away = False

    async def spent(self, account: str, start: float, end: float) -> int:
        self.asked.append((account, start, end))
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("the database is away")
        return self.rows.get(account, 0)


class Here:
    """A gate on the memory backend. `clock` is what everybody sees; waits are real, and short."""

    def __init__(self, accounts: Any = None, **management: Any) -> None:
        self.clock: Any = FakeClock() if accounts is None else SystemClock()
        self.accounts = accounts or MemoryAccounts(self.clock)
        self.bill = Bill()
        self.records: dict[str, KeyRecord] = {}
        self.customers: dict[str, Entry] = {}
        directory = SimpleNamespace(get=self._get, count=self._count)
        keys = SimpleNamespace(resolve=self._resolve)
        self.management = Management(**management)
        self.policies = PolicyCache(keys, directory, self.clock, MemoryEventLog(), self.management)  # type: ignore[arg-type]
        self.prices = PriceEstimates(CATALOG)
        self.gate = Gate(self.accounts, self.bill, self.policies, self.prices, self.clock, self.management)  # type: ignore[arg-type]

    def policy(self, key: str = "h", **fields: Any) -> Policy:
        self.records[key] = KeyRecord(key, "sk-...abcd", alias="mine", fields=fields)
        return policy_module.resolve(Resolved(self.records[key]), self.management)

    def job(self, id: str = "j", deployments: tuple[str, ...] = ("cheap",), **fields: Any) -> Job:
        now = self.clock.now()
        given = {"accepted_at": now, "deadline": now + 60, "key": "h", **fields}
        return Job(id, "chat.completions", "m", (Leg("openai", "m", deployments),), b"{}", "", **given)

    async def enter(self, policy: Policy, job: Job | None = None, **more: Any) -> Job:
        return await self.gate.enter(job or self.job(), policy, **{"tokens": 100, "output": 50, **more})

    async def state(self, account: str = "key:h") -> Any:
        (state,) = await self.accounts.states([account])
        return state

    async def _resolve(self, digest: str) -> Resolved | None:
        return Resolved(self.records[digest]) if digest in self.records else None

    async def _get(self, kind: Kind, id: str) -> Entry | None:
        return self.customers.get(id) if kind is Kind.CUSTOMER else None

    async def _count(self, query: object) -> int:
        return len(self.customers)
