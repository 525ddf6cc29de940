"""What keys are worth while a server is away, or has lost everything it knew."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio
import yaml

from tests.e2e.callers import NANO, Callers, Key, billed, callers
from tests.e2e.conftest import PRICES, model
from tests.e2e.deployment import Servers, deployed
from tests.e2e.servers import real_servers
from tests.fakes.upstream import FakeUpstream
from tests.servers import Postgres, Redis

COST = 128_000  # nano-dollars of an answer
APIS = 3


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture
async def servers(worker_number: int) -> AsyncIterator[Servers]:
    async with real_servers(worker_number) as found:
        yield found


@pytest.fixture
def config(upstream: FakeUpstream, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model_list": [model("chat", "openai/chat", f"{upstream.url}/v1", **PRICES)]}))
    return path


async def test_the_first_request_after_redis_lost_everything_finds_the_budget_spent(
    servers: Servers, config: Path, tmp_path: Path
) -> None:
    async with Redis() as own, redis.asyncio.from_url(own.url) as client:
        with_own_redis = replace(servers, redis=own.url)
        async with deployed(config, with_own_redis, tmp_path, apis=APIS) as headrace, callers(headrace) as them:
            keys = [await _key_with_its_budget_spent(them) for _ in range(APIS)]

            await client.flushall()
            answers = [await them.chat(key, api) for api, key in enumerate(keys)]

    assert [(each.status, each.kind) for each in answers] == [(422, "budget_exceeded")] * APIS


async def test_an_embedded_broker_finds_the_budget_spent_when_it_starts_again(config: Path, tmp_path: Path) -> None:
    async with deployed(config, Servers(), tmp_path) as headrace, callers(headrace) as them:
        key = await _key_with_its_budget_spent(them)
        await headrace.apis[0].stop()

        await headrace.apis[0].start()
        await headrace.apis[0].ready()
        answer = await them.chat(key)

    assert (answer.status, answer.kind) == (422, "budget_exceeded")


async def _key_with_its_budget_spent(them: Callers) -> Key:
    """All of it is in the ledger."""
    budget = 9.5 * COST
    key = await them.key(max_budget=budget / NANO)
    spent = 0
    async with asyncio.timeout(100):
        while spent < budget:  # a request may come while the last one's estimate is still reserved, and be refused
            spent += billed([await them.chat(key)])
    await them.recorded(key, spent)
    return key


async def test_known_keys_work_while_postgresql_is_away_and_unknown_ones_are_not_called_invalid(
    servers: Servers, config: Path, tmp_path: Path
) -> None:
    async with Postgres() as postgres:
        own = replace(servers, database=postgres.url)
        async with deployed(config, own, tmp_path, apis=APIS) as headrace, callers(headrace) as them:
            known, limited = await them.key(), await them.key(max_budget=1.0, rpm_limit=100, tpm_limit=100_000)
            unused = await them.key()
            before = [await them.chat(key, api) for key in (known, limited) for api in range(APIS)]

            await postgres.stop()
            during = [await them.chat(key, api) for key in (known, limited) for api in range(APIS)]
            unknown = [await them.chat(key, api) for key in (unused, Key("sk-never-heard-of-1")) for api in range(APIS)]
            await postgres.start()
            after = await them.chat(unused)
            await them.recorded(limited, billed([*before, *during]) // 2)

    assert [each.status for each in (*before, *during)] == [200] * 4 * APIS
    assert [(each.status, each.kind) for each in unknown] == [(503, "no_db_connection")] * 2 * APIS
    assert after.status == 200
