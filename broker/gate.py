"""The gate: a job enters the queue if the accounts of its key admit it, and leaves them again if it does not get there.

The api asks it for every job, the feeder for what waited in the store. Jobs that nothing limits pass without a word to
anybody. The ledger is the truth about money: what the accounts do not know of it, the gate reads there and tells them.
"""

import asyncio
from dataclasses import field, replace
from weakref import WeakValueDictionary

import structlog

from broker import refusals
from broker.account_interfaces import Accounts, Admitted, Refused, Unseeded
from broker.backends import Backends
from broker.directory_interfaces import Bill
from broker.policies import Customer, Policy, PolicyCache, hashed
from broker.price_estimates import PriceEstimates
from shared.accounts import Account
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import KeyBlocked, Unavailable
from shared.jobs import Job, Usage
from shared.management import Management
from shared.settings import Settings
from shared.values import value

_MOST_SEEDS = 8  # times that one job asks the ledger; a seed is void if the account was forgotten meanwhile
_SEED_PAUSE = 0.01  # seconds before the third try, doubled before each further one
_GRACE = 120.0  # seconds after a job's deadline in which its end still finds its reservation
_MOST_WAITING = 5_000  # jobs of this process that wait for their limits; more are refused
_SHORTEST_WAIT = 0.01  # seconds
_LAST = 5.0  # seconds that a stopping process waits for what it gives back

log = structlog.get_logger(__name__)


@value(frozen=True, slots=True)
class Pass:
    """A job that may enter."""

    job: Job
    """With the accounts that admitted it."""
    accounts: tuple[Account, ...] = ()
    admitted: Admitted = field(default_factory=Admitted)
    """In the order of `accounts`."""


@value(frozen=True, slots=True)
class _Demand:
    job: Job
    policy: Policy
    customer: Customer | None
    tokens: int
    cost: int


def make(backends: Backends, catalog: Catalog, settings: Settings, clock: Clock) -> "Gate":
    """A process's gate, with its policies."""
    managed, store = settings.management, backends.store
    master = hashed(settings.master_key.get_secret_value()) if settings.master_key else ""
    policies = PolicyCache(store.keys, store.directory, clock, backends.log, managed, master)
    return Gate(backends.accounts, store.bill, policies, PriceEstimates(catalog), clock, managed)


