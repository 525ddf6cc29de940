"""Prompts in the ledger: only where the operator wants them, no more of them than has a place, and nowhere else."""

from dataclasses import replace

import orjson
import pytest

from shared.jobs import Status
from tests.fakes.seams import deployment, world
from tests.fakes.upstream import FakeUpstream
from workers.reports import MAX_PROMPT_BYTES, kept_text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_row_has_what_was_asked_and_answered_if_prompts_are_kept(upstream: FakeUpstream, stream: bool) -> None:
    async with world(deployment("a", upstream.url), prompts=True) as it:
        job = it.job(body={"stream": stream})

        await it.run(job)

        (row,) = it.outcomes
        assert row.request == job.body.decode()
        assert ("data: " if stream else '"choices"') in row.response


@pytest.mark.parametrize("stream", [False, True])
async def test_without_consent_no_row_has_a_prompt(upstream: FakeUpstream, stream: bool) -> None:
    async with world(deployment("a", upstream.url)) as it:
        await it.run(it.job(body={"stream": stream}))

        (row,) = it.outcomes
        assert (row.status, row.request, row.response) == (Status.SUCCESS, "", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_row_of_a_request_that_asks_to_be_redacted_has_no_prompt(upstream: FakeUpstream, stream: bool) -> None:
    async with world(deployment("a", upstream.url), prompts=True) as it:
        await it.run(replace(it.job(body={"stream": stream}), redact=True))

        (row,) = it.outcomes
        assert (row.status, row.request, row.response) == (Status.SUCCESS, "", "")


async def test_the_events_of_a_job_do_not_carry_its_prompt_back(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url), prompts=True) as it:
        events = await it.run_to_the_end(it.job())

        assert b"hello" not in orjson.dumps(events[-1].meta)


def test_what_is_too_long_is_cut_where_a_character_ends_and_says_so() -> None:
    text = "ä" * MAX_PROMPT_BYTES

    kept = kept_text(text.encode())

    assert kept.startswith("ä" * (MAX_PROMPT_BYTES // 2) + "...")
    assert kept.endswith(f"[cut: {2 * MAX_PROMPT_BYTES} bytes, of which {MAX_PROMPT_BYTES} are kept]")


def test_what_is_short_enough_is_kept_as_it_is() -> None:
    assert kept_text(b"abc") == "abc"
