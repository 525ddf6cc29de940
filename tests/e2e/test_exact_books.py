"""Whatever happens, the bill is the provider's, no budget is overshot, and nothing is kept from anybody.

HEADRACE_TEST_BOOKS_SEED repeats a history, HEADRACE_TEST_BOOKS_REQUESTS makes it longer. In CI the history is the
same every time, so that a failure is the change's doing.
"""

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio
import yaml
from pydantic import SecretStr

from broker import backends
from broker.account_interfaces import AccountState
from broker.accounts import redis as redis_accounts
from shared.accounts import Account, Budget
from shared.settings import Settings
from tests.conftest import IN_CI
from tests.e2e import history_audit as audit
from tests.e2e.books import Books, UpstreamProcess, balanced_books, upstream_process
from tests.e2e.callers import NANO, callers
from tests.e2e.conftest import model
from tests.e2e.deployment import MASTER_KEY, Headrace, Process, Servers, deployed
from tests.e2e.histories import BUDGETS, CALLERS, LOST, PRICES, TEAM, History, Request, account_id, cost
from tests.e2e.servers import real_servers
from tests.servers import Redis

_ANY_SEED = 1 if IN_CI else random.SystemRandom().randrange(1, 10**6)
_SEED = int(os.environ.get("HEADRACE_TEST_BOOKS_SEED", "0")) or _ANY_SEED
_REQUESTS = int(os.environ.get("HEADRACE_TEST_BOOKS_REQUESTS", "400"))
_CONCURRENCY = 16
_APIS = 3
_DEADLINE = 20  # seconds
_SETTLED = 60.0  # seconds
_RESERVATION = 600.0  # seconds after which all reservations of dead processes are over: the deadline, and a grace

pytestmark = pytest.mark.timeout(300 + _REQUESTS)


@pytest_asyncio.fixture
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


@dataclass
class Remains:
    """All that is known afterwards."""

    history: History
    books: Books
    bills: list[audit.Billed]
    rows: list[audit.Row]
    states: dict[str, AccountState]
    """At rest."""
    later: dict[str, AccountState]
    """When the reservations of processes that died are over."""
    spent: dict[str, tuple[int, int]]
    """By account of `BUDGETS`: what is spent and reserved as its next request finds it, and what the ledger has."""
    flushed: list[float] = field(default_factory=list)
    requests: dict[int, Request] = field(default_factory=dict)

    def of(self, caller: str) -> list[audit.Billed]:
        return [each for each in self.bills if self.requests[each.number].caller == caller]

    def __str__(self) -> str:
        ends = Counter(f"{each.how} {each.status}" for each in self.history.requests)
        held = {name: state for name, state in self.states.items() if state.in_flight or state.reserved}
        return f"seed {_SEED}: {self.books}; {dict(sorted(ends.items()))}; held {held}; spent {self.spent}"


async def test_the_books_are_exact_after_any_history(servers: Servers, tmp_path: Path) -> None:
    print(f"\nHEADRACE_TEST_BOOKS_SEED={_SEED} HEADRACE_TEST_BOOKS_REQUESTS={_REQUESTS}")

    remains = await _live_through(servers, tmp_path)

    print(remains)
    _check_the_bill(remains)
    _check_what_is_held(remains)
    _check_budgets(remains)
    _check_limits(remains)
    _check_that_limits_mattered(remains)


