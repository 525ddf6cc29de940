"""What the simulated model answers."""

import asyncio
from typing import Any

import jsonschema
import orjson
import pytest

from shared.jobs import Usage
from tests.unit.workers.simulated_world import SIMULATED, TOOL, World, call, streamed, text
from workers import simulated
from workers.providers.base import Call
from workers.simulated_plan import example


@pytest.fixture
def world() -> World:
    return World()


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
        made = call(tools=[TOOL], stream=stream, **body)

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
        assert "tool_calls" not in (await world.complete(call(tools=[TOOL], **body)))["choices"][0]["message"]

    async def test_are_not_called_again_once_they_have_answered(self, world: World) -> None:
        messages = [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c", "content": "21 degrees"}]

        answer = await world.complete(call(messages=messages, tools=[TOOL], simulated={"tool_call": True}))

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
        response = await simulated.respond(SIMULATED.request(call(simulated={"latency": 3600})))

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await response.read()


def test_the_request_names_the_scheme_that_the_client_looks_for() -> None:
    assert SIMULATED.request(call()).url.startswith(simulated.SCHEME)
