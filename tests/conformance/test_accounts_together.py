"""Several processes share accounts; and whatever happens, in whatever order, the money adds up."""

import asyncio
import random
import time
from collections import Counter
from uuid import uuid4

import redis.asyncio
from hypothesis import HealthCheck, given, settings

from broker.account_interfaces import Accounts, Admitted, Limit, Refused, Unseeded
from broker.accounts import memory
from broker.accounts import redis as on_redis
from shared.accounts import Account, Budget
from tests.conformance.account_histories import Step, World, histories, shapes
from tests.conformance.accounts import EVER, budgeted, charge, opener
from tests.fakes.clock import FakeClock


async def test_several_processes_together_stay_within_the_limits(backend: str, namespace: str) -> None:
    connect = opener(backend, namespace, clock=None)
    asked = [Account("key:a", rpm=1200, tpm=600_000), Account("team:t", parallel=8)]
    in_flight, most = 0, 0
    tally: Counter[str] = Counter()

    async def client(accounts: Accounts, name: str, until: float) -> None:
        nonlocal in_flight, most
        turn = 0
        while time.monotonic() < until:
            turn += 1
            answer = await accounts.admit(f"{name}/{turn}", asked, tokens=500, cost=0, ttl=60)
            if isinstance(answer, Refused):
                tally[answer.limit] += 1
                await asyncio.sleep(min(answer.wait, 0.01))
                continue
            in_flight += 1
            most = max(most, in_flight)
            tally["admitted"] += 1
            await asyncio.sleep(0)
            in_flight -= 1
            await accounts.finish(f"{name}/{turn}", ["key:a", "team:t"], tokens=500, cost=0)

    began = time.monotonic()
    async with connect() as one, connect() as two, connect() as three, asyncio.TaskGroup() as group:
        for number, accounts in enumerate((one, two, three) * 5):
            group.create_task(client(accounts, f"client-{number}", began + 1.5))
    elapsed = time.monotonic() - began

    assert most <= 8
    assert tally["admitted"] <= 1200 + 1 + elapsed * 20, "no more than a minute's worth and the refill since"
    assert tally[Limit.PARALLEL] > 0


async def test_a_budget_is_exact_while_processes_spend_seed_and_forget(backend: str, namespace: str) -> None:
    """Clients of three processes spend two budgets through the whole life of a job, while a fourth one forgets again
    and again; rows take their time to the ledger, and from there."""
    connect = opener(backend, namespace, clock=None)
    asked = [budgeted(40_000), budgeted(10**6, "team:t")]
    ledger: list[int] = []
    let_in = 0

    async def bring_in(accounts: Accounts, job: str) -> bool:
        nonlocal let_in
        for _ in range(200):
            answer = await accounts.admit(job, asked, tokens=0, cost=100, ttl=60)
            if not isinstance(answer, Unseeded):
                let_in += isinstance(answer, Admitted)
                return isinstance(answer, Admitted)
            for name, start, end, ticket in answer.budgets:
                await asyncio.sleep(random.uniform(0, 0.002))
                committed = sum(ledger)
                await asyncio.sleep(random.uniform(0, 0.002))
                await accounts.seed(name, start, end, committed, ticket)
        raise AssertionError("the ledger was asked without end")

    async def client(accounts: Accounts, name: str) -> None:
        for turn in range(80):
            job, cost = f"{name}/{turn}", random.randint(0, 100)
            if not await bring_in(accounts, job):
                continue
            ends = [accounts.finish(job, ["key:a", "team:t"], tokens=0, cost=cost), settle(accounts, job, cost)]
            random.shuffle(ends)
            await asyncio.gather(*ends)

    async def settle(accounts: Accounts, job: str, cost: int) -> None:
        ledger.append(cost)
        await asyncio.sleep(random.uniform(0, 0.002))
        await accounts.charge([charge(job, cost, "key:a", "team:t")])

    async def forgetful(accounts: Accounts) -> None:
        for turn in range(20):
            await asyncio.sleep(0.02)
            await accounts.forget(None if turn % 2 else "key:a")

    async with connect() as one, connect() as two, connect() as three:
        async with asyncio.TaskGroup() as group:
            group.create_task(forgetful(one))
            for number, accounts in enumerate((one, two, three) * 4):
                group.create_task(client(accounts, f"client-{number}"))
        await one.forget()
        await bring_in(two, "the last")
        await two.finish("the last", ["key:a", "team:t"], tokens=0, cost=0)
        states = await three.states(["key:a", "team:t"])

    assert 40_000 - 100 <= sum(ledger) < 40_000 + 100, "the last one may have what is left, and cost more"
    assert let_in > 400
    assert [(each.spent, each.reserved, each.in_flight) for each in states] == [({EVER: sum(ledger)}, 0, 0)] * 2


async def test_a_burst_from_many_connections_spends_no_more_than_the_budget(backend: str, namespace: str) -> None:
    connect = opener(backend, namespace, clock=None)
    key = Account("key:a", budgets=(Budget(5_000),))

    async with connect() as one, connect() as two, connect() as three:
        first = await one.admit("first", [key], tokens=0, cost=100, ttl=60)
        assert isinstance(first, Unseeded)
        await two.seed(*first.budgets[0][:3], 0, first.budgets[0][3])
        answers = await asyncio.gather(
            *[(one, two, three)[n % 3].admit(f"job/{n}", [key], tokens=0, cost=100, ttl=60) for n in range(200)]
        )

    assert Counter(type(each) for each in answers) == {Admitted: 50, Refused: 150}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=shapes(), history=histories())
async def test_whatever_happens_the_money_adds_up_and_both_answer_alike(
    redis_url: str, limits: dict[str, Account], history: list[Step]
) -> None:
    clock, twin, namespace = FakeClock(), FakeClock(), uuid4().hex

    async def restart() -> Accounts:
        world.pending.clear()  # tickets of a process that is gone go with it
        return memory.connect(clock=clock)

    async def flush() -> Accounts:
        await server.flushdb()
        on_server.pending.clear()
        return shared

    async with (
        on_redis.connect(redis_url, namespace=namespace, clock=twin.now) as shared,
        redis.asyncio.from_url(redis_url) as server,
    ):
        world = World(memory.connect(clock=clock), restart, clock, limits)
        on_server = World(shared, flush, twin, limits)
        expected = await world.play(history)
        answers = await on_server.play(history)

    assert answers == expected
