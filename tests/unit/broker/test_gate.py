"""The way into the queue: what is taken, what is asked of the ledger, and who waits."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker import gate as gates
from broker.account_interfaces import Admitted, Charge, Limit, Refused, Unseeded
from broker.account_records import Entry, Kind
from broker.accounts.account import ASK_AGAIN
from broker.price_estimates import PriceEstimates
from shared.errors import (
    BudgetExceeded,
    CustomerModelNotAllowed,
    InvalidKey,
    KeyBlocked,
    LimitExceeded,
    Unavailable,
)
from shared.jobs import Job, Usage
from tests.unit.broker.gateway import DOLLAR, Here


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    it = Here()
    yield it
    await it.gate.close()


async def test_a_job_that_nothing_limits_passes_as_it_is_and_nobody_is_asked(here: Here) -> None:
    here.gate._accounts = None  # type: ignore[assignment]  # asking it would fail
    job = here.job(customer="somebody")

    assert await here.enter(here.policy(), job) is job


async def test_an_admitted_job_carries_its_accounts_and_has_its_part_of_them(here: Here) -> None:
    policy = here.policy(rpm_limit=5, tpm_limit=1000, max_parallel_requests=2)

    job = await here.enter(policy)

    state = await here.state()
    assert job.accounts == ("key:h",)
    assert (state.requests, state.tokens, state.in_flight) == (4, 850, 1)


async def test_the_estimate_is_that_of_the_dearest_deployment_of_the_first_leg(here: Here) -> None:
    await here.enter(here.policy(max_budget=10), here.job(deployments=("cheap", "dear", "gone")))

    assert (await here.state()).reserved == round((100 * 1e-3 + 50 * 2e-3) * DOLLAR)


async def test_the_price_list_is_loaded_when_a_budget_exists_and_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    load = gates.PriceEstimates._loaded

    async def counted(estimates: PriceEstimates) -> Any:
        loads.append(1)
        return await load(estimates)

    monkeypatch.setattr(PriceEstimates, "_loaded", counted)
    await here.enter(here.policy(rpm_limit=5))
    assert loads == []

    await here.enter(here.policy(max_budget=1))
    await here.enter(here.policy(max_budget=1), here.job("k"))

    assert loads == [1]


async def test_what_leaves_gets_everything_back(here: Here) -> None:
    policy = here.policy(rpm_limit=5, max_parallel_requests=1, max_budget=1)
    job = await here.enter(policy)

    await here.gate.leave(job)

    state = await here.state()
    assert (state.in_flight, state.reserved) == (0, 0)
    assert (await here.enter(policy, here.job("next"))).accounts == ("key:h",)


async def test_leaving_can_be_left_to_the_gate(here: Here) -> None:
    job = await here.enter(here.policy(max_parallel_requests=1))

    here.gate.leave_soon(job)
    await here.gate.close()

    assert (await here.state()).in_flight == 0


async def test_a_job_can_be_marked_before_it_is_admitted(here: Here) -> None:
    marked = await here.gate.marked(here.job(), here.policy(rpm_limit=5, model_rpm_limit={"m": 2}))

    assert marked.accounts == ("key:h", "key:h/m")
    assert (await here.state()).requests is None
    assert await here.gate.marked(marked, here.policy()) is marked


# The ledger


async def test_what_a_budget_has_spent_is_read_in_the_ledger_once(here: Here) -> None:
    policy = here.policy(max_budget=1)
    here.bill.rows["key:h"] = DOLLAR

    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=r"Current cost: 1.0, Max budget: 1.0"):
            await here.enter(policy)

    assert here.bill.asked == [("key:h", 0.0, float("inf"))]


async def test_a_burst_asks_the_ledger_once(here: Here) -> None:
    policy = here.policy(max_budget=1000)

    await asyncio.gather(*(here.enter(policy, here.job(str(number))) for number in range(50)))

    assert len(here.bill.asked) == 1


async def test_a_burst_spends_no_more_than_the_budget(here: Here) -> None:
    each = 100 * 1_000 + 50 * 2_000  # nano-dollars
    policy = here.policy(max_budget=50 * each / DOLLAR)

    results = await asyncio.gather(
        *(here.enter(policy, here.job(str(number))) for number in range(200)), return_exceptions=True
    )

    assert len([each for each in results if isinstance(each, Job)]) == 50
    assert len([each for each in results if isinstance(each, BudgetExceeded)]) == 150


async def test_while_the_ledger_is_away_nobody_spends_money_that_may_not_be_there(here: Here) -> None:
    policy = here.policy(max_budget=1)
    await here.prices.dearest(["cheap"], Usage())  # their list is loaded, so that all come together
    here.bill.away = True

    results = await asyncio.gather(
        *(here.enter(policy, here.job(str(number))) for number in range(20)), return_exceptions=True
    )

    assert {type(result) for result in results} == {Unavailable}
    assert len(here.bill.asked) < 5, "together, and not each for itself"
    here.bill.away = False
    assert (await here.enter(policy)).accounts == ("key:h",)


async def test_while_the_ledger_is_away_a_doubt_keeps_nobody_out(here: Here) -> None:
    policy = here.policy(max_budget=1)
    await here.enter(policy)
    await here.accounts.charge([Charge("unknown", ("key:h",), here.clock.now(), 1000, last=True)])
    here.clock.advance(ASK_AGAIN)
    here.bill.away = True

    entered = await here.enter(policy, here.job("second"))

    assert entered.accounts == ("key:h",)
    assert len(here.bill.asked) == 2


async def test_who_reads_the_ledger_may_leave_while_others_wait_for_it(here: Here) -> None:
    policy = here.policy(max_budget=1)
    first, second = (asyncio.create_task(here.enter(policy, here.job(id))) for id in "ab")
    while not here.bill.asked:
        await asyncio.sleep(0)

    first.cancel()

    assert (await second).id == "b"


class Scripted:
    """Accounts that answer what they are told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int, int, float]] = []
        self.seeds: list[tuple[str, float, float, int, int]] = []
        self.finished: list[tuple[str, tuple[str, ...], int | None, int]] = []

    async def admit(self, job_id: str, accounts: Any, *, tokens: int, cost: int, ttl: float) -> Any:
        self.asked.append((job_id, tokens, cost, ttl))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def seed(self, *seed: Any) -> None:
        self.seeds.append(seed)

    async def finish(self, job_id: str, accounts: Any, *, tokens: int | None, cost: int) -> None:
        self.finished.append((job_id, accounts, tokens, cost))


