"""Where a job goes when its first attempt fails, or when no key is free for it."""

import pytest

from shared.catalog import Routing
from shared.events import Kind
from tests.fakes.seams import deployment, error_of, leg, world
from tests.fakes.upstream import FakeUpstream

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
