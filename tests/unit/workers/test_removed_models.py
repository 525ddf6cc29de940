"""Jobs whose deployments were removed, or added a moment ago, while they waited."""

import pytest

from shared.catalog import Catalog
from shared.errors import Unavailable
from shared.events import Kind
from tests.fakes.seams import deployment, error_of, leg, world
from tests.fakes.upstream import FakeUpstream


async def test_a_job_goes_to_those_of_its_deployments_that_are_left(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url), deployment("b", upstream.url)) as it:
        job = it.job(leg("a", "b"))
        it.catalog.adopt(Catalog([deployment("b", upstream.url)]))

        events = await it.run_to_the_end(job)

        assert events[-1].meta["deployment"] == "b"


async def test_a_job_goes_to_its_next_leg_when_none_is_left(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url), deployment("b", upstream.url, group="other")) as it:
        job = it.job(leg("a"), leg("b", group="other", fallback=True))
        it.catalog.adopt(Catalog([deployment("b", upstream.url, group="other")]))

        events = await it.run_to_the_end(job)

        assert (events[-1].kind, events[-1].meta["deployment"]) == (Kind.COMPLETED, "b")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_is_told_when_nothing_is_left_of_its_route(upstream: FakeUpstream, stream: bool) -> None:
    async with world(deployment("a", upstream.url)) as it:
        job = it.job(leg("a"), leg("b", group="other", fallback=True), body={"stream": stream})
        it.catalog.adopt(Catalog([deployment("c", upstream.url, group="another")]))

        events = await it.run_to_the_end(job)

        assert error_of(events) == "unknown_model"
        assert "'chat'" in events[-1].meta["error"]["message"]
        assert it.journal.count("ack") == 2
        assert upstream.requests == []


async def test_the_first_groups_error_is_told_when_the_fallback_was_removed(upstream: FakeUpstream) -> None:
    async with world(deployment("a", upstream.url, "fb-s04")) as it:
        job = it.job(leg("a"), leg("b", group="other", fallback=True), max_retries=0)

        events = await it.run_to_the_end(job)

        assert error_of(events) == "upstream_overloaded"


async def test_a_deployment_that_the_worker_has_not_heard_of_yet_is_asked_for(upstream: FakeUpstream) -> None:
    asked: list[int] = []

    async def renew() -> None:
        asked.append(1)
        it.catalog.adopt(Catalog([deployment("new", upstream.url, group="fresh")]))

    async with world(deployment("a", upstream.url), renew=renew) as it:
        events = await it.run_to_the_end(it.job(leg("new", group="fresh")))

        assert events[-1].meta["deployment"] == "new"
        assert asked == [1]


async def test_a_job_of_known_deployments_asks_nobody(upstream: FakeUpstream) -> None:
    async def renew() -> None:
        raise AssertionError("the catalog knows one of the deployments")

    async with world(deployment("a", upstream.url), renew=renew) as it:
        events = await it.run_to_the_end(it.job(leg("removed", "a")))

        assert events[-1].kind is Kind.COMPLETED


async def test_while_nobody_can_say_whether_a_deployment_exists_its_job_waits(upstream: FakeUpstream) -> None:
    async def renew() -> None:
        raise Unavailable("the fake database is away")

    async with world(deployment("a", upstream.url), renew=renew) as it:
        job = it.job(leg("new"))

        await it.run(job)

        assert await it.events(job) == []
        assert [(each.id, each.current.deployments) for each in it.successors if each.suspect] == [(job.id, ("new",))]
