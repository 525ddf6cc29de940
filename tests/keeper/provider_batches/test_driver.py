"""Batches at a provider, from the release of their lines to answers, or back to the live API: over HTTP."""

from collections.abc import AsyncIterator

import pytest

from broker.records import BatchStatus
from shared.jobs import JobState, Status
from tests.fakes.accounts import NotedAccounts
from tests.fakes.batch_api import INPUT_TOKENS, OUTPUT_TOKENS
from tests.fakes.batching import a_line
from tests.fakes.consigning import HOUR, LIVE_COST, World, world
from workers.charges import Charges
from workers.provider_batches.base import State
from workers.provider_batches.driver import ProviderBatches
from workers.provider_batches.results import Results

MINUTE = 60.0
POLL = 75.0  # seconds after which the next look is due, jitter included
PULL_BACK = 18 * HOUR  # after the release of a batch with 24 hours
GIVE_UP = PULL_BACK + 10 * MINUTE


@pytest.fixture
async def openai() -> AsyncIterator[World]:
    async with world() as it:
        yield it


# --- The way it should go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_a_batch_comes_back_from_its_provider_whole_and_at_half_the_price(provider: str) -> None:
    async with world(provider) as it:
        await it.release()
        consigned = await it.states()
        await it.round()
        await it.round(after=POLL)
        running = await it.only()
        it.api.finish()
        await it.round(after=POLL)
        await it.wind_up()

        batch = await it.batch()
        assert consigned == {"consigned": 12}
        assert (running.state, running.lines) == (State.RUNNING, 12)
        assert (batch.status, batch.completed, batch.failed) == (BatchStatus.COMPLETED, 12, 0)
        rows = await it.desk.rows_of(batch.output_file_id)
        answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
        assert answers == {f"line-{number}": f"question {number}" for number in range(12)}
        assert await it.open() == []
        assert batch.cost == 12 * LIVE_COST // 2


