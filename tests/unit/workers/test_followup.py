"""What an attempt teaches about its key, and what no client may teach us about it."""

from math import inf

import pytest

from broker.interfaces import Candidate, Grant, Limits, Refusal
from shared.catalog import Routing
from tests.fakes.quota import Quota
from tests.fakes.seams import World, deployment, world
from tests.fakes.upstream import FakeUpstream


async def asked(it: World, id: str) -> Grant | Refusal:
    each = it.catalog.deployment(id)
    return await it.limiter.take("probe/1", [Candidate(id, each.bucket, each.credential, Limits(), 1)])


async def test_a_refused_key_is_out_for_a_minute(upstream: FakeUpstream) -> None:
    upstream.dead_keys.add("sk-a")
    async with world(deployment("a", upstream.url)) as it:
        await it.run(it.job())

        refused = await asked(it, "a")
        it.clock.advance(60)

        assert refused == Refusal(inf, "dead")
        assert isinstance(await asked(it, "a"), Grant)


async def test_an_exhausted_account_is_out_as_a_refused_key_is(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-f16-k")) as it:
        await it.run(it.job())

        assert await asked(it, "a") == Refusal(inf, "dead")


async def test_a_rate_limit_rests_the_bucket_for_as_long_as_the_provider_says(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-f16-f"), deployment("b", upstream.url, order=2)) as it:
        await it.run(it.job())

        assert (await it.bucket("a")).cooldown == pytest.approx(1.5)


async def test_a_hint_of_a_day_rests_the_bucket_for_an_hour_and_another_key_serves_at_once(
    upstream: FakeUpstream,
) -> None:
    async with world(deployment("a", upstream.url, "fb-f16-g"), deployment("b", upstream.url, order=2)) as it:
        events = await it.run_to_the_end(it.job())

        assert events[-1].meta["deployment"] == "b"
        assert (await it.bucket("a")).cooldown == pytest.approx(3600)


async def test_failures_in_a_row_rest_the_bucket(upstream: FakeUpstream) -> None:
    async with world(
        deployment("a", upstream.url, "fb-s04"),
        deployment("b", upstream.url, order=2),
        routing=Routing(allowed_fails=2, cooldown_time=5.0),
    ) as it:
        await it.run_to_the_end(it.job())
        before = (await it.bucket("a")).cooldown
        await it.run(it.job())

        assert (before, (await it.bucket("a")).cooldown) == (0, pytest.approx(5))


async def test_the_providers_account_of_its_limits_is_adopted(upstream: FakeUpstream) -> None:
    upstream.quotas["sk-a"] = Quota(600)
    async with world(deployment("a", upstream.url, rpm=None, tpm=None)) as it:
        await it.run(it.job())

        assert (await it.bucket("a")).requests is not None


@pytest.mark.parametrize("mock", ["litellm.RateLimitError", "litellm.InternalServerError"])
async def test_a_clients_mock_error_harms_no_key(upstream: FakeUpstream, mock: str) -> None:
    async with world(
        deployment("a", upstream.url), deployment("b", upstream.url, order=2), routing=Routing(allowed_fails=1)
    ) as it:
        await it.run(it.job(body={"mock_response": mock}))

        assert it.outcomes[0].error_code
        assert isinstance(await asked(it, "a"), Grant)
        assert (await it.bucket("a")).cooldown == 0


async def test_a_fallback_for_a_special_error_that_the_key_may_not_call_is_left_out(upstream: FakeUpstream) -> None:
    routing = Routing(context_window_fallbacks={"chat": ("long", "longer")})
    async with world(
        deployment("a", upstream.url, "fb-s12"),
        deployment("b", upstream.url, group="long"),
        deployment("c", upstream.url, group="longer"),
        routing=routing,
    ) as it:
        await it.run(it.job(barred=("long",)))

        assert [each.current.group for each in it.successors] == ["longer"]
