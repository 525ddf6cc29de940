"""The simulated model, read as the worker reads a real upstream."""

import asyncio
import random
from typing import Any

import jsonschema
import orjson
import pytest

from shared import errors
from shared.catalog import Deployment
from shared.jobs import Usage
from tests.fakes.clock import FakeClock
from tests.providers.openai_schema import check_chunk, check_completion
from workers import simulated
from workers.providers import registry
from workers.providers.base import Call, Chunk
from workers.simulated import Model, SimulatedResponse
from workers.simulated_plan import example
from workers.sse import SseDecoder

_SIMULATED = registry.adapter("simulated")
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class World:
    """A model whose time passes only when it sleeps."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.model = Model(self.clock, sleep=self._sleep, rng=random.Random(1))
        self.slept: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.clock.advance(seconds)

    def respond(self, made: Call) -> SimulatedResponse:
        return self.model.respond(_SIMULATED.request(made))

    async def complete(self, made: Call) -> dict[str, Any]:
        response = self.respond(made)
        body = await response.read()
        if response.status != 200:
            raise _SIMULATED.error(response.status, response.headers, body)
        done = _SIMULATED.completion(made, body)
        check_completion(done.body)
        answer: dict[str, Any] = orjson.loads(done.body)
        return answer

    async def stream(self, made: Call) -> list[Chunk]:
        sse, decoder = SseDecoder(), _SIMULATED.decoder(made)
        chunks = [
            each
            async for data in self.respond(made).iter_bytes()
            for event in sse.feed(data)
            for each in decoder.feed(event)
        ]
        assert decoder.done
        chunks += decoder.close()
        for each in chunks:
            if each.data:
                check_chunk(each.data)
        return chunks


@pytest.fixture
def world() -> World:
    return World()


def call(model: str = "echo", params: dict[str, Any] | None = None, key: str = "", **body: Any) -> Call:
    to = Deployment(id="d", group="g", provider="simulated", model=model, api_key=key, params=params or {})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, wörld  again\n"}]
    merged = {"model": "alias", "messages": messages} | (params or {}) | body
    return Call(body=merged, deployment=to, id="chatcmpl-own", created=1, client_headers={})


def text(answer: dict[str, Any], index: int = 0) -> Any:
    return answer["choices"][index]["message"]["content"]


def streamed(chunks: list[Chunk], index: int = 0) -> str:
    choices = [choice for each in chunks if each.data for choice in orjson.loads(each.data)["choices"]]
    return "".join(each["delta"].get("content") or "" for each in choices if each["index"] == index)


class TestText:
    async def test_echo_answers_the_last_user_message(self, world: World) -> None:
        answer = await world.complete(call())

        assert text(answer) == "Hello, wörld  again\n"
        assert answer["choices"][0]["finish_reason"] == "stop"

    async def test_a_stream_says_the_same_word_by_word_and_ends_with_done(self, world: World) -> None:
        chunks = await world.stream(call(stream=True))

        assert streamed(chunks) == "Hello, wörld  again\n"
        assert [each.text for each in chunks if each.content] == [6, 6, 7, 1]

    async def test_content_parts_are_read(self, world: World) -> None:
        parts = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]

        assert text(await world.complete(call(messages=[{"role": "user", "content": parts}]))) == "in parts"

    async def test_lorem_answers_as_many_words_as_asked(self, world: World) -> None:
        answer = await world.complete(call("lorem", simulated={"tokens": 120}))

        assert len(text(answer).split()) == 120
        assert answer["usage"]["completion_tokens"] == 120

    @pytest.mark.parametrize(
        "made",
        [
            call(simulated={"reply": "fixed"}),
            call(params={"simulated": {"reply": "fixed", "latency": 1}}),
            call(params={"simulated": {"reply": "other"}}, simulated={"reply": "fixed"}),
            call("gpt-4o", mock_response="fixed"),
            call("gpt-4o", params={"mock_response": "fixed"}),
        ],
    )
    async def test_a_fixed_reply_comes_from_the_request_or_the_deployment(self, world: World, made: Call) -> None:
        assert text(await world.complete(made)) == "fixed"

    async def test_the_requests_keys_are_merged_over_the_deployments(self, world: World) -> None:
        await world.complete(call(params={"simulated": {"reply": "a", "latency": 3}}, simulated={"reply": "b"}))

        assert world.slept == [3]

    async def test_max_tokens_cuts_the_answer_and_says_so(self, world: World) -> None:
        answer = await world.complete(call(max_tokens=2))

        assert text(answer) == "Hello, wörld"
        assert answer["choices"][0]["finish_reason"] == "length"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_n_choices_are_answered(self, world: World, stream: bool) -> None:
        made = call(n=3, stream=stream, simulated={"reply": "a b"})

        if stream:
            chunks = await world.stream(made)
            assert [streamed(chunks, index) for index in range(3)] == ["a b"] * 3
            assert [each.finish for each in chunks].count(True) == 1
        else:
            answer = await world.complete(made)
            assert [text(answer, index) for index in range(3)] == ["a b"] * 3
            assert answer["usage"]["completion_tokens"] == 6

    async def test_usage_can_be_set(self, world: World) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 50, "cached_tokens": 40, "reasoning_tokens": 20}

        chunks = await world.stream(call(stream=True, simulated={"usage": usage}))

        assert [each.usage for each in chunks if each.usage] == [Usage(60, 40, output=50, reasoning=20)]


class TestTools:
    @pytest.mark.parametrize(
        "body",
        [
            {"tool_choice": "required"},
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            {"simulated": {"tool_call": True}},
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_are_called_when_asked_for(self, world: World, body: dict[str, Any], stream: bool) -> None:
        made = call(tools=[_TOOL], stream=stream, **body)

        if stream:
            chunks = [orjson.loads(each.data) for each in await world.stream(made) if each.data]
            parts = [part for each in chunks for part in each["choices"][0]["delta"].get("tool_calls", ())]
            assert parts[0]["function"]["name"] == "get_weather"
            assert orjson.loads("".join(each["function"]["arguments"] for each in parts)) == {"city": "text"}
            assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        else:
            choice = (await world.complete(made))["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"]["content"] is None
            assert orjson.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "text"}

    @pytest.mark.parametrize("body", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}])
    async def test_are_not_called_otherwise(self, world: World, body: dict[str, Any]) -> None:
        assert "tool_calls" not in (await world.complete(call(tools=[_TOOL], **body)))["choices"][0]["message"]

    async def test_are_not_called_again_once_they_have_answered(self, world: World) -> None:
        messages = [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c", "content": "21 degrees"}]

        answer = await world.complete(call(messages=messages, tools=[_TOOL], simulated={"tool_call": True}))

        assert text(answer) == "hi"


_TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "v": {"type": "integer"}},
            "required": ["left", "v"],
        }
    },
    "$ref": "#/$defs/node",
}


class TestStructuredOutput:
    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"a": {"type": "string", "minLength": 9}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"enum": [3, 4]}, "b": {"const": "x"}}, "required": ["a", "b"]},
            {"type": "array", "items": {"type": "number", "exclusiveMinimum": 3}, "minItems": 2},
            {"type": "integer", "minimum": 7, "maximum": 20, "multipleOf": 5},
            {"type": "integer", "maximum": -7},
            {"type": "number", "exclusiveMaximum": 0},
            {"type": ["string", "null"], "maxLength": 2},
            {"type": "string", "format": "date-time"},
            {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
            {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}]},
            _TREE,
            {},
        ],
    )
    async def test_a_json_schema_gets_a_valid_value(self, world: World, schema: dict[str, Any]) -> None:
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}

        answer = await world.complete(call(response_format=asked))

        jsonschema.validate(orjson.loads(text(answer)), schema)

    async def test_json_mode_gets_an_object(self, world: World) -> None:
        answer = await world.complete(call(response_format={"type": "json_object"}, simulated={"reply": "r"}))

        assert orjson.loads(text(answer)) == {"reply": "r"}

    def test_a_reference_without_end_is_cut_short(self) -> None:
        assert example({"$ref": "#"}) is None


class TestPace:
    async def test_latency_comes_before_the_first_token_and_pace_between_tokens(self, world: World) -> None:
        await world.stream(call(stream=True, simulated={"reply": "a b c", "latency": 2, "pace": 0.5}))

        assert world.slept == [2, 0.5, 0.5]

    async def test_a_whole_answer_takes_as_long_as_its_stream(self, world: World) -> None:
        await world.complete(call(simulated={"reply": "a b c", "latency": 2, "pace": 0.5}))

        assert world.slept == [3]

    async def test_jitter_varies_both_within_its_share(self, world: World) -> None:
        await world.stream(
            call("lorem", stream=True, simulated={"tokens": 50, "latency": 10, "pace": 10, "jitter": 0.1})
        )

        assert len(set(world.slept)) > 40
        assert all(9 <= each <= 11 for each in world.slept)

    async def test_the_wait_can_be_cancelled(self) -> None:
        response = await simulated.respond(_SIMULATED.request(call(simulated={"latency": 3600})))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await response.read()


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
            {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
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
        request = _SIMULATED.request(call("once", simulated={"rpm": 1}, key="only here"))

        statuses = [(await simulated.respond(request)).status for _ in range(2)]

        assert statuses == [200, 429]


def test_the_request_names_the_scheme_that_the_client_looks_for() -> None:
    assert _SIMULATED.request(call()).url.startswith(simulated.SCHEME)
