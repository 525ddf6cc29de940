"""Random lives of jobs, and a ledger in plain Python against which accounts are measured.

`World` plays one history on one implementation. It knows what was committed and what is held, step by step, and says
so when an answer cannot be right. Steps that make no sense at their moment do nothing.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hypothesis import strategies as st

from broker.account_interfaces import Accounts, AccountState, Admitted, Charge, Limit, Refused, Unseeded
from broker.accounts.account import ASK_AGAIN, CHARGE_TTL, limited
from shared.accounts import NEVER, Account, Budget
from tests.fakes.clock import FakeClock

START = FakeClock().now()
MINUTE = 60.0
NAMES = ("key:a", "team:t", "user:u")
STRANGER = 5
Step = tuple[Any, ...]


class Flush(Protocol):
    async def __call__(self) -> Accounts:
        """The server loses everything; what it is from then on."""
        ...


@dataclass(slots=True)
class Held:
    """What a job holds of an account."""

    expiry: float
    cost: int
    in_flight: bool = True
    charged: bool = False
    budgeted: bool = True
    tokens: int = 0


@dataclass(slots=True)
class Row:
    charge: Charge
    charged: bool = False


@dataclass
class World:
    accounts: Accounts
    flush: Flush
    clock: FakeClock
    limits: dict[str, Account]
    """Budgets that end are renewed each minute."""
    answers: list[object] = field(default_factory=list)
    """Of every step, to be compared between implementations."""
    rows: list[Row] = field(default_factory=list)
    held: dict[tuple[str, str], Held] = field(default_factory=dict)
    """By account and job."""
    jobs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The accounts that each was admitted to."""
    pending: list[tuple[str, float, float, int, int]] = field(default_factory=list)
    """Tickets, and what the ledger said to each."""
    taken: dict[tuple[str, Limit], float] = field(default_factory=dict)
    """Requests and tokens, those that came back not counted."""
    flushes: int = 0

    async def play(self, history: list[Step]) -> list[object]:
        for act, *arguments in history:
            await getattr(self, f"step_{act}")(*arguments)
            await self._compare()
        await self._come_to_rest()
        return self.answers

    def account(self, name: str) -> Account:
        start = START + (self.clock.now() - START) // MINUTE * MINUTE
        limits = self.limits[name]
        budgets = [
            each if each.end == NEVER else replace(each, start=start, end=start + MINUTE) for each in limits.budgets
        ]
        return replace(limits, budgets=tuple(budgets))

    async def states(self) -> list[AccountState]:
        return await self.accounts.states(NAMES)

    # --- steps --------------------------------------------------------------------------------------------------------

    async def step_admit(self, job: int, names: list[str], tokens: int, cost: int, ttl: float) -> None:
        job_id, asked = f"job/{job}", [self.account(name) for name in names]
        if any(row.charge.job_id == job_id for row in self.rows):
            return  # a job that has rows has run: it is not admitted again
        before = await self.states()
        answer = await self.accounts.admit(job_id, asked, tokens=tokens, cost=cost, ttl=ttl)
        match answer:
            case Unseeded(budgets):
                self.answers.append([each[:3] for each in budgets])
                self.pending += [(*each, self.committed(*each[:3])) for each in budgets]
            case Refused():
                self.answers.append(answer)
                assert await self.states() == before, "a refused request consumed something"
                self._check_refusal(answer, job_id, cost)
            case Admitted():
                self.answers.append(answer)
                self.jobs[job_id] = tuple(dict.fromkeys([*self.jobs.get(job_id, ()), *names]))
                states = {name: state.reserved for name, state in zip(NAMES, await self.states(), strict=True)}
                for account in filter(limited, asked):
                    self._hold(account, job_id, tokens, Held(self.clock.now() + ttl, cost), states[account.id])

    async def step_get_in(self, job: int, names: list[str], tokens: int, cost: int, ttl: float) -> None:
        """As the gate does: ask the ledger whenever it must be asked."""
        for _ in range(3):
            pending = len(self.pending)
            await self.step_admit(job, names, tokens, cost, ttl)
            while len(self.pending) > pending:
                await self.step_seed(len(self.pending) - 1)

    async def step_seed(self, which: int) -> None:
        """The answer of the ledger arrives, which it gave when it was asked."""
        if self.pending:
            name, start, end, ticket, spent = self.pending.pop(which % len(self.pending))
            await self.accounts.seed(name, start, end, spent, ticket)

    async def step_finish(self, which: int, tokens: int | None, cost: int) -> None:
        await self._finish(self._known(which), tokens, cost)

    async def _finish(self, job_id: str, tokens: int | None, cost: int) -> None:
        names = self.jobs.get(job_id, ())
        await self.accounts.finish(job_id, [*names, "key:unknown"], tokens=tokens, cost=cost)
        for name in names:
            held = self.held.get((name, job_id))
            if held is None or not held.in_flight:
                continue
            if tokens is not None and tokens < held.tokens:
                self.taken[name, Limit.TOKENS] -= held.tokens - tokens
            if held.charged or not held.budgeted or cost == 0:
                del self.held[name, job_id]
            else:
                self.held[name, job_id] = Held(self.clock.now() + CHARGE_TTL, cost, in_flight=False)

    async def step_commit(self, which: int, cost: int, last: bool, age: float) -> None:
        """The ledger has a row, of an attempt that began `age` seconds ago."""
        job_id = self._known(which)
        names = self.jobs.get(job_id, NAMES[:1])  # of some jobs nobody knows anything
        self.rows.append(Row(Charge(job_id, (*names, "proxy"), self.clock.now() - age, cost, last)))

    async def step_charge(self, which: list[int]) -> None:
        rows = [self.rows[number % len(self.rows)] for number in which if self.rows]
        await self.accounts.charge([row.charge for row in rows])
        for row in rows:
            row.charged = True
            for name in row.charge.accounts if row.charge.last else ():
                held = self.held.get((name, row.charge.job_id))
                if held is not None and not held.in_flight:
                    del self.held[name, row.charge.job_id]
                elif held is not None:
                    held.cost, held.charged = 0, True

    async def step_overtake(self, which: int, cost: int, name: str) -> None:
        """A row is committed, and before it is charged another job makes the account ask the ledger."""
        await self.step_commit(which, cost, True, 0.0)
        await self.step_forget(name)
        await self.step_get_in(100 + len(self.rows), [name], 0, 1, 600.0)
        await self.step_charge([len(self.rows) - 1])

    async def step_settle(self, which: int, cost: int, finish_first: bool) -> None:
        """The usual end of a job."""
        if finish_first:
            await self.step_finish(which, None, cost)
        await self.step_commit(which, cost, True, 0.0)
        await self.step_charge([len(self.rows) - 1])
        if not finish_first:
            await self.step_finish(which, None, cost)

    async def step_forget(self, name: str | None) -> None:
        await self.accounts.forget(name)

    async def step_flush(self) -> None:
        self.accounts = await self.flush()
        self.flushes += 1
        self.held.clear()

    async def step_advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.held = {key: held for key, held in self.held.items() if held.expiry > self.clock.now()}

    def _known(self, which: int) -> str:
        """One of those that were admitted, the latest first; seldom one that never was."""
        jobs = list(self.jobs)
        return jobs[-1 - which % len(jobs)] if jobs and which < STRANGER else f"job/{which}"

    # --- what must be true --------------------------------------------------------------------------------------------

    def committed(self, name: str, start: float, end: float, *, charged_only: bool = False) -> int:
        return sum(
            row.charge.cost
            for row in self.rows
            if name in row.charge.accounts
            and start <= row.charge.started_at < end
            and (row.charged or not charged_only)
        )

    def reserved(self, name: str) -> int:
        return sum(held.cost for (holder, _), held in self.held.items() if holder == name)

    def in_flight(self, name: str) -> int:
        return sum(held.in_flight for (holder, _), held in self.held.items() if holder == name)

    def alone(self, name: str) -> bool:
        """Nobody has money there of which it is not known how much it will be."""
        return self.in_flight(name) == 0 or self.reserved(name) == 0

    def _hold(self, account: Account, job_id: str, tokens: int, new: Held, reserved: int) -> None:
        """`reserved` is what the account says that all hold now."""
        held = self.held.get((account.id, job_id))
        if held is not None:
            held.expiry = max(held.expiry, new.expiry) if held.in_flight else held.expiry
            return
        assert account.parallel is None or self.in_flight(account.id) < account.parallel, "a slot too many"
        self._check_rate(account, Limit.REQUESTS, account.rpm, 1)
        new.tokens = min(tokens, account.tpm or 0)
        self._check_rate(account, Limit.TOKENS, account.tpm, new.tokens)
        before, cost, alone = self.reserved(account.id), new.cost, self.alone(account.id)
        for budget in account.budgets:
            spent = budget.base + self.committed(account.id, budget.start, budget.end, charged_only=True)
            fits = spent + before + cost <= budget.limit or (alone and spent + before < budget.limit)
            assert fits, f"{account.id} was overshot: {spent} spent, {before} reserved, {cost} let in"
            assert spent + reserved <= budget.limit, f"{account.id}: more reserved than there is"
        new.budgeted, new.cost = bool(account.budgets), reserved - before
        if account.budgets:
            assert new.cost == cost or (alone and 0 < new.cost < cost), "only who is alone may have less than it asks"
        self.held[account.id, job_id] = new

    def _check_rate(self, account: Account, limit: Limit, per_minute: int | None, amount: int) -> None:
        if per_minute is not None:
            taken = self.taken[account.id, limit] = self.taken.get((account.id, limit), 0) + amount
            refilled = (self.clock.now() - START) * per_minute / 60
            assert taken <= per_minute * (1 + self.flushes) + refilled + 1e-3, (
                f"{account.id}: more {limit} than there are"
            )

    def _check_refusal(self, refusal: Refused, job_id: str, cost: int) -> None:
        """Nobody is turned away while, by all that the ledger has, there is money."""
        if refusal.limit is Limit.BUDGET:
            account, reserved = self.account(refusal.account), self.reserved(refusal.account)
            ledger = [self.committed(account.id, each.start, each.end) for each in account.budgets]
            used = [each.base + spent + reserved for each, spent in zip(account.budgets, ledger, strict=True)]
            worst = [
                spent + cost > budget.limit and not (self.alone(account.id) and spent < budget.limit)
                for spent, budget in zip(used, account.budgets, strict=True)
            ]
            assert any(worst), f"{account.id} turned {job_id} away with money left"

    async def _compare(self) -> None:
        states = await self.states()
        self.answers.append(states)
        for name, state in zip(NAMES, states, strict=True):
            assert state.in_flight == self.in_flight(name)
            self._check_money(name, state)

    def _check_money(self, name: str, state: AccountState) -> None:
        assert state.reserved == self.reserved(name), name
        for window, spent in state.spent.items():
            charged = self.committed(name, *window, charged_only=True)
            committed = self.committed(name, *window)
            assert charged <= spent <= committed, f"{name} in {window}: {charged} charged, {committed} committed"

    async def _come_to_rest(self) -> None:
        """All rows arrive, all jobs end: then budget == ledger + what is left, to the nano-dollar."""
        await self.step_charge(list(range(len(self.rows))))
        for job_id in self.jobs:
            await self._finish(job_id, None, 0)
        await self.step_advance(CHARGE_TTL + ASK_AGAIN)
        for _ in range(2):
            await self.step_get_in(999, list(NAMES), 0, 0, 1.0)
        for name, state in zip(NAMES, await self.states(), strict=True):
            assert state.reserved == 0
            for budget in self.account(name).budgets:
                window = (budget.start, budget.end)
                if window in state.spent:
                    assert state.spent[window] == self.committed(name, *window)
        self.answers.append(await self.states())


