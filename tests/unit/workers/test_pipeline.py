"""The life of one job: the order of its effects, every way out of it, and what each leaves behind."""

import asyncio

import pytest

from shared.jobs import Status
from tests.fakes.seams import World, deployment, error_of, until, world
from tests.fakes.upstream import FakeUpstream

FULL = 100_000.0
"""Tokens of a bucket at rest."""


# The order of effects


async def test_the_answer_leaves_first_then_the_key_then_the_outcome_and_the_ack_is_last(one: World) -> None:
    await one.run(one.job())

    assert one.journal == ["completed", "settle", "record", "ack"]


async def test_a_stream_ends_in_the_same_order(one: World) -> None:
    await one.run(one.job(body={"stream": True}))

    assert one.journal[0] == "chunk"
    assert one.journal[-4:] == ["completed", "settle", "record", "ack"]


async def test_a_job_is_acked_only_when_its_outcome_is_safe(one: World) -> None:
    one.queue.recording.hold()
    running = one.start(await one.deliver(one.job()))
    await one.queue.recording.reached.wait()

    assert "ack" not in one.journal

    one.queue.recording.open()
    await running
    assert one.journal[-2:] == ["record", "ack"]


async def test_a_failed_attempt_is_acked_only_when_its_successor_is_confirmed(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03")) as it:
        delivery = await it.deliver(it.job())
        it.queue.confirms.hold()
        running = it.start(delivery)
        await it.queue.confirms.reached.wait()

        assert it.journal == ["settle", "record", "publish"]

        it.queue.confirms.open()
        await running
        assert it.journal == ["settle", "record", "publish", "confirm", "ack"]


async def test_a_retry_counts_up_the_attempt_and_avoids_the_deployment_that_failed(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        await it.run(it.job())

        (successor,) = it.successors
        assert (successor.attempt, successor.retries, successor.avoid) == (2, 1, "a")
        assert [(each.attempt, each.status) for each in it.outcomes] == [(1, Status.FAILURE)]


# Every exit gives the key back


async def test_a_success_costs_the_bucket_what_was_used(one: World) -> None:
    await one.run(one.job())

    state = await one.bucket("a")
    assert (state.in_flight, state.tokens) == (0, FULL - one.outcomes[0].usage.total)


@pytest.mark.parametrize("fault", ["fb-s04", "fb-s12", "fb-s08", "fb-f01"])
async def test_a_failure_refunds_the_bucket(upstream: FakeUpstream, fault: str) -> None:
    async with world(deployment("a", upstream.url, fault)) as it:
        await it.run(it.job())

        state = await it.bucket("a")
        assert (state.in_flight, state.tokens) == (0, FULL)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancel_during_the_call_hangs_up_settles_and_bills_the_estimate(
    upstream: FakeUpstream, one: World, stream: bool
) -> None:
    upstream.latency = 30.0
    job = one.job(body={"stream": stream})
    running = one.start(await one.deliver(job))
    await upstream.arrived(1)

    await one.log.cancel(job.id)
    await running

    await upstream.ended(upstream.requests[0])
    assert upstream.requests[0].hung_up_at is not None
    assert one.journal == ["settle", "record", "ack"]
    assert [(each.status, each.usage.estimated) for each in one.outcomes] == [(Status.CANCELLED, True)]
    assert (await one.bucket("a")).in_flight == 0


async def test_a_cancel_in_mid_stream_hangs_up_and_bills_what_was_streamed(upstream: FakeUpstream, one: World) -> None:
    upstream.pace = 0.05
    job = one.job(body={"stream": True})
    running = one.start(await one.deliver(job))
    await until(lambda: one.journal.count("chunk") >= 2)

    await one.log.cancel(job.id)
    await running

    await upstream.ended(upstream.requests[0])
    assert upstream.requests[0].hung_up_at is not None
    assert one.journal[-3:] == ["settle", "record", "ack"]
    assert one.outcomes[0].status is Status.CANCELLED
    assert one.outcomes[0].usage.output > 0
    assert (await one.bucket("a")).in_flight == 0


async def test_a_cancelled_job_never_reaches_the_upstream(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    await one.log.cancel(job.id)

    await one.run(job)

    assert upstream.requests == []
    assert one.journal == ["ack"]


async def test_a_cancel_in_the_line_for_a_key_leaves_nothing_behind(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        upstream.latency = 30.0
        first = it.job()
        holding = it.start(await it.deliver(first))
        await upstream.arrived(1)
        second = it.job()
        waiting = it.start(await it.deliver(second))
        await asyncio.sleep(0)

        await it.log.cancel(second.id)
        await waiting

        assert it.journal == ["ack"]
        assert len(upstream.requests) == 1
        assert (await it.bucket("a")).in_flight == 1

        await it.log.cancel(first.id)
        await holding
        assert (await it.bucket("a")).in_flight == 0


async def test_a_cancel_while_the_limiters_answer_is_under_way_gives_the_grant_back(
    upstream: FakeUpstream, one: World
) -> None:
    one.limiter.answering.hold()
    job = one.job()
    running = one.start(await one.deliver(job))
    await one.limiter.answering.reached.wait()

    await one.log.cancel(job.id)
    one.limiter.answering.open()
    await running

    state = await one.bucket("a")
    assert (state.in_flight, state.tokens) == (0, FULL)
    assert upstream.requests == []


async def test_a_cancel_that_comes_after_the_answer_neither_leaks_the_key_nor_loses_the_row(one: World) -> None:
    one.limiter.settling.hold()
    job = one.job()
    running = one.start(await one.deliver(job))
    await one.limiter.settling.reached.wait()

    await one.log.cancel(job.id)
    one.limiter.settling.open()
    await running

    assert one.journal == ["completed", "settle", "record", "ack"]
    assert [each.status for each in one.outcomes] == [Status.SUCCESS]


async def test_an_adapters_bug_gives_the_key_back_and_is_on_the_bill(
    upstream: FakeUpstream, one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.providers.openai.OpenAI.completion", _stumble)

    with pytest.raises(KeyError):
        await one.run(one.job())

    assert (await one.bucket("a")).in_flight == 0
    assert [each.status for each in one.outcomes] == [Status.FAILURE]


def _stumble(*args: object) -> None:
    raise KeyError("a bug")


# Deadlines


async def test_a_deadline_that_passes_in_the_queue_is_told_without_a_call(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    delivery = await one.deliver(job)
    one.clock.advance(61)

    await one.start(delivery)

    assert error_of(await one.events(job)) == "deadline_exceeded"
    assert upstream.requests == []
    assert one.journal == ["failed", "ack"]


async def test_a_deadline_that_passes_in_the_line_is_told_without_a_call(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        upstream.latency = 30.0
        holder = it.job()
        holding = it.start(await it.deliver(holder))
        await upstream.arrived(1)
        in_line = it.start(await it.deliver(it.job()))
        await asyncio.sleep(0)
        late = it.job(deadline=it.clock.now() + 0.2)

        await it.run(late)

        assert error_of(await it.events(late)) == "deadline_exceeded"
        assert len(upstream.requests) == 1
        holding.cancel()
        in_line.cancel()
        await asyncio.gather(holding, in_line, return_exceptions=True)


@pytest.mark.parametrize("keys", [1, 2])
async def test_a_deadline_that_passes_during_the_call_ends_the_job_at_once(upstream: FakeUpstream, keys: int) -> None:
    deployments = [deployment(f"key-{number}", upstream.url, order=number) for number in range(1, keys + 1)]
    async with world(*deployments) as it:
        upstream.latency = 30.0
        job = it.job(deadline=it.clock.now() + 0.2)
        running = it.start(await it.deliver(job))
        await upstream.arrived(1)
        it.clock.advance(0.2)
        await running

        assert error_of(await it.events(job)) == "upstream_timeout"
        assert it.journal == ["settle", "record", "failed", "ack"]
        assert (await it.bucket("key-1")).in_flight == 0