UNSEEDED = Unseeded((("key:h", 0.0, float("inf"), 7),))
FULL = Refused("key:h", Limit.PARALLEL, 0.02, 1, 1)
FREE = Admitted(((None, None),), (None,))


async def test_a_seed_that_is_void_is_read_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_SEED_PAUSE", 0.0001)
    busy = Here(Scripted(UNSEEDED, UNSEEDED, UNSEEDED, FREE))
    endless = Here(Scripted(UNSEEDED))

    assert (await busy.enter(busy.policy(max_budget=1))).accounts == ("key:h",)
    with pytest.raises(Unavailable):
        await endless.enter(endless.policy(max_budget=1))

    assert busy.accounts.seeds == [("key:h", 0.0, float("inf"), 0, 7)] * 3
    assert len(endless.bill.asked) == 8


async def test_a_reservation_outlives_the_deadline_by_two_minutes_and_costs_something() -> None:
    it = Here(Scripted(FREE))

    await it.enter(it.policy(max_budget=1), it.job(deployments=("nameless",)))

    ((_, tokens, cost, ttl),) = it.accounts.asked
    assert (tokens, cost, round(ttl)) == (150, 1, 180)


async def test_who_is_cancelled_while_it_is_being_admitted_leaves() -> None:
    begun = asyncio.Event()

    async def slow() -> Admitted:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    it = Here(Scripted(slow))
    entering = asyncio.create_task(it.enter(it.policy(rpm_limit=5)))
    await begun.wait()

    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    await it.gate.close()

    assert it.accounts.finished == [("j", ("key:h",), 0, 0)]


async def test_accounts_that_are_away_refuse() -> None:
    it = Here(Scripted(Unavailable("Redis is away")))

    with pytest.raises(Unavailable):
        await it.enter(it.policy(rpm_limit=5))


# Waiting