async def _live_through(servers: Servers, folder: Path) -> Remains:
    flushed: list[float] = []
    async with (
        Redis() as own_redis,
        redis.asyncio.from_url(own_redis.url) as redis_client,
        upstream_process(folder, latency=0.1, pace=0.004) as upstream,
    ):
        own = replace(servers, redis=own_redis.url)
        extra = {"HEADRACE_REQUEST_TIMEOUT": str(_DEADLINE)}
        async with (
            deployed(_config(folder, upstream), own, folder, apis=_APIS, workers=2, extra=extra) as headrace,
            callers(headrace) as them,
        ):
            history = History(them, random.Random(_SEED))
            await history.prepare()

            async def flush() -> None:
                await redis_client.flushall()
                flushed.append(time.time())

            # Redis first: what a worker had begun when it died, Redis alone knows until the job is taken over.
            events: dict[int, Callable[[], Awaitable[None]]] = {
                _REQUESTS // 4: flush,
                _REQUESTS // 2: partial(_killed_and_started_again, headrace.apis[1]),
                _REQUESTS * 3 // 4: partial(_killed_and_started_again, headrace.workers[0]),
            }
            started = time.monotonic()
            await history.run(_REQUESTS, _CONCURRENCY, events)
            print(f"history of {time.monotonic() - started:.1f} s")
            await _batches_ended(history)
            remains = await _remains(history, headrace, own, upstream)
            remains.flushed = flushed
            return remains


async def _remains(history: History, headrace: Headrace, servers: Servers, upstream: UpstreamProcess) -> Remains:
    assert servers.redis is not None and servers.database is not None
    books = await balanced_books(upstream, servers, timeout=_SETTLED)
    names = sorted({name for request in history.requests for name in request.accounts})
    ids = [account_id(name, history.keys) for name in names]
    settings = Settings(DATABASE_URL=SecretStr(servers.database))
    async with (
        redis_accounts.connect(servers.redis, namespace=servers.namespace) as accounts,
        redis_accounts.connect(
            servers.redis, namespace=servers.namespace, clock=lambda: time.time() + _RESERVATION
        ) as later,
        backends.store(settings) as store,
    ):
        states = await audit.at_rest(accounts, ids, timeout=_SETTLED)
        after = await later.states(ids)
        spent = {}
        for name, dollars in BUDGETS.items():
            account = Account(account_id(name, history.keys), budgets=(Budget(round(dollars * NANO)),))
            found = await audit.spent(accounts, store.bill, account)
            spent[name] = found, await store.bill.spent(account.id, 0.0, float("inf"))
    return Remains(
        history,
        books,
        audit.billed(upstream),
        await audit.ledger(servers.database),
        dict(zip(names, states, strict=True)),
        dict(zip(names, after, strict=True)),
        spent,
        requests={each.number: each for each in history.requests},
    )


def _check_the_bill(remains: Remains) -> None:
    keys = {name: key.hash for name, key in remains.history.keys.items()}
    assert remains.books.balanced, remains.books
    assert not audit.wrong_bills(remains.bills, remains.rows, remains.requests, keys)
    by_account: dict[str, int] = defaultdict(int)
    callers = {each.job_id: remains.requests[each.number] for each in remains.bills}
    for row in remains.rows:
        if row.job_id in callers:
            for name in callers[row.job_id].accounts:
                by_account[name] += row.cost
    unseen = sum(row.cost for row in remains.rows if row.job_id not in callers)
    for name, (_, of_ledger) in remains.spent.items():
        if name.startswith("model"):
            continue  # some of its jobs were of other models
        assert by_account[name] <= of_ledger <= by_account[name] + unseen, name


def _check_what_is_held(remains: Remains) -> None:
    """An api that dies between an admission and the publishing of its job leaves a reservation that ends by itself."""
    lost = Counter(name for each in remains.history.requests if each.status == LOST for name in each.accounts)
    held = Counter({name: state.in_flight for name, state in remains.states.items() if state.in_flight})
    assert held <= lost, (held, lost)
    assert all(state.in_flight or not state.reserved for state in remains.states.values()), remains.states
    assert {name: state for name, state in remains.later.items() if state.in_flight or state.reserved} == {}
    for name, (found, of_ledger) in remains.spent.items():
        assert found == of_ledger, f"{name}: its next request finds {found} spent, the ledger has {of_ledger}"


