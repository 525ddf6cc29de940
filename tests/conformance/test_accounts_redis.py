"""What accounts on Redis keep when the server loses everything, and what they leave there."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from broker.account_interfaces import Admitted, Refused
from broker.accounts.account import CHARGE_TTL, IDLE_TTL
from broker.accounts.redis import RedisAccounts, connect
from shared.accounts import Account, Budget
from shared.errors import Unavailable
from tests.conformance.accounts import EVER, admitted, ask, budgeted, charge, refused, seed, spent, state, unseeded

KEY = budgeted(1000)


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def accounts(redis_url: str, namespace: str) -> AsyncIterator[RedisAccounts]:
    async with connect(redis_url, namespace=namespace) as accounts:
        yield accounts


async def dump(server: "redis.asyncio.Redis") -> dict[bytes, bytes]:
    return {key: await server.dump(key) for key in await server.keys("*")}


async def test_a_ticket_dies_with_the_server(accounts: RedisAccounts, server: "redis.asyncio.Redis") -> None:
    ((*window, ticket),) = (await unseeded(accounts, KEY)).budgets
    await server.flushdb()
    await unseeded(accounts, KEY)

    await accounts.seed(*window, 300, ticket)

    await unseeded(accounts, KEY)


async def test_a_flush_between_admission_and_finish_leaves_nothing(
    accounts: RedisAccounts, server: "redis.asyncio.Redis"
) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=500)
    await server.flushdb()

    await accounts.finish("job", ["key:a"], tokens=0, cost=500)
    await accounts.charge([charge("job", 500)])

    assert await dump(server) == {}
    await unseeded(accounts, KEY)


async def test_a_row_of_before_the_flush_is_in_doubt_after_it(
    accounts: RedisAccounts, server: "redis.asyncio.Redis"
) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=500)
    await server.flushdb()
    await seed(accounts, KEY, ledger=500)

    await accounts.charge([charge("job", 500)])

    assert await spent(accounts) is None
    await seed(accounts, KEY, ledger=500, cost=300)
    assert await spent(accounts) == 500


async def test_forgetting_all_reaches_other_connections(
    accounts: RedisAccounts, redis_url: str, namespace: str
) -> None:
    await seed(accounts, KEY)

    async with connect(redis_url, namespace=namespace) as other:
        await other.forget()

    await unseeded(accounts, KEY)


async def test_a_server_that_lost_the_scripts_gets_them_again(
    accounts: RedisAccounts, server: "redis.asyncio.Redis"
) -> None:
    await seed(accounts, KEY)
    await server.script_flush()

    await admitted(accounts, "job", KEY, cost=5)


async def test_a_refusal_writes_nothing(accounts: RedisAccounts, server: "redis.asyncio.Redis") -> None:
    await seed(accounts, KEY, ledger=1000)
    before = await dump(server)

    await refused(accounts, KEY, Account("team:t", rpm=5), cost=1)
    await refused(accounts, Account("user:u", parallel=0))

    assert await dump(server) == before


async def test_every_key_expires(accounts: RedisAccounts, server: "redis.asyncio.Redis") -> None:
    full = Account("key:a", rpm=60, tpm=1000, parallel=5, budgets=(Budget(1000),))
    await accounts.forget()
    await seed(accounts, full)
    for job in ("open", "finished", "charged", "over"):
        await admitted(accounts, job, full, tokens=10, cost=5, ttl=9000)
    await accounts.finish("finished", ["key:a"], tokens=3, cost=5)
    await accounts.charge([charge("charged", 5), charge("over", 5)])
    await accounts.finish("over", ["key:a"], tokens=3, cost=5)

    times = {key.rpartition(b"}:")[2]: await server.ttl(key) for key in await server.keys("*")}

    assert set(times) == {b"epoch", b"account:key:a", b"open:key:a"}
    assert times[b"epoch"] > CHARGE_TTL + IDLE_TTL
    assert CHARGE_TTL < times[b"account:key:a"] == times[b"open:key:a"] <= CHARGE_TTL + IDLE_TTL


async def test_an_account_that_nobody_holds_anything_of_is_gone_after_an_hour(
    accounts: RedisAccounts, server: "redis.asyncio.Redis", namespace: str
) -> None:
    await seed(accounts, KEY)
    await admitted(accounts, "job", KEY, cost=5)
    await accounts.charge([charge("job", 5)])
    await accounts.finish("job", ["key:a"], tokens=0, cost=5)

    assert await server.keys("*") == [f"{namespace}:{{accounts}}:account:key:a".encode()]
    assert 0 < await server.ttl(f"{namespace}:{{accounts}}:account:key:a") <= IDLE_TTL


async def test_what_a_job_held_is_removed_at_its_end(
    accounts: RedisAccounts, server: "redis.asyncio.Redis", namespace: str
) -> None:
    await seed(accounts, KEY)
    for n in range(20):
        await admitted(accounts, f"job/{n}", KEY, cost=5)
        await accounts.finish(f"job/{n}", ["key:a"], tokens=0, cost=5)
        await accounts.charge([charge(f"job/{n}", 5)])

    fields = await server.hkeys(f"{namespace}:{{accounts}}:account:key:a")

    assert not [field for field in fields if field.startswith(b"job/")]
    assert await spent(accounts) == 100


async def test_much_that_expires_together_is_dropped_before_anybody_is_refused(
    accounts: RedisAccounts, redis_url: str, namespace: str
) -> None:
    """Each script call drops 200 reservations at most."""
    now = 1000.0
    key = Account("key:a", parallel=900, budgets=(Budget(900),))
    async with connect(redis_url, namespace=namespace, clock=lambda: now) as slow:
        await seed(slow, key)
        for n in range(900):
            await admitted(slow, f"job/{n}", key, cost=1, ttl=30)
        at_the_limit = await ask(slow, "too many", key, cost=1)
        now += 30

        afterwards = await ask(slow, "job", key, cost=900)
        state_then = await state(slow)

    assert isinstance(at_the_limit, Refused)
    assert isinstance(afterwards, Admitted)
    assert (state_then.in_flight, state_then.reserved, state_then.spent) == (1, 900, {EVER: 0})


async def test_accounts_without_limits_need_no_server() -> None:
    never_opened = connect("redis://127.0.0.1:1")

    answer = await never_opened.admit("job", [Account("key:a")], tokens=5, cost=5, ttl=60)
    await never_opened.finish("job", [], tokens=5, cost=5)
    await never_opened.charge([])

    assert answer == Admitted(remaining=((None, None),), spent=(None,))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        async with connect("redis://127.0.0.1:1"):
            pass
