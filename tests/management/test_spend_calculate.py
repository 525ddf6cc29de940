"""`/spend/calculate`: what a request will cost, or has cost."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import Catalog, Deployment, Prices
from shared.prices import Terms
from tests.fakes.management import Managed, managed


@pytest.fixture
async def priced(tmp_path: Path) -> AsyncIterator[Managed]:
    """Its catalog has a model with prices of its own: $1 a million tokens of prompt, $2 of answer, a tenth on top."""
    deployment = Deployment("p", "priced", "openai", "x", prices=Prices(input=1e-6, output=2e-6, cache_read=1e-7))
    dearer = replace(deployment, id="q", terms=Terms(margin=0.1))
    async with managed(tmp_path) as running:
        running.context.catalog.adopt(
            Catalog([deployment, dearer, Deployment("f", "unpriced", "openai", "nobody-knows")])
        )
        yield running


async def test_a_request_is_estimated_by_its_messages_at_the_dearest_deployment(priced: Managed) -> None:
    messages = [{"role": "user", "content": "x" * 4_000}]

    answer = await priced.post("/spend/calculate", model="priced", messages=messages)

    assert answer.status == 200
    assert answer.json["cost"] == pytest.approx(1_000 * 1.1e-6, rel=0.02)


async def test_an_answer_costs_what_its_usage_says(priced: Managed) -> None:
    usage = {
        "prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100,
        "prompt_tokens_details": {"cached_tokens": 400},
    }  # fmt: skip

    answer = await priced.post("/spend/calculate", completion_response={"model": "priced", "usage": usage})

    assert answer.json == {"cost": 0.000924}  # (600 * 1 + 400 * 0.1 + 100 * 2) * 1.1 millionths


async def test_models_that_are_not_configured_cost_what_the_list_says(priced: Managed) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}

    answer = await priced.post("/spend/calculate", completion_response={"model": "gpt-4o", "usage": usage})

    assert answer.json == {"cost": 2.5}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "Bad Request - Either 'model' or 'completion_response' must be provided"),
        ({"model": "priced"}, 400, "Bad Request - messages must be provided if 'model' is provided"),
        ({"model": "unpriced", "messages": []}, 400, "This model isn't mapped yet. model=unpriced."),
        ({"model": "no-such-model-anywhere", "messages": []}, 400, "This model isn't mapped yet."),
        ({"completion_response": {}}, 400, "completion_response.model must be the name of a model."),
        (
            {"completion_response": {"model": "priced", "usage": {"prompt_tokens": -1}}},
            400,
            "completion_response.usage",
        ),
        ({"completion_response": {"model": "priced", "usage": {"prompt_tokens": "9"}}}, 400, "completion_response"),
        ({"model": "", "messages": []}, 422, ""),
        ({"model": "priced", "messages": "hello"}, 422, ""),
        ({"completion_response": []}, 422, ""),
    ],
)
async def test_what_cannot_be_priced_is_refused(
    priced: Managed, body: dict[str, Any], status: int, message: str
) -> None:
    answer = await priced.post("/spend/calculate", **body)

    assert answer.status == status
    assert status == 422 or answer.error["message"].startswith(message)


async def test_an_answer_without_usage_costs_nothing(priced: Managed) -> None:
    answer = await priced.post("/spend/calculate", completion_response={"model": "priced", "usage": None})

    assert answer.json == {"cost": 0.0}
