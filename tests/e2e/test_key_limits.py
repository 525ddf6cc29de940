"""A burst on a key with a budget or a limit, over three apis where there can be three."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import yaml

from tests.e2e.callers import NANO, PATIENCE, Callers, Key, billed, callers
from tests.e2e.conftest import PRICES, model
from tests.e2e.deployment import Servers, deployed
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

APIS = 3
BURST = 200
PAID_FOR = 50
COST = 128_000
"""Nano-dollars of an answer: 8 tokens of prompt and 60 words."""
MOST_RESERVED = 160_000  # the estimate: a quarter of the body's length, and `max_tokens`
BUSY = 20.0  # seconds that a busy machine may add


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def them(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callers]:
    folder = tmp_path_factory.mktemp("headrace")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"model_list": [model("chat", "openai/chat", f"{upstream.url}/v1", **PRICES)]}))
    apis, workers = (APIS, 2) if servers.distributed else (1, 0)
    async with deployed(config, servers, folder, apis=apis, workers=workers) as headrace, callers(headrace) as them:
        yield them


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_before(upstream: FakeUpstream) -> None:
    upstream.reset()
    upstream.latency = 0.3
    upstream.gate.set()


async def test_a_burst_spends_a_budget_and_at_most_one_answer_more(them: Callers, upstream: FakeUpstream) -> None:
    budget = PAID_FOR * COST
    key = await them.key(max_budget=budget / NANO, key_alias="fifty")

    answers = await them.chats(key, BURST)
    await them.recorded(key, billed(answers))

    served = [each for each in answers if each.status == 200]
    refused = [each for each in answers if each.status != 200]
    assert billed(answers) == COST * len(served) == await them.spent(key)
    assert len(upstream.requests) == len(served)
    assert budget - MOST_RESERVED < len(served) * MOST_RESERVED, "money that was there was refused"
    assert billed(answers) <= budget + COST
    assert {(each.status, each.kind) for each in refused} == {(422, "budget_exceeded")}
    error = refused[0].body["error"]
    assert (error["param"], error["code"]) == (None, "422")
    assert error["message"].startswith(f"Budget has been exceeded! Key=fifty (sk-...{key.text[-4:]}) Current cost: ")
    assert error["message"].endswith(f", Max budget: {budget / NANO}")


async def test_what_a_burst_left_of_a_budget_can_still_be_spent_and_no_more(them: Callers) -> None:
    budget = 10 * COST + 1
    key = await them.key(max_budget=budget / NANO)
    served = billed(await them.chats(key, BURST))

    async with asyncio.timeout(PATIENCE):
        while served < budget:  # what is reserved must be spent before less than an estimate is given away
            served += billed([await them.chat(key)])
    last = await them.chat(key)

    assert served == 11 * COST  # the last one had a nano-dollar, and was let in for it
    assert (last.status, last.kind) == (422, "budget_exceeded")
    await them.recorded(key, served)
    assert await them.spent(key) == served


async def test_a_key_that_waits_is_served_at_the_limits_pace(them: Callers, upstream: FakeUpstream) -> None:
    rpm, late = 180, BURST - 180
    key = await them.key(rpm_limit=rpm, on_limit="wait")
    started = time.time()

    answers = await them.chats(key, BURST)
    seconds = time.time() - started

    assert Counter(each.status for each in answers) == {200: BURST}
    arrivals = sorted(each.at for each in upstream.requests)
    assert len(arrivals) == BURST
    for count, at in enumerate(arrivals, 1):
        assert count <= rpm + (at - started) * rpm / 60, f"request {count} came {at - started:.3f} s after the first"
    assert late * 60 / rpm <= seconds + 1 < late * 60 / rpm + BUSY


async def test_a_key_that_does_not_wait_is_told_how_long_it_should_have(them: Callers, upstream: FakeUpstream) -> None:
    rpm = 60
    key = await them.key(rpm_limit=rpm)
    started = time.time()

    answers = await them.chats(key, BURST)
    seconds = time.time() - started
    refused = [each for each in answers if each.status != 200]
    await asyncio.sleep(float(refused[0].headers["retry-after"]))
    again = await them.chat(key)

    assert rpm <= len(answers) - len(refused) <= rpm * (1 + seconds / 60)
    assert len(upstream.requests) == len(answers) - len(refused) + 1
    assert {(each.status, each.kind) for each in refused} == {(429, "rate_limit_error")}
    assert {each.headers["retry-after"] for each in refused} <= {"1", "0"}
    assert again.status == 200


async def test_no_more_requests_run_at_a_time_than_the_key_may(them: Callers, upstream: FakeUpstream) -> None:
    key = await them.key(max_parallel_requests=7, on_limit="wait")

    upstream.gate.clear()
    asking = asyncio.create_task(them.chats(key, 40))
    async with asyncio.timeout(PATIENCE):
        await upstream.arrived(7)
    upstream.gate.set()
    answers = await asking

    assert Counter(each.status for each in answers) == {200: 40}
    ends = [(each.ended_at, -1) for each in upstream.requests if each.ended_at is not None]
    moments = sorted([(each.at, 1) for each in upstream.requests] + ends)
    under_way = [sum(step for _, step in moments[: place + 1]) for place in range(len(moments))]
    assert max(under_way) == 7


@pytest.mark.parametrize("act", ["delete", "block"])
async def test_a_key_is_of_no_use_to_any_api_a_second_after_it_is_gone(them: Callers, act: str) -> None:
    key = await them.key()
    apis = range(len(them.headrace.ports))
    assert [(await them.chat(key, api)).status for api in apis] == [200] * len(apis)

    await them.manage(f"/key/{act}", **({"keys": [key.text]} if act == "delete" else {"key": key.text}))
    done = time.monotonic()
    seconds = await asyncio.gather(*(_refused(them, key, api, done) for api in apis))

    print(f"\n{act}: all {len(seconds)} apis refuse the key after {max(seconds):.3f} s")
    assert max(seconds) < 1.0


async def _refused(them: Callers, key: Key, api: int, since: float) -> float:
    """Seconds until the api refuses the key."""
    while True:
        url = f"{them.url(api)}/v1/models"
        async with them.session.get(url, headers=key.headers) as answer:
            if answer.status == 401:
                return time.monotonic() - since
        await asyncio.sleep(0.005)
