"""Which lines go to a provider's batch API."""

from dataclasses import replace

import pytest

from broker.records import BatchStatus
from shared.catalog import Catalog, Deployment
from tests.fakes.batching import a_line
from tests.fakes.consigning import HOUR, a_deployment, world
from workers.provider_batches import registry
from workers.provider_batches.base import Limits
from workers.provider_batches.consigner import Consigner

OTHER = Deployment(id="x", group="other", provider="openai", model="gpt-4o", credential="c", bucket="x")


@pytest.mark.parametrize(
    ("lines", "window", "states"),
    [
        (10, 24 * HOUR, {"consigned": 10}),
        (9, 24 * HOUR, {"queued": 9}),
        (10, 2 * HOUR, {"consigned": 10}),
        (10, 2 * HOUR - 1, {"queued": 10}),
    ],
    ids=["enough lines and time", "too few lines", "just enough time", "too little time"],
)
async def test_lines_go_when_there_are_enough_of_them_and_time_is_left(
    lines: int, window: float, states: dict[str, int]
) -> None:
    async with world() as it:
        await it.release(lines, window=window)

        assert await it.states() == states
        assert (await it.batch()).status is BatchStatus.IN_PROGRESS


async def test_nothing_goes_where_the_config_does_not_say_so() -> None:
    async with world(provider_batch=False) as it:
        await it.release(20)

        assert await it.states() == {"queued": 20}
        assert await it.open() == []


async def test_lines_of_other_models_run_live() -> None:
    rows = [a_line(number, body={"model": "m" if number % 2 else "other"}) for number in range(24)]
    async with world("openai", OTHER) as it:
        await it.release(rows=rows)

        assert await it.states() == {"consigned": 12, "queued": 12}
        (record,) = await it.open()
        assert (record.deployment, record.lines) == ("d-openai", 12)


async def test_a_deployment_that_would_be_tried_later_takes_no_batch() -> None:
    first = replace(OTHER, group="m")
    async with world("openai", first, order=2) as it:
        await it.release(12)

        assert await it.states() == {"queued": 12}


async def test_of_equal_deployments_one_that_has_it_on_takes_the_batch() -> None:
    async with world("openai") as it:
        it.catalog = Catalog([replace(OTHER, group="m"), a_deployment("openai", it.api.base)])
        await it.release(12)

        assert await it.states() == {"consigned": 12}


async def test_lines_go_in_chunks_that_the_provider_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as it:
        monkeypatch.setattr(registry, "limits", lambda provider: Limits(lines=5, bytes=1_000_000))
        await it.release(12)

        assert sorted(record.lines for record in await it.open()) == [2, 5, 5]
        assert await it.states() == {"consigned": 12}


async def test_chunks_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as it:
        monkeypatch.setattr(registry, "limits", lambda provider: Limits(lines=100, bytes=2_500))
        await it.release(12)

        assert sorted(record.lines for record in await it.open()) == [4, 4, 4]


async def test_a_consigner_that_goes_on_where_another_died_takes_no_line_twice() -> None:
    async with world() as it:
        await it.release(12)
        await Consigner(it.backends.store, it.catalog, it.clock).consign(await it.batch())

        (record,) = await it.open()
        assert len(await it.backends.store.batches.consigned(record.id)) == 12


async def test_lines_that_came_back_do_not_go_again() -> None:
    async with world() as it:
        await it.submitted()
        it.api.finish("failed", answered=0)
        await it.round(after=75)
        for _ in range(3):
            await it.round(after=75)

        assert await it.states() == {"queued": 12}
        assert len(it.api.batches) == 1
