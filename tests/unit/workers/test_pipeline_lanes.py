"""Batch jobs that wait for a key, and clients that do not wait with them."""

import asyncio

import pytest

from shared.jobs import FIRST, Lane
from tests.fakes.seams import deployment, leg, world
from tests.fakes.upstream import FakeUpstream
from workers import turnstile


@pytest.mark.parametrize(("lane", "paused"), [(Lane.INTERACTIVE, None), (Lane.BATCH, Lane.BATCH)])
async def test_a_job_that_is_postponed_pauses_its_lane_and_those_behind_it(
    upstream: FakeUpstream, lane: Lane, paused: Lane | None
) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0)) as it:
        await it.run(it.job())

        await it.run(it.job(lane=lane))

        assert it.consumer.paused_lanes == [paused]


async def test_a_batch_job_does_not_take_what_a_postponed_interactive_one_waits_for(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, rpm=6.0), deployment("b", upstream.url, group="other")) as it:
        await it.run(it.job(leg("a")))
        await it.run(it.job(leg("a")))
        it.clock.advance(60.0)  # the key has a request again

        await it.run(it.job(leg("a"), lane=Lane.BATCH, deadline=it.clock.now() + 3600))
        batch = it.successors
        it.forget()
        await it.run(it.job(leg("a")))

        assert [each.lane for each in batch] == [Lane.BATCH]
        assert it.successors == []


@pytest.mark.parametrize("lane", list(Lane))
async def test_a_crowd_pauses_its_own_lane_only_and_only_while_it_is_there(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, lane: Lane
) -> None:
    monkeypatch.setattr(turnstile, "_CROWD", 2)
    upstream.latency = 0.2
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        deliveries = [await it.deliver(it.job(lane=lane)) for _ in range(4)]

        await asyncio.gather(*map(it.start, deliveries))

        assert it.consumer.paused_lanes == [lane, lane]
        assert it.consumer.pauses == [("openai", 0.5), ("openai", 0.0)]
        assert len(it.outcomes) == 4


async def test_a_first_job_joins_the_largest_crowd(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "_CROWD", 2)
    upstream.latency = 0.2
    other = deployment("b", upstream.url, group="other")  # so that a crowd is sent away
    async with world(deployment("a", upstream.url, max_parallel_requests=1), other) as it:
        deliveries = [await it.deliver(it.job(leg("a"), key="loud")) for _ in range(4)]
        deliveries.append(await it.deliver(it.job(leg("a"), key="quiet", precedence=FIRST)))

        await asyncio.gather(*map(it.start, deliveries))

        assert [job.key for job in it.successors] == ["loud"]
        assert [outcome.key for outcome in it.outcomes].count("quiet") == 1
