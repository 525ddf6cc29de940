"""How the simulated model fails and limits, as a real provider does."""

from typing import Any

import pytest

from shared import errors
from tests.unit.workers.simulated_world import SIMULATED, TOOL, World, call
from workers import simulated


@pytest.fixture
def world() -> World:
    return World()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, errors.UpstreamBadRequest),
            (401, errors.UpstreamAuthentication),
            (404, errors.UpstreamNotFound),
            (429, errors.UpstreamRateLimited),
            (500, errors.UpstreamServerError),
            (503, errors.UpstreamOverloaded),
            (504, errors.UpstreamTimeout),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_status_is_answered(self, world: World, status: int, kind: type[Exception], stream: bool) -> None:
        with pytest.raises(kind):
            await world.complete(call(stream=stream, simulated={"error_status": status}))

    async def test_the_rate_is_the_share_of_requests_that_fail(self, world: World) -> None:
        made = call(simulated={"error_rate": 0.3})

        failed = sum(world.respond(made).status == 500 for _ in range(1000))

        assert 250 < failed < 350

    async def test_retry_after_is_sent(self, world: World) -> None:
        response = world.respond(call(simulated={"error_status": 503, "retry_after": 2.5}))

        assert response.headers["retry-after"] == "2.5"

    @pytest.mark.parametrize("after", [0, 2, 50])
    async def test_a_stream_is_cut_after_so_many_tokens(self, world: World, after: int) -> None:
        response = world.respond(call(stream=True, simulated={"reply": "a b c", "error_after": after}))

        wire = await response.read()

        assert response.status == 200
        assert wire.count(b'"content":') == 1 + min(after, 3)
        assert b"[DONE]" not in wire
        assert b'"stop"' not in wire

    async def test_a_whole_answer_is_cut_too(self, world: World) -> None:
        with pytest.raises(errors.UpstreamBroken):
            await world.complete(call(simulated={"error_after": 1}))

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            ("litellm.RateLimitError", errors.UpstreamRateLimited),
            ("litellm.InternalServerError", errors.UpstreamServerError),
            ("litellm.ContextWindowExceededError", errors.UpstreamContextWindowExceeded),
        ],
    )
    async def test_litellms_mocked_errors_are_errors(self, world: World, reply: str, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            await world.complete(call("gpt-4o", mock_response=reply))

    @pytest.mark.parametrize(
        "body",
        [
            {"simulated": {"tokens": -1}},
            {"simulated": {"latency": "soon"}},
            {"simulated": {"latency": True}},
            {"simulated": {"error_status": 200}},
            {"simulated": {"rpm": 0}},
            {"simulated": {"usage": {"prompt_tokens": -1}}},
            {"simulated": {"unheard_of": 1}},
            {"simulated": [1]},
            {"messages": []},
            {"messages": "hi"},
            {"n": 1000},
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        ],
    )
    async def test_what_it_cannot_do_is_a_bad_request(self, world: World, body: dict[str, Any]) -> None:
        with pytest.raises(errors.UpstreamBadRequest):
            await world.complete(call(**body))


class TestLimits:
    async def test_requests_over_the_limit_get_429_and_the_true_wait(self, world: World) -> None:
        made = call(simulated={"rpm": 2})
        allowed = [world.respond(made) for _ in range(2)]

        refused = world.respond(made)

        assert [each.status for each in allowed] == [200, 200]
        assert allowed[0].headers["x-ratelimit-limit-requests"] == "2"
        assert [each.headers["x-ratelimit-remaining-requests"] for each in allowed] == ["1", "0"]
        assert (refused.status, refused.headers["retry-after"]) == (429, "30")
        world.clock.advance(29)
        assert world.respond(made).status == 429
        world.clock.advance(1)
        assert world.respond(made).status == 200

    async def test_tokens_are_counted_by_what_the_answer_uses(self, world: World) -> None:
        made = call(simulated={"tpm": 120, "usage": {"prompt_tokens": 90, "completion_tokens": 10}})

        first, second = world.respond(made), world.respond(made)

        assert first.headers["x-ratelimit-remaining-tokens"] == "20"
        assert first.headers["x-ratelimit-reset-tokens"] == "50.000s"
        assert (second.status, second.headers["retry-after-ms"]) == (429, "40000")

    async def test_a_refused_request_takes_nothing(self, world: World) -> None:
        usage = {"prompt_tokens": 60, "completion_tokens": 0}
        for _ in range(5):
            last = world.respond(call(simulated={"rpm": 10, "tpm": 60, "usage": usage}))

        assert last.headers["x-ratelimit-remaining-requests"] == "9"

    async def test_an_answer_larger_than_the_limit_waits_for_a_full_bucket_only(self, world: World) -> None:
        assert world.respond(call("lorem", simulated={"tpm": 10, "tokens": 500})).status == 200

    async def test_every_key_and_model_has_limits_of_its_own(self, world: World) -> None:
        script = {"rpm": 1}
        for made in (call(simulated=script), call(simulated=script, key="k"), call("lorem", simulated=script)):
            assert world.respond(made).status == 200
            assert world.respond(made).status == 429

    async def test_the_memory_for_keys_is_bounded(self, world: World) -> None:
        for number in range(3000):
            world.respond(call(simulated={"rpm": 1, "tpm": 1000}, key=f"k{number}"))

        assert len(world.model._limits._buckets) <= 1024

    async def test_the_module_keeps_limits_between_requests(self) -> None:
        request = SIMULATED.request(call("once", simulated={"rpm": 1}, key="only here"))

        statuses = [(await simulated.respond(request)).status for _ in range(2)]

        assert statuses == [200, 429]