def _check_budgets(remains: Remains) -> None:
    """One job may cost more than what is left; what nobody could know are the attempts that were paid for twice because
    a worker died, and what was under way when Redis forgot its reservations."""
    requests = {each.job_id: remains.requests[each.number] for each in remains.bills}
    for name, dollars in BUDGETS.items():
        jobs: dict[str, list[audit.Row]] = defaultdict(list)
        for row in remains.rows:
            if row.job_id in requests and name in requests[row.job_id].accounts:
                jobs[row.job_id].append(row)
        costs = {job: sum(row.cost for row in rows) for job, rows in jobs.items()}
        twice = sum(max(costs[job] - cost(requests[job].reserved), 0) for job in jobs)
        forgotten = sum(
            row.cost
            for rows in jobs.values()
            for row in rows
            for flushed in remains.flushed
            if row.recorded_at >= flushed > requests[row.job_id].sent
        )
        allowed = round(dollars * NANO) + max(costs.values(), default=0) + twice + forgotten
        assert remains.spent[name][1] <= allowed, f"{name}: {remains.spent[name][1]} of {allowed}"


def _check_limits(remains: Remains) -> None:
    wrong = {}
    for caller, fields in CALLERS.items():
        bills = remains.of(caller)
        if "rpm_limit" in fields:
            found = audit.flows(bills, remains.requests, tokens=False)
            wrong[caller] = audit.over_the_limit(found, fields["rpm_limit"], remains.flushed)
        if "tpm_limit" in fields:
            found = audit.flows(bills, remains.requests, tokens=True)
            wrong[caller] = audit.over_the_limit(found, fields["tpm_limit"], remains.flushed)
        if "model_rpm_limit" in fields:
            of_model = [each for each in bills if remains.requests[each.number].model == "chat"]
            found = audit.flows(of_model, remains.requests, tokens=False)
            wrong[caller] = audit.over_the_limit(found, fields["model_rpm_limit"]["chat"], remains.flushed)
        if "max_parallel_requests" in fields:
            for part in audit.between(bills, remains.requests, remains.flushed):
                most = audit.most_at_a_time(part)
                assert most <= fields["max_parallel_requests"], f"{caller}: {most} at a time"
    team = [each for each in remains.bills if "team" in remains.requests[each.number].accounts]
    found = audit.flows(team, remains.requests, tokens=False)
    wrong["team"] = audit.over_the_limit(found, TEAM["rpm_limit"], remains.flushed)
    assert not any(wrong.values()), {name: each[:5] for name, each in wrong.items() if each}


def _check_that_limits_mattered(remains: Remains) -> None:
    """A history in which nobody was refused shows nothing."""
    refused = Counter((each.caller, each.status) for each in remains.history.requests if each.status in (422, 429))
    assert refused["poor", 422] and refused["paced", 429] and refused["tokens", 429] and refused["narrow", 429], refused
    assert refused["modelled", 429] + refused["modelled", 422] and refused["member", 422], refused
    assert sum(each.status == 200 for each in remains.history.requests) > len(remains.history.requests) // 4


def _config(folder: Path, upstream: UpstreamProcess) -> Path:
    path = folder / "config.yaml"
    base = f"{upstream.url}/v1"
    models = [model("chat", "openai/chat", base, **PRICES), model("fault/*", "openai/*", base, **PRICES)]
    path.write_text(yaml.safe_dump({"model_list": models, "router_settings": {"num_retries": 2}}))
    return path


async def _killed_and_started_again(process: Process) -> None:
    assert process.process is not None
    process.kill()
    await process.process.wait()
    await process.start()
    await process.ready()


async def _batches_ended(history: History) -> None:
    """Cancelled, because lines that are over a limit wait for it for as long as the batch has time."""
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    for batch in history.batches:
        async with history.them.session.post(
            f"{history.them.url(0)}/v1/batches/{batch}/cancel", headers=headers
        ) as answer:
            assert answer.status in (200, 400), await answer.text()  # 400: it has ended by itself