async def test_the_ledger_says_what_ran_in_a_providers_batch_and_charges_half(openai: World) -> None:
    await openai.submitted()
    openai.api.finish()
    await openai.round(after=POLL)

    rows = await openai.ledger()
    assert len(rows) == 12
    assert {(row.attempt, row.status, row.cost, row.tags) for row in rows} == {
        (0, Status.SUCCESS, LIVE_COST // 2, ("provider_batch",))
    }
    assert {(row.usage.input, row.usage.output, row.usage.estimated) for row in rows} == {
        (INPUT_TOKENS, OUTPUT_TOKENS, False)
    }
    assert {(row.deployment, row.provider, row.group, row.model) for row in rows} == {("d-openai", "openai", "m", "m")}


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_nothing_of_a_finished_batch_stays_at_the_provider(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        it.api.finish()
        await it.round(after=POLL)

        assert it.api.files == {}
        assert it.api.asked("DELETE", "") == 2


async def test_a_batch_is_polled_about_once_a_minute(openai: World) -> None:
    await openai.submitted()
    for _ in range(60):
        await openai.round(after=10)

    assert 8 <= openai.api.asked("GET", "/batches/") <= 11


async def test_bodies_that_have_no_counterpart_run_live_with_all_that_ask_for_more_than_a_batch_is(
    openai: World,
) -> None:
    odd = [{"mock_response": "hi"}, {"service_tier": "priority"}]
    rows = [a_line(number, body={"model": "m"} | more) for number, more in enumerate([*odd, *([{}] * 10)])]

    await openai.submitted(rows=rows)

    assert await openai.states() == {"queued": 2, "consigned": 10}
    assert len(openai.api.only.lines) == 10


# --- Lines that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_a_line_that_fails_for_good_is_an_error_line_and_one_that_may_do_better_runs_live(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        it.api.errors = {3: (400, "messages: too strange"), 5: (529 if provider == "anthropic" else 503, "busy")}
        it.api.finish()
        await it.round(after=POLL)

        assert await it.states() == {"completed": 10, "failed": 1, "queued": 1}
        (failed,) = await it.lines(JobState.FAILED)
        assert failed.custom_id == "line-3"
        assert failed.ending is not None and failed.ending.error is not None
        assert failed.ending.error["code"] == "upstream_bad_request"
        (live,) = await it.lines(JobState.QUEUED)
        assert (live.custom_id, live.job.attempt) == ("line-5", 1)
        failures = {row.error_code: row.cost for row in await it.ledger() if row.status is Status.FAILURE}
        assert failures == {"upstream_bad_request": 0, "upstream_overloaded": 0}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_what_an_expired_batch_finished_is_kept_and_the_rest_runs_live(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        it.api.finish("expired", answered=7)
        await it.round(after=POLL)

        assert await it.states() == {"completed": 7, "queued": 5}
        assert await it.open() == []
        assert len(await it.ledger()) == 7


@pytest.mark.parametrize("provider", ["openai", "gemini"])
async def test_a_batch_that_fails_as_a_whole_runs_live(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        it.api.finish("failed", answered=0)
        await it.round(after=POLL)

        assert await it.states() == {"queued": 12}
        assert (await it.open(), await it.ledger()) == ([], [])


async def test_lines_that_came_back_are_free_for_the_feeder(openai: World) -> None:
    await openai.submitted()
    openai.api.finish("failed", answered=0)
    await openai.round(after=POLL)

    (flow,) = await openai.backends.store.jobs.flows()
    assert (flow.tenant, flow.provider, flow.jobs) == ("alice", "openai", 12)


# --- Time runs out, or nobody wants it any more ---------------------------------------------------------------------


async def test_near_the_deadline_a_batch_is_cancelled_and_what_it_did_not_finish_runs_live(openai: World) -> None:
    await openai.submitted()
    await openai.round(after=PULL_BACK - 1)
    before = openai.api.only.cancelled
    await openai.round(after=POLL)
    stopping = await openai.states()
    openai.api.finish("cancelled", answered=4)
    await openai.round(after=POLL)

    assert (before, openai.api.only.cancelled) == (False, True)
    assert stopping == {"consigned": 12}
    assert await openai.states() == {"completed": 4, "queued": 8}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_a_provider_that_does_not_stop_a_batch_loses_its_lines_in_the_end(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        await it.round(after=PULL_BACK)
        await it.round(after=GIVE_UP - PULL_BACK)

        assert await it.states() == {"queued": 12}
        assert await it.open() == []


async def test_a_provider_that_is_away_until_the_end_loses_its_lines(openai: World) -> None:
    await openai.submitted()
    openai.api.failing["GET /v1/batches/"] = 1000
    for _ in range(20):
        await openai.round(after=HOUR)

    assert await openai.states() == {"queued": 12}
    assert await openai.open() == []


async def test_a_cancelled_batch_is_cancelled_at_the_provider_and_its_lines_end(openai: World) -> None:
    await openai.submitted()
    await openai.cancel()
    await openai.round(after=POLL)
    openai.api.finish("cancelled", answered=2)
    await openai.round(after=POLL)
    await openai.wind_up()

    batch = await openai.batch()
    assert openai.api.only.cancelled
    assert (batch.status, batch.completed, batch.failed) == (BatchStatus.CANCELLED, 2, 10)
    assert await openai.states() == {"completed": 2, "cancelled": 10}


async def test_a_batch_that_is_cancelled_before_it_was_submitted_never_is(openai: World) -> None:
    await openai.release()
    await openai.cancel()
    await openai.round()

    assert openai.api.requests == []
    assert await openai.states() == {"cancelled": 12}


async def test_a_cancellation_that_comes_too_late_at_the_provider_does_no_harm(openai: World) -> None:
    await openai.submitted()
    openai.api.refusing["/cancel"] = 409
    await openai.cancel()
    await openai.round(after=POLL)
    openai.api.finish()
    await openai.round(after=POLL)

    assert await openai.states() == {"completed": 12}


async def test_rows_of_a_providers_batch_are_charged_to_their_accounts(openai: World) -> None:
    accounts = NotedAccounts()
    await openai.submitted()
    openai.api.finish()
    results = Results(openai.backends.store, openai.catalog, openai.clock, charges=Charges(accounts))
    openai.driver = ProviderBatches(
        openai.backends.store, openai.catalog, openai.clock, openai.upstream, results=results
    )

    await openai.round(after=POLL)

    charged = [row for call in accounts.charges for row in call]
    assert len(charged) == 12
    assert {(row.cost, row.last) for row in charged} == {(LIVE_COST // 2, True)}
