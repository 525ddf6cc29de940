"""Batches at a provider that fails, and in a process that dies or loses its lease: answered once, billed once."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.consigning import World, world
from workers.provider_batches.base import State
from workers.provider_batches.driver import ProviderBatches

MINUTE = 60.0
POLL = 75.0  # seconds after which the next look is due, jitter included


@pytest.fixture
async def openai() -> AsyncIterator[World]:
    async with world() as it:
        yield it


# --- Faults of the provider -----------------------------------------------------------------------------------------


async def test_polls_that_fail_are_repeated_ever_more_rarely(openai: World) -> None:
    await openai.submitted()
    openai.api.failing["GET /v1/batches/"] = 5
    for _ in range(120):
        await openai.round(after=30)
    failed = openai.api.asked("GET", "/batches/")
    openai.api.finish()
    await openai.round(after=POLL)

    assert 5 < failed < 30
    assert await openai.states() == {"completed": 12}


async def test_a_provider_that_refuses_batches_has_no_say_in_it(openai: World) -> None:
    openai.api.refusing["POST /v1/files"] = 404
    await openai.submitted()

    assert await openai.states() == {"queued": 12}
    assert await openai.open() == []


async def test_a_refused_creation_takes_its_file_along(openai: World) -> None:
    openai.api.refusing["POST /v1/batches"] = 400
    await openai.submitted()

    assert (await openai.states(), openai.api.files) == ({"queued": 12}, {})


async def test_a_creation_that_is_limited_is_tried_again(openai: World) -> None:
    openai.api.refusing["POST /v1/batches"] = 429
    await openai.submitted()
    waiting = (await openai.only()).state
    openai.api.refusing.clear()
    await openai.round(after=3 * MINUTE)

    assert waiting == State.CREATING
    assert (await openai.only()).state == State.RUNNING
    assert list(openai.api.files) == [openai.api.only.input_file]


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_a_batch_whose_creation_was_not_answered_is_found_and_not_made_twice(provider: str) -> None:
    async with world(provider) as it:
        it.api.loses_creation = True
        await it.submitted()
        unsure = (await it.only()).state
        await it.round(after=3 * MINUTE)
        it.api.finish()
        await it.round(after=POLL)

        assert unsure == State.SUBMITTING
        assert len(it.api.batches) == 1
        assert await it.states() == {"completed": 12}


async def test_a_creation_that_left_nothing_is_repeated_after_a_while(openai: World) -> None:
    openai.api.failing["POST /v1/batches"] = 1
    await openai.submitted()
    await openai.round(after=3 * MINUTE)
    looked = (await openai.only()).state
    await openai.round(after=6 * MINUTE)
    await openai.round(after=POLL)

    assert looked == State.SUBMITTING
    assert (await openai.only()).state == State.RUNNING
    assert len(openai.api.batches) == 1


async def test_a_batch_without_a_name_runs_live_when_its_creation_was_not_answered() -> None:
    async with world("anthropic") as it:
        it.api.loses_creation = True
        await it.submitted()
        await it.round(after=3 * MINUTE)

        assert await it.states() == {"queued": 12}
        assert await it.open() == []


async def test_a_provider_that_cannot_be_reached_has_no_batch_to_look_for() -> None:
    async with world("anthropic", api_base="http://127.0.0.1:9") as it:
        await it.submitted()

        assert (await it.only()).state == State.CREATING
        assert await it.states() == {"consigned": 12}


async def test_results_that_break_off_are_read_again_and_billed_once(openai: World) -> None:
    await openai.submitted()
    openai.api.cut_results = 2500
    openai.api.finish()
    await openai.round(after=POLL)
    broken = await openai.only()
    await openai.round(after=3 * MINUTE)

    assert broken.state == State.ENDED
    assert await openai.states() == {"completed": 12}
    assert len(await openai.ledger()) == 12


# --- One process at a time ------------------------------------------------------------------------------------------


async def test_a_process_that_lost_its_lease_starts_nothing(openai: World) -> None:
    await openai.release()
    openai.driver = ProviderBatches(
        openai.backends.store, openai.catalog, openai.clock, openai.upstream, held=lambda: False
    )
    await openai.round()

    assert openai.api.requests == []


async def test_a_process_that_lost_its_lease_during_the_upload_leaves_the_rest_to_another(openai: World) -> None:
    await openai.release()
    openai.driver = ProviderBatches(
        openai.backends.store, openai.catalog, openai.clock, openai.upstream, held=lambda: not openai.api.files
    )
    await openai.round()
    left = await openai.only()
    files = dict(openai.api.files)
    openai.restart()
    await openai.round()

    assert (left.state, files) == (State.CREATING, {})
    assert len(openai.api.batches) == 1


# --- Restarts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "left",
    [
        pytest.param({"state": State.CREATING, "remote_id": ""}, id="before anything was sent"),
        pytest.param({"state": State.CREATING, "remote_id": "", "remote_files": {"input": "f"}}, id="after the upload"),
    ],
)
async def test_a_batch_that_was_not_submitted_when_its_process_died_is_submitted(
    openai: World, left: dict[str, object]
) -> None:
    await openai.release()
    await openai.set(**left)
    openai.restart()
    await openai.round()
    openai.api.finish()
    await openai.round(after=POLL)

    assert len(openai.api.batches) == 1
    assert await openai.states() == {"completed": 12}


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_a_batch_whose_id_was_lost_with_its_process_is_found(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        await it.set(state=State.SUBMITTING, remote_id="")
        it.restart()
        await it.round()
        it.api.finish()
        await it.round(after=POLL)

        assert len(it.api.batches) == 1
        assert await it.states() == {"completed": 12}


@pytest.mark.parametrize("state", [State.RUNNING, State.CANCELLING])
async def test_a_new_process_polls_what_the_old_one_polled(openai: World, state: State) -> None:
    await openai.submitted()
    await openai.set(state=state)
    openai.restart()
    openai.api.finish()
    await openai.round()

    assert await openai.states() == {"completed": 12}


async def test_results_half_taken_in_by_a_process_that_died_are_taken_in_once(openai: World) -> None:
    await openai.submitted()
    openai.api.finish(answered=9)
    before = await openai.only()
    await openai.round(after=POLL)
    first = await openai.ledger()
    remote = openai.api.only
    files = {"output": f"file:output:{remote.id}", "error": f"file:error:{remote.id}"}
    store = openai.backends.store.batches
    await store.save_provider_batch(before)
    await openai.set(state=State.ENDED, remote_files=files)
    openai.restart()
    await openai.round()

    assert await openai.states() == {"completed": 9, "queued": 3}
    assert sorted(row.job_id for row in await openai.ledger()) == sorted(row.job_id for row in first)
    assert (await openai.batch()).completed == 9


async def test_a_batch_whose_deployment_left_the_config_runs_live(openai: World) -> None:
    await openai.submitted()
    await openai.set(deployment="another")
    openai.restart()
    await openai.round()

    assert await openai.states() == {"queued": 12}
    assert await openai.open() == []
