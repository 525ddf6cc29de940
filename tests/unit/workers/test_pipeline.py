"""The life of one job: the order of its effects, every way out of it, and what is left behind on each."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from broker.interfaces import Candidate, Limits
from shared.catalog import Routing
from shared.errors import Unavailable
from shared.events import Event, Kind
from shared.jobs import Job, Status
from tests.fakes.seams import World, deployment, leg, until, world
from tests.fakes.upstream import FakeUpstream

FULL = 100_000.0
"""Tokens of a bucket at rest."""


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def one(upstream: FakeUpstream) -> AsyncIterator[World]:
    """A world with a single deployment that answers."""
    async with world(deployment("a", upstream.url)) as it:
        yield it


def error_of(events: list[Event]) -> str:
    assert events[-1].kind is Kind.FAILED
    code: str = events[-1].meta["error"]["code"]
    return code


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


# Retries, legs and fallbacks


async def test_a_fallback_serves_after_the_retries_are_spent(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url, "fb-s04"),
        deployment("a2", upstream.url, "fb-s04"),
        deployment("b", upstream.url, group="other"),
    ) as it:
        job = it.job(leg("a", "a2"), leg("b", group="other", fallback=True), max_retries=2)

        events = await it.run_to_the_end(job)

        assert events[-1].kind is Kind.COMPLETED
        assert (events[-1].meta["deployment"], events[-1].meta["leg"], events[-1].meta["attempt"]) == ("b", 1, 4)
        assert upstream.attempts("fb-s04") == 3


async def test_the_first_groups_error_is_told_when_everything_fails(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url, "fb-s04"), deployment("b", upstream.url, "fb-s03-always", group="other")
    ) as it:
        job = it.job(leg("a"), leg("b", group="other", fallback=True), max_retries=0)

        events = await it.run_to_the_end(job)

        assert error_of(events) == "upstream_overloaded"
        assert [each.error_code for each in it.outcomes] == ["upstream_overloaded", "upstream_server_error"]


@pytest.mark.parametrize(
    ("fault", "special"),
    [("fb-s12", "context_window_fallbacks"), ("fb-s13", "content_policy_fallbacks")],
)
async def test_a_special_fallback_comes_before_the_general_ones(
    upstream: FakeUpstream, fault: str, special: str
) -> None:
    async with world(
        deployment("a", upstream.url, fault),
        deployment("general", upstream.url, group="general"),
        deployment("special", upstream.url, group="special"),
        routing=Routing(fallbacks={"chat": ("general",)}, **{special: {"chat": ("special",)}}),  # type: ignore[arg-type]
    ) as it:
        events = await it.run_to_the_end(it.job())

        assert events[-1].meta["deployment"] == "special"


async def test_a_refusal_is_not_routed_around(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url, "fb-s13"),
        deployment("general", upstream.url, group="general"),
        routing=Routing(fallbacks={"chat": ("general",)}),
    ) as it:
        events = await it.run_to_the_end(it.job())

        assert error_of(events) == "upstream_content_policy"


async def test_special_fallbacks_that_name_each_other_come_to_an_end(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url, "fb-s12"),
        deployment("b", upstream.url, "fb-s12", group="big"),
        routing=Routing(context_window_fallbacks={"chat": ("big",), "big": ("chat",)}),
    ) as it:
        events = await it.run_to_the_end(it.job())

        assert error_of(events) == "upstream_context_window_exceeded"
        assert upstream.attempts("fb-s12") == 2


async def test_a_dead_key_is_buried_and_the_other_one_used(upstream: FakeUpstream) -> None:
    upstream.dead_keys.add("sk-dead")
    async with world(deployment("dead", upstream.url), deployment("alive", upstream.url, order=2)) as it:
        first = await it.run_to_the_end(it.job())
        second = await it.run_to_the_end(it.job())

        assert [each[-1].meta["deployment"] for each in (first, second)] == ["alive", "alive"]
        assert [each.key for each in upstream.requests] == ["sk-dead", "sk-alive", "sk-alive"]


async def test_a_route_of_dead_keys_says_that_its_credentials_are_exhausted(upstream: FakeUpstream) -> None:
    upstream.dead_keys.add("sk-a")
    async with world(deployment("a", upstream.url)) as it:
        first = await it.run_to_the_end(it.job())
        second = await it.run_to_the_end(it.job())

        assert (error_of(first), error_of(second)) == ("upstream_authentication", "credentials_exhausted")
        assert len(upstream.requests) == 1


async def test_tokens_that_reached_the_client_are_never_followed_by_a_second_attempt(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s08"), deployment("b", upstream.url, order=2)) as it:
        job = it.job(body={"stream": True})

        await it.run(job)

        assert error_of(await it.events(job)) == "upstream_broken"
        assert it.successors == []


# Waiting for a key


async def test_a_job_without_a_free_key_goes_to_a_delay_level_and_its_lane_is_paused(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0)) as it:  # one at a time, 20 s apart
        await it.run(it.job())
        it.forget()

        await it.run(it.job())

        assert it.journal == ["publish", "confirm", "ack"]
        ((successor, delay),) = it.queue.published
        assert (successor.attempt, round(delay)) == (1, 20)
        assert [(provider, round(seconds)) for provider, seconds in it.consumer.pauses] == [("openai", 20)]


async def test_a_model_without_a_free_key_does_not_stop_its_providers_other_models(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0), deployment("b", upstream.url, group="other")) as it:
        await it.run(it.job(leg("a")))

        await it.run(it.job(leg("a")))

        assert it.consumer.pauses == []


async def test_a_wait_beyond_the_deadline_is_told_with_its_length(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0)) as it:
        await it.run(it.job())
        job = it.job(deadline=it.clock.now() + 10)

        await it.run(job)

        error = (await it.events(job))[-1].meta["error"]
        assert (error["code"], round(error["retry_after"])) == ("rate_limited", 20)


async def test_a_long_wait_is_not_waited_for_while_another_leg_is_free(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, rpm=3.0), deployment("b", upstream.url, group="other")) as it:
        await it.run(it.job(leg("a")))

        events = await it.run_to_the_end(it.job(leg("a"), leg("b", group="other", fallback=True)))

        assert events[-1].meta["deployment"] == "b"


async def test_a_full_lane_fails_the_retry_with_its_own_error(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2), bound=1) as it:
        job = it.job()
        delivery = await it.deliver(job)
        await it.queue.publish(it.job())

        await it.start(delivery)

        assert error_of(await it.events(job)) == "queue_full"
        assert it.journal[-1] == "ack"


# A job that another worker had


def started(job: Job, worker: str, attempt: int = 1, deployment: str = "a") -> Event:
    meta = {"attempt": attempt, "deployment": deployment, "worker": worker, "at": job.accepted_at, "queue_wait": 0.0}
    return Event(job.id, 0, Kind.STARTED, meta=meta)


async def test_a_redelivered_job_that_had_finished_is_only_recorded(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    await one.run(job)
    row = one.outcomes.pop()
    upstream.reset()

    await one.start(await one.redeliver(job))

    assert one.journal == ["settle", "record", "ack"]
    assert one.outcomes == [row]
    assert upstream.requests == []


async def test_an_attempt_of_a_dead_worker_is_recorded_unknown_and_the_job_runs_as_the_next_one(one: World) -> None:
    job = one.job()
    one.log.mark_started(started(job, "dead-worker"))

    await one.start(await one.redeliver(job))

    assert [(each.attempt, each.status) for each in one.outcomes] == [(1, Status.UNKNOWN), (2, Status.SUCCESS)]
    assert one.outcomes[0].usage.estimated
    assert one.journal[-1] == "ack"


async def test_a_dead_workers_slot_is_free_again(one: World) -> None:
    job = one.job()
    candidate = one.catalog.deployment("a")
    await _hold_slot(one, job, candidate.bucket)
    one.log.mark_started(started(job, "dead-worker"))

    await one.start(await one.redeliver(job))

    assert (await one.bucket("a")).in_flight == 0


async def _hold_slot(it: World, job: Job, bucket: str) -> None:
    await it.limiter.take(f"{job.id}/1", [Candidate("a", bucket, "c", Limits(1000.0, FULL, 10), 10)])


async def test_a_stream_of_a_dead_worker_ends_with_worker_lost(upstream: FakeUpstream, one: World) -> None:
    job = one.job(body={"stream": True})
    one.log.mark_started(started(job, "dead-worker"))
    await one.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])

    await one.start(await one.redeliver(job))

    events = await one.events(job)
    assert (error_of(events), events[-1].seq) == ("worker_lost", 2)
    assert upstream.requests == []
    assert [each.status for each in one.outcomes] == [Status.UNKNOWN]


async def test_the_third_crash_puts_a_job_into_quarantine(upstream: FakeUpstream, one: World) -> None:
    job = one.job()
    for attempt in (1, 2, 3):
        one.log.mark_started(started(job, f"dead-worker-{attempt}", attempt))

    await one.start(await one.redeliver(job))

    assert error_of(await one.events(job)) == "quarantined"
    assert [(dead.id, reason) for dead, reason in one.queue.dead_letters("openai")] == [(job.id, "crashed 3 workers")]
    assert upstream.requests == []
    assert [each.attempt for each in one.outcomes] == [1, 2, 3]


async def test_a_job_that_a_living_neighbour_runs_is_postponed_and_not_run_twice(
    upstream: FakeUpstream, one: World
) -> None:
    job = one.job()
    await one.log.announce("neighbour", 60)
    one.log.mark_started(started(job, "neighbour"))

    await one.start(await one.redeliver(job))

    ((successor, delay),) = one.queue.published
    assert (successor.attempt, successor.suspect, delay) == (1, True, 1.0)
    assert upstream.requests == []
    assert one.journal == ["publish", "confirm", "ack"]


async def test_a_job_whose_successor_is_on_the_queue_is_not_run_again(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        job = it.job()
        await it.run(job)
        upstream.reset()
        await it.consumer.get()  # the successor is in other hands

        await it.start(await it.redeliver(job))

        assert it.journal == ["ack"]
        assert upstream.requests == []


# The worker's own end


@pytest.mark.parametrize("stream", [False, True])
async def test_at_shutdown_a_running_job_is_handed_over_as_its_next_attempt(
    upstream: FakeUpstream, one: World, stream: bool
) -> None:
    upstream.latency = 30.0
    running = one.start(await one.deliver(one.job(body={"stream": stream})))
    await upstream.arrived(1)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert one.journal == ["settle", "record", "publish", "confirm", "ack"]
    assert [each.attempt for each in one.successors] == [2]
    assert (await one.bucket("a")).in_flight == 0


async def test_a_job_that_was_handed_over_is_not_run_again_should_the_ack_be_lost(
    upstream: FakeUpstream, one: World
) -> None:
    upstream.latency = 30.0
    job = one.job()
    running = one.start(await one.deliver(job))
    await upstream.arrived(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await one.consumer.get()  # the successor is in other hands

    await one.start(await one.redeliver(job))

    assert one.journal == ["ack"]
    assert len(upstream.requests) == 1


async def test_at_shutdown_a_waiting_job_is_handed_over_as_it_was(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, max_parallel_requests=1)) as it:
        upstream.latency = 30.0
        holding = it.start(await it.deliver(it.job()))
        await upstream.arrived(1)
        waiting = it.start(await it.deliver(it.job()))
        await asyncio.sleep(0)

        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert it.journal == ["publish", "confirm", "ack"]
        assert [each.attempt for each in it.successors] == [1]
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_at_shutdown_a_stream_that_has_begun_ends_with_worker_lost(upstream: FakeUpstream, one: World) -> None:
    upstream.pace = 0.05
    job = one.job(body={"stream": True})
    running = one.start(await one.deliver(job))
    await until(lambda: "chunk" in one.journal)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert error_of(await one.events(job)) == "worker_lost"
    assert one.successors == []
    assert one.journal[-1] == "ack"


async def test_at_shutdown_a_job_whose_answer_has_left_is_not_run_again(one: World) -> None:
    one.limiter.settling.hold()
    running = one.start(await one.deliver(one.job()))
    await one.limiter.settling.reached.wait()

    running.cancel()
    one.limiter.settling.open()
    await asyncio.gather(running, return_exceptions=True)

    assert one.successors == []
    assert one.journal == ["completed", "settle", "record", "ack"]


async def test_at_shutdown_a_retry_on_its_way_is_not_published_twice(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        delivery = await it.deliver(it.job())
        it.queue.confirms.hold()
        running = it.start(delivery)
        await it.queue.confirms.reached.wait()

        running.cancel()
        it.queue.confirms.open()
        await asyncio.gather(running, return_exceptions=True)

        assert [each.attempt for each in it.successors] == [2]
        assert it.journal[-1] == "ack"


# Our own servers


async def test_a_job_comes_back_when_the_log_was_away(upstream: FakeUpstream, one: World) -> None:
    one.log.emitting.fail(1)

    await one.run(one.job())

    assert one.journal[-1] == "ack"
    assert [each.attempt for each in one.successors] == [2]
    assert (await one.bucket("a")).in_flight == 0


@pytest.mark.parametrize("step", ["settling", "recording"])
async def test_an_answered_job_is_not_run_again_because_a_server_was_away_afterwards(one: World, step: str) -> None:
    (one.limiter.settling if step == "settling" else one.queue.recording).fail(1)

    await one.run(one.job())

    assert one.successors == []
    assert [each.status for each in one.outcomes] == [Status.SUCCESS]
    assert one.journal[-1] == "ack"


async def test_an_answered_job_whose_row_cannot_be_recorded_stays_unsettled(one: World) -> None:
    one.queue.recording.fail(2)

    with pytest.raises(Unavailable):
        await one.run(one.job())

    assert "ack" not in one.journal
    assert one.successors == []


async def test_what_comes_back_after_an_outage_is_looked_up_before_it_runs(one: World) -> None:
    """The log was away while a finished job was redelivered: the mark must travel with the republished copy."""
    job = one.job()
    await one.run(job)
    one.log.replay = _away  # type: ignore[method-assign]  # the one call that is to fail

    await one.start(await one.redeliver(job))

    assert [each.suspect for each in one.successors] == [True]


async def _away(job_id: str, after: int = 0) -> list[Event]:
    raise Unavailable("the log is away")


async def test_an_outage_of_ours_does_not_cool_the_deployment_down(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url), deployment("b", upstream.url, order=2), routing=Routing(allowed_fails=1)
    ) as it:
        it.log.emitting.fail(1)

        await it.run(it.job(body={"stream": True}))

        assert (await it.bucket("a")).cooldown == 0


async def test_a_bug_in_mid_stream_still_ends_the_clients_stream(one: World) -> None:
    job = one.job(body={"stream": True})
    delivery = await one.deliver(job)
    follower = one.log.follow(job.id)
    await one.log.emit(job.reply_to, [Event(job.id, 1, Kind.CHUNK, b"data: {}\n\n", {})])

    await one.pipeline.apologise(delivery, "KeyError")

    assert [event.kind async for event in follower] == [Kind.CHUNK, Kind.FAILED]
    assert [reason for _, reason in one.queue.dead_letters("openai")] == ["KeyError"]


# Bodies that stay behind


async def test_a_claimed_body_is_fetched_and_does_not_travel_with_the_retry(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s03"), deployment("b", upstream.url, order=2)) as it:
        job = it.job()
        await it.log.put_body(job.id, job.body, 60)

        await it.run(replace(job, body=b"", claim=True))

        assert upstream.attempts("fb-s03") == 1
        assert [(each.body, each.claim) for each in it.successors] == [(b"", True)]


async def test_a_claimed_body_that_is_gone_is_told(upstream: FakeUpstream, one: World) -> None:
    job = replace(one.job(), body=b"", claim=True)

    await one.run(job)

    assert error_of(await one.events(job)) == "deadline_exceeded"
    assert upstream.requests == []