def shapes() -> st.SearchStrategy[dict[str, Account]]:
    """A key with money, a team with anything, a user with a limit of each kind at the most."""
    money = st.sampled_from([100, 1000, 5000])
    ever = st.builds(Budget, money, base=st.sampled_from([0, 0, 70]))
    minutely = st.builds(Budget, st.just(0) | money, st.just(START), st.just(START + MINUTE))
    budgets = st.lists(ever | minutely, max_size=2, unique_by=lambda budget: budget.end).map(tuple)
    rpm, tpm = st.sampled_from([None, 7, 60]), st.sampled_from([None, 700, 12345])
    parallel = st.sampled_from([None, 1, 3])
    return st.fixed_dictionaries(
        {
            "key:a": st.builds(Account, st.just("key:a"), budgets=st.tuples(ever)),
            "team:t": st.builds(Account, st.just("team:t"), rpm, tpm, parallel, budgets),
            "user:u": st.builds(Account, st.just("user:u"), rpm, tpm, parallel),
        }
    )


def histories() -> st.SearchStrategy[list[Step]]:
    job, known, cost = st.integers(0, 19), st.sampled_from([0, 0, 0, 1, 2, STRANGER]), st.sampled_from([0, 1, 60, 400])
    some = st.sampled_from([["key:a"], ["key:a", "team:t"], ["team:t", "user:u"], list(NAMES)])
    request = (job, some, st.integers(0, 1000), cost, st.sampled_from([2.0, 600.0, 600.0]))
    finish = st.tuples(st.just("finish"), known, st.none() | st.integers(0, 1500), cost)
    commit = st.tuples(
        st.just("commit"), known, cost, st.sampled_from([True, True, False]), st.sampled_from([0.0, 61.0])
    )
    charge = st.tuples(st.just("charge"), st.lists(st.integers(0, 5), min_size=1, max_size=3))
    seed = st.tuples(st.just("seed"), st.integers(0, 3))
    steps = [
        *[st.tuples(st.just("get_in"), *request)] * 4,
        *[st.tuples(st.just("settle"), known, cost, st.booleans())] * 2,
        *[finish] * 3,
        *[st.tuples(st.just("admit"), *request), commit, charge, seed] * 2,
        st.tuples(st.just("forget"), st.none() | st.sampled_from(NAMES)),
        st.tuples(st.just("overtake"), known, cost, st.sampled_from(NAMES)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("advance"), st.sampled_from([0.01, 1.0, 5.0, 31.7, 60.0, 3600.0])),
    ]
    return st.lists(st.one_of(steps), min_size=10, max_size=60)