class Gate:
    def __init__(
        self,
        accounts: Accounts,
        bill: Bill,
        policies: PolicyCache,
        prices: PriceEstimates,
        clock: Clock,
        management: Management,
    ) -> None:
        self.policies = policies
        self._accounts = accounts
        self._bill = bill
        self.prices = prices
        self._clock = clock
        self._budget_status = management.budget_exceeded_status_code
        self._reading: dict[tuple[str, float, float], asyncio.Future[None]] = {}  # budgets, while the ledger is asked
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of those who wait, by account
        self._waiting = 0
        self._leaving: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait, but not for ever, for what is being given back."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_LAST)

    async def enter(
        self, job: Job, policy: Policy, *, tokens: int, output: int, wait_until: float | None = None
    ) -> Job:
        """The job, with the accounts that admitted it; otherwise as `admit`."""
        return (await self.admit(job, policy, tokens=tokens, output=output, wait_until=wait_until)).job

    async def admit(
        self, job: Job, policy: Policy, *, tokens: int, output: int, wait_until: float | None = None
    ) -> Pass:
        """Take what the job needs from the accounts of its key, user, team and customer: `tokens` of prompt and at most
        `output` of answer, which tell its price as well. Nothing is taken when it raises, and who is admitted twice
        pays once.

        With `wait_until`, in seconds since the epoch, a job that is over a limit waits for its turn if that comes in
        time; those of this process have their turns in the order in which they came.

        Raises `LimitExceeded` and `BudgetExceeded`, whose `retry_after` is exact; `KeyBlocked` and `ModelNotAllowed` on
        behalf of the customer; and `Unavailable`.
        """
        if not policy.limited and not job.customer:
            return Pass(job)
        demand = await self._demand(job, policy, tokens, output)
        if demand is None:
            return Pass(job)
        answer = await self._try(demand)
        if isinstance(answer, Refused):
            answer = await self._wait(demand, answer, wait_until) if wait_until is not None else answer
        if isinstance(answer, Refused):
            raise refusals.error_of(answer, self._asked(demand), self._clock.now(), self._budget_status)
        return answer

    async def marked(self, job: Job, policy: Policy) -> Job:
        """The job with the accounts that it will have to ask, for a row that is written before it is admitted: whoever
        ends the job then knows where it may have something."""
        if not policy.limited and not job.customer:
            return job
        accounts = policy.accounts(job.route[0].group, await self._customer(job), self._clock.now())
        return _with(job, accounts) if accounts else job

    async def leave(self, job: Job) -> None:
        """An admitted job never ran: it gets everything back. Raises `Unavailable`; the reservation ends by itself
        then."""
        if job.accounts:
            await self._accounts.finish(job.id, job.accounts, tokens=0, cost=0)

    def leave_soon(self, job: Job) -> None:
        """The same, without waiting for it."""
        if job.accounts:
            task = asyncio.create_task(self._leave(job), name=f"leave {job.id}")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _leave(self, job: Job) -> None:
        try:
            await self.leave(job)
        except Unavailable as error:
            log.warning("job_not_given_back", job=job.id, reason=error.message, then="its reservation ends by itself")

    async def _demand(self, job: Job, policy: Policy, tokens: int, output: int) -> _Demand | None:
        """None if nothing limits the job."""
        customer = await self._customer(job)
        accounts = policy.accounts(job.route[0].group, customer, self._clock.now())
        if not accounts:
            return None
        cost = 0
        if any(account.budgets for account in accounts):
            usage = Usage(input=tokens, output=output)
            # At least something: a budget that is used up has no room for what is free or has no price, as LiteLLM's.
            cost = max(await self.prices.dearest(job.route[0].deployments, usage), 1)
        return _Demand(job, policy, customer, tokens + output, cost)

    async def _customer(self, job: Job) -> Customer | None:
        """Raises `KeyBlocked` and `ModelNotAllowed` if the customer may not do this."""
        customer = await self.policies.customer(job.customer) if job.customer else None
        if customer is None:
            return None
        if customer.blocked:
            raise KeyBlocked(
                f"Authentication Error, End User={customer.id} is blocked. "
                "Update via `/customer/unblock` if you're an admin."
            )
        if customer.models is not None:
            customer.models.require(job.route[0].group, self.prices.catalog, job.model)
        return customer

    def _asked(self, demand: _Demand) -> tuple[Account, ...]:
        return demand.policy.accounts(demand.job.route[0].group, demand.customer, self._clock.now())

    async def _try(self, demand: _Demand) -> Pass | Refused:
        accounts = self._asked(demand)  # anew each time: a budget may have started anew meanwhile
        job = _with(demand.job, accounts)
        ttl = max(job.deadline - self._clock.now(), 0.0) + _GRACE
        for count in range(_MOST_SEEDS):
            if count > 1:
                await asyncio.sleep(_SEED_PAUSE * 2 ** (count - 2))
            try:
                answer = await self._accounts.admit(job.id, accounts, tokens=demand.tokens, cost=demand.cost, ttl=ttl)
            except asyncio.CancelledError:
                self.leave_soon(job)  # it may have been admitted, and nobody would know
                raise
            match answer:
                case Admitted():
                    return Pass(job, accounts, answer)
                case Refused():
                    return answer
                case Unseeded(budgets):
                    try:
                        for account, start, end, ticket in budgets:
                            await self._seed(account, start, end, ticket)
                    except Unavailable:
                        if count > 0:
                            raise
                        # Perhaps only certainty was wanted: asked again, accounts do with what they know.
        raise Unavailable("What a budget has spent could not be read while so much is charged to it. Try again.")

    async def _seed(self, account: str, start: float, end: float, ticket: int) -> None:
        """Read in the ledger what was spent of a budget; many who need it at a time ask once."""
        budget = (account, start, end)
        if (reading := self._reading.get(budget)) is not None:
            await asyncio.shield(reading)
            return
        reading = self._reading[budget] = asyncio.get_running_loop().create_future()
        try:
            await self._accounts.seed(account, start, end, await self._bill.spent(account, start, end), ticket)
        except Unavailable as error:
            reading.set_exception(error)
            reading.exception()  # marks it as seen: perhaps nobody else waits
            raise
        finally:
            del self._reading[budget]
            if not reading.done():
                reading.set_result(None)

    async def _wait(self, demand: _Demand, refused: Refused, until: float) -> Pass | Refused:
        """The last refusal, if the job's turn does not come in time."""
        if self._waiting >= _MOST_WAITING or not self._in_time(refused, until):
            return refused
        self._waiting += 1
        line = self._lines.get(refused.account)
        if line is None:
            line = self._lines[refused.account] = asyncio.Lock()
        try:
            first = not line.locked()
            try:
                async with asyncio.timeout(until - self._clock.now()):
                    await line.acquire()
            except TimeoutError:
                return refused
            try:
                return await self._at_the_front(demand, refused if first else None, until)
            finally:
                line.release()
        finally:
            self._waiting -= 1

    async def _at_the_front(self, demand: _Demand, refused: Refused | None, until: float) -> Pass | Refused:
        while True:
            if refused is not None:
                if not self._in_time(refused, until):
                    return refused
                await asyncio.sleep(max(refused.wait, _SHORTEST_WAIT))
            # The key may have been changed or deleted while the job waited.
            policy = await self.policies.look_up(demand.policy.key)
            answer = await self._try(replace(demand, policy=policy))
            if isinstance(answer, Pass):
                return answer
            refused = answer

    def _in_time(self, refused: Refused, until: float) -> bool:
        return self._clock.now() + refused.wait < until


def _with(job: Job, accounts: tuple[Account, ...]) -> Job:
    return replace(job, accounts=tuple([account.id for account in accounts]))