async def test_without_a_time_to_wait_until_a_refusal_is_at_once(here: Here) -> None:
    policy = here.policy(rpm_limit=60)
    for number in range(60):
        await here.enter(policy, here.job(str(number)))

    with pytest.raises(LimitExceeded) as caught:
        await here.enter(policy, here.job("one too many"))

    assert caught.value.retry_after == pytest.approx(1.0)


async def test_a_job_waits_exactly_and_enters() -> None:
    it = Here(Scripted(FULL, FULL, FREE))
    began = asyncio.get_running_loop().time()

    job = await it.enter(it.policy(max_parallel_requests=1), wait_until=it.clock.now() + 5)

    assert job.accounts == ("key:h",)
    assert 0.04 <= asyncio.get_running_loop().time() - began < 2
    assert len(it.accounts.asked) == 3


@pytest.mark.parametrize("wait", [10.0, float("inf")])
async def test_a_turn_that_would_come_too_late_is_not_waited_for(wait: float) -> None:
    it = Here(Scripted(Refused("key:h", Limit.REQUESTS, wait, 5, 5)))

    with pytest.raises(LimitExceeded) as caught:
        await it.enter(it.policy(rpm_limit=5), wait_until=it.clock.now() + 5)

    assert caught.value.retry_after == (None if wait == float("inf") else wait)
    assert len(it.accounts.asked) == 1


async def test_those_who_wait_have_their_turns_in_the_order_in_which_they_came() -> None:
    it = Here(Scripted(*[FULL] * 4, FREE))
    policy = it.policy(max_parallel_requests=1)
    entered: list[str] = []

    async def enter(id: str) -> None:
        entered.append((await it.enter(policy, it.job(id), wait_until=it.clock.now() + 5)).id)

    await asyncio.gather(*map(enter, "abcd"))

    assert entered == ["a", "b", "c", "d"]


async def test_who_stands_in_line_until_its_time_is_over_is_told_so() -> None:
    it = Here(Scripted(Refused("key:h", Limit.PARALLEL, 0.01, 1, 1)))
    policy = it.policy(max_parallel_requests=1)
    until = it.clock.now() + 0.2

    results = await asyncio.gather(
        *(it.enter(policy, it.job(id), wait_until=until) for id in "ab"), return_exceptions=True
    )

    assert [type(result) for result in results] == [LimitExceeded, LimitExceeded]
    assert it.gate._waiting == 0


async def test_more_than_so_many_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_MOST_WAITING", 0)
    it = Here(Scripted(FULL))

    with pytest.raises(LimitExceeded):
        await it.enter(it.policy(max_parallel_requests=1), wait_until=it.clock.now() + 5)


async def test_a_key_that_is_deleted_while_its_job_waits_does_not_enter() -> None:
    it = Here(Scripted(FULL, FREE))
    policy = it.policy(max_parallel_requests=1)
    it.records.clear()

    with pytest.raises(InvalidKey):
        await it.enter(policy, wait_until=it.clock.now() + 5)


# Customers


async def test_a_blocked_customer_does_not_enter(here: Here) -> None:
    here.customers["c"] = Entry(Kind.CUSTOMER, "c", fields={"blocked": True})

    with pytest.raises(KeyBlocked, match="End User=c is blocked"):
        await here.enter(here.policy(), here.job(customer="c"))


async def test_a_customer_with_models_of_its_own_may_use_no_others(here: Here) -> None:
    here.customers["c"] = Entry(Kind.CUSTOMER, "c", fields={"models": ["free"]})

    with pytest.raises(CustomerModelNotAllowed):
        await here.enter(here.policy(), here.job(customer="c"))


async def test_a_customers_limits_hold_for_keys_without_any(here: Here) -> None:
    here.customers["c"] = Entry(Kind.CUSTOMER, "c", fields={"rpm_limit": 1})
    policy = here.policy()

    assert (await here.enter(policy, here.job(customer="c"))).accounts == ("customer:c",)
    with pytest.raises(LimitExceeded, match="Rate limit exceeded for end_user: c"):
        await here.enter(policy, here.job("k", customer="c"))
    assert (await here.enter(policy, here.job("l", customer="d"))).accounts == ()
