"""The bill: one row for each attempt that a provider saw, with its tokens and its cost, and nobody's words or keys."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import PRICES
from tests.e2e.deployment import MASTER_KEY, Headrace
from tests.e2e.ledger import get, ledger_rows
from tests.fakes.scene import Timings
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET_WORDS = "the dragon sleeps under the mill"
QUESTION = [{"role": "user", "content": SECRET_WORDS}]
PROMPT_TOKENS, ANSWER_TOKENS = 10, 60  # as the fake counts them
COST = PROMPT_TOKENS * PRICES["input_cost_per_token"] + ANSWER_TOKENS * PRICES["output_cost_per_token"]
KEY = sha256(MASTER_KEY.encode()).hexdigest()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(timings=Timings(retry_after=1)) as fake:
        yield fake


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_one_row_with_its_tokens_and_its_cost(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream, stream: bool
) -> None:
    await ask(client, "priced", stream=stream, user="ann", metadata={"tags": ["mill", "night"]})

    [row] = await ledger_rows(headrace, upstream.requests[0].job_id)
    assert (row["status"], row["metadata"]["status"], row["metadata"]["stream"]) == ("success", "success", stream)
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (10, 60, 70)
    assert row["spend"] == pytest.approx(COST, abs=1e-12)
    assert (row["model_group"], row["model"], row["custom_llm_provider"]) == ("priced", "priced", "openai")
    assert (row["user"], row["end_user"], row["request_tags"]) == ("", "ann", ["mill", "night"])
    assert row["api_key"] == KEY
    assert row["startTime"] <= row["completionStartTime"] <= row["endTime"]
    assert not row["metadata"]["usage_estimated"]


async def test_a_retried_request_is_a_row_for_each_attempt_and_billed_once(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    await ask(client, "priced-fault/retried/fb-s03")

    rows = await ledger_rows(headrace, upstream.requests[0].job_id, 2)
    assert [str(row["attempt"]) for row in rows] == [attempt.attempt for attempt in upstream.requests]
    assert [row["status"] for row in rows] == ["failure", "success"]
    assert [row["spend"] for row in rows] == [0.0, pytest.approx(COST)]
    assert rows[0]["metadata"]["error_information"]["error_class"] == "InternalServerError"
    assert len({row["request_id"] for row in rows}) == 2


async def test_a_request_that_failed_for_good_costs_nothing(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    with pytest.raises(openai.InternalServerError):
        await ask(client, "priced-fault/failed/fb-s04")

    rows = await ledger_rows(headrace, upstream.requests[0].job_id, 3)
    assert len(rows) == len(upstream.requests) == 3
    assert {row["status"] for row in rows} == {"failure"}
    assert sum(row["spend"] for row in rows) == 0.0


async def test_a_fallback_is_booked_under_its_own_group(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    await ask(client, "rescued/booked/fb-s12")

    rows = await ledger_rows(headrace, upstream.requests[0].job_id, 2)
    assert [(row["model_group"], row["status"]) for row in rows] == [
        ("rescued/booked/fb-s12", "failure"),
        ("fallback", "success"),
    ]


async def test_a_stream_that_broke_is_billed_for_what_came_and_marked_as_an_estimate(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    with pytest.raises(openai.APIError):
        await ask(client, "priced-fault/broken/fb-s08", stream=True)

    [row] = await ledger_rows(headrace, upstream.requests[0].job_id)
    assert row["status"] == "failure"
    assert row["metadata"]["usage_estimated"]
    assert 20 <= row["completion_tokens"] <= 60
    assert row["spend"] > 0


async def test_usage_is_taken_once_however_often_it_is_sent(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    await ask(client, "priced-fault/twice/fb-f12-d", stream=True)

    [row] = await ledger_rows(headrace, upstream.requests[0].job_id)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)


async def test_the_sums_are_those_of_the_rows(client: openai.AsyncOpenAI, headrace: Headrace) -> None:
    await asyncio.gather(*(ask(client, "priced", user="sum") for _ in range(5)))
    rows = await rows_of(headrace, 5, end_user="sum")

    everything = await get(headrace, "/spend/logs", limit="10000")
    total = await get(headrace, "/global/spend")
    today = datetime.now(UTC).date()
    span = {"start_date": str(today - timedelta(days=1)), "end_date": str(today)}
    days = await get(headrace, "/spend/logs", **span)

    assert len(rows) == 5
    assert total["attempts"] == len(everything)
    assert total["spend"] == pytest.approx(sum(row["spend"] for row in everything))
    assert sum(day["spend"] for day in days) == pytest.approx(total["spend"])


async def test_filters_pick_rows(client: openai.AsyncOpenAI, headrace: Headrace) -> None:
    answer = await client.chat.completions.create(model="priced", messages=QUESTION, user="filter")
    await ask(client, "priced", user="another")
    await rows_of(headrace, 1, end_user="another")
    [row] = await rows_of(headrace, 1, end_user="filter")

    tomorrow = str(datetime.now(UTC).date() + timedelta(days=1))
    by_id = await get(headrace, "/spend/logs", request_id=answer.id)
    by_other_id = await get(headrace, "/spend/logs", request_id="chatcmpl-other")
    by_key = await get(headrace, "/spend/logs", api_key=KEY)
    by_other_key = await get(headrace, "/spend/logs", api_key="0" * 64)
    later = await get(headrace, "/spend/logs", start_date=tomorrow)
    page = await get(headrace, "/spend/logs", limit="1", offset="1")

    assert row in by_id
    # The fake provider gives every answer the same id; a retry's row has its number behind it.
    assert all(each["request_id"].startswith(answer.id) for each in by_id)
    assert row in by_key
    assert (by_other_id, by_other_key, later) == ([], [], [])
    assert len(page) == 1


async def test_no_words_and_no_keys_are_kept(
    client: openai.AsyncOpenAI, headrace: Headrace, upstream: FakeUpstream
) -> None:
    await ask(client, "priced")
    await ledger_rows(headrace, upstream.requests[0].job_id)

    kept = json.dumps(await get(headrace, "/spend/logs", limit="10000"))

    assert SECRET_WORDS not in kept
    assert "dragon" not in kept
    assert "sk-" not in kept


async def ask(client: openai.AsyncOpenAI, model: str, *, stream: bool = False, **fields: Any) -> None:
    answer = await client.chat.completions.create(model=model, messages=QUESTION, stream=stream, **fields)
    if stream:
        async for _ in answer:
            pass


async def rows_of(headrace: Headrace, count: int, **filters: str) -> list[dict[str, Any]]:
    """The rows that the filters pick, as soon as there are `count`."""
    async with asyncio.timeout(60):
        while True:
            rows: list[dict[str, Any]] = await get(headrace, "/spend/logs", **filters)
            if len(rows) >= count:
                return rows
            await asyncio.sleep(0.05)
