"""Mistral's requests against its own client's models, and its answers against OpenAI's document."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistralai.client.models import ChatCompletionRequest, ChatCompletionResponse

from shared import errors
from shared.errors import UnsupportedParameter
from shared.jobs import Usage
from tests.providers.openai_schema import check_completion
from tests.providers.openai_wire import FIXTURES, call, chunk, deployment, events, read, request_body
from workers.providers import registry

_FOLDER = FIXTURES / "mistral"
_STREAM = (_FOLDER / "stream.sse").read_bytes()
_TO = deployment("mistral", "mistral-large-latest")
_MISTRAL = registry.adapter("mistral")

_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": _SCHEMA, "strict": True}}


def sent(**body: Any) -> dict[str, Any]:
    """The body that goes upstream, which Mistral's own model of a request reads without losing a field."""
    found = request_body(_TO, **body)
    understood = ChatCompletionRequest.model_validate(found).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert understood == found
    return found


def message(**fields: Any) -> dict[str, Any]:
    """What becomes of one message."""
    became: dict[str, Any] = sent(messages=[fields])["messages"][0]
    return became


class TestRequest:
    def test_goes_to_mistral_with_the_key(self) -> None:
        request = _MISTRAL.request(call(_TO))

        assert request.url == "https://api.mistral.ai/v1/chat/completions"
        assert request.headers["Authorization"] == "Bearer sk-test"

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({"seed": 1}, {"random_seed": 1}),
            ({"max_completion_tokens": 5}, {"max_tokens": 5}),
            ({"max_tokens": 5}, {"max_tokens": 5}),
            ({"tools": [_TOOL], "tool_choice": "required"}, {"tool_choice": "any"}),
            ({"tools": [_TOOL], "tool_choice": "auto"}, {"tool_choice": "auto"}),
            ({"stop": ["a"], "n": 2, "parallel_tool_calls": False}, {"stop": ["a"], "n": 2}),
            ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
            ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
            ({"prediction": {"type": "content", "content": [{"type": "text", "text": "p"}]}},
             {"prediction": {"type": "content", "content": "p"}}),
        ],
    )  # fmt: skip
    def test_parameters_have_mistrals_names_and_values(self, asked: dict[str, Any], expected: dict[str, Any]) -> None:
        found = sent(**asked)

        assert {name: found[name] for name in expected} == expected

    def test_what_asks_for_nothing_is_left_out(self) -> None:
        found = sent(stream=True, stream_options={"include_usage": True}, user="u", store=False, safety_identifier="s")

        assert found.keys() == {"model", "messages", "stream"}

    @pytest.mark.parametrize("name", ["logit_bias", "web_search_options", "functions", "modalities"])
    def test_what_mistral_lacks_is_refused_unless_it_may_be_dropped(self, name: str) -> None:
        with pytest.raises(UnsupportedParameter, match=name):
            request_body(_TO, **{name: {"a": 1}})

        assert name not in request_body(deployment("mistral", drop_params=True), **{name: {"a": 1}})

    def test_only_functions_are_tools(self) -> None:
        tools = [_TOOL, {"type": "custom", "custom": {"name": "x"}}]

        with pytest.raises(UnsupportedParameter) as caught:
            request_body(_TO, tools=tools)

        assert caught.value.param == "tools"
        assert len(request_body(deployment("mistral", drop_params=True), tools=tools)["tools"]) == 1

    def test_a_function_without_parameters_gets_the_required_schema(self) -> None:
        found = sent(tools=[{"type": "function", "function": {"name": "f"}}])

        assert found["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}

    def test_a_json_schema_passes(self) -> None:
        asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA, "strict": True}}

        assert sent(response_format=asked)["response_format"] == asked

    def test_the_call_is_not_changed(self) -> None:
        calls = [{"id": "long-identifier", "type": "function", "function": {"name": "f", "arguments": ""}}]
        made = call(_TO, messages=[{"role": "assistant", "content": None, "tool_calls": calls}], tools=[_TOOL], seed=1)
        before = orjson.dumps(made.body)

        _MISTRAL.request(made)

        assert orjson.dumps(made.body) == before


class TestMessages:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"role": "developer", "content": "x", "name": "n"}, {"role": "system", "content": "x"}),
            ({"role": "user", "content": "x", "name": "n"}, {"role": "user", "content": "x"}),
            (
                {"role": "assistant", "content": "x", "refusal": None, "reasoning_content": "r", "prefix": True},
                {"role": "assistant", "content": "x", "prefix": True},
            ),
            ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
            (
                {"role": "tool", "tool_call_id": "abcDEF123", "content": "x", "name": "f"},
                {"role": "tool", "tool_call_id": "abcDEF123", "content": "x", "name": "f"},
            ),
        ],
    )
    def test_have_only_the_fields_that_mistral_knows(self, given: dict[str, Any], expected: dict[str, Any]) -> None:
        assert message(**given) == expected

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            ({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "x"}),
            (
                {"type": "image_url", "image_url": "https://a/b.png"},
                {"type": "image_url", "image_url": "https://a/b.png"},
            ),
            (
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
            ),
            (
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
                {
                    "type": "document_url",
                    "document_url": "data:application/pdf;base64,AA",
                    "document_name": "a.pdf",
                },
            ),
            (
                {"type": "file", "file": {"file_id": "https://a/b.pdf"}},
                {"type": "document_url", "document_url": "https://a/b.pdf"},
            ),
            ({"type": "file", "file": {"file_id": "f-1"}}, {"type": "file", "file_id": "f-1"}),
            (
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "input_audio", "input_audio": "AA=="},
            ),
        ],
    )
    def test_parts_become_mistrals_chunks(self, part: dict[str, Any], expected: dict[str, Any]) -> None:
        assert message(role="user", content=[part])["content"] == [expected]

    def test_tool_call_ids_fit_and_a_result_still_finds_its_call(self) -> None:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for call_id in ("call_abc", "call_abd", "D681PevKs")
        ]
        results = [{"role": "tool", "tool_call_id": each["id"], "content": "r"} for each in calls]

        found = sent(messages=[{"role": "assistant", "content": None, "tool_calls": calls}, *results])["messages"]

        ids = [each["id"] for each in found[0]["tool_calls"]]
        assert all(len(each) == 9 and each.isalnum() and each.isascii() for each in ids)
        assert len(set(ids)) == 3
        assert ids[2] == "D681PevKs"
        assert [each["tool_call_id"] for each in found[1:]] == ids


class TestAnswers:
    @pytest.mark.parametrize("name", ["completion.json", "completion_tools.json"])
    def test_fixtures_are_what_mistrals_client_reads(self, name: str) -> None:
        ChatCompletionResponse.model_validate_json((_FOLDER / name).read_bytes())

    def test_thinking_becomes_reasoning_content(self) -> None:
        done = _MISTRAL.completion(call(_TO), (_FOLDER / "completion.json").read_bytes())

        check_completion(done.body)
        choice = orjson.loads(done.body)["choices"][0]
        assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Café end.", "Hmm.")
        assert choice["finish_reason"] == "length"
        assert done.usage == Usage(input=19, output=10)
        assert done.model == "magistral-medium-2509"

    def test_arguments_become_a_string(self) -> None:
        done = _MISTRAL.completion(call(_TO), (_FOLDER / "completion_tools.json").read_bytes())

        check_completion(done.body)
        function = orjson.loads(done.body)["choices"][0]["message"]["tool_calls"][0]["function"]
        assert orjson.loads(function["arguments"]) == {"city": "Zürich"}

    def test_an_error_finish_is_an_error(self) -> None:
        body = (_FOLDER / "completion.json").read_bytes().replace(b"model_length", b"error")

        with pytest.raises(errors.UpstreamServerError):
            _MISTRAL.completion(call(_TO), body)

    def test_a_refused_field_is_named_in_the_error(self) -> None:
        error = _MISTRAL.error(422, {}, (_FOLDER / "error_422.json").read_bytes())

        assert type(error) is errors.UpstreamBadRequest
        assert error.message == "body.user: Extra inputs are not permitted"
        assert error.provider == "mistral"


class TestStreams:
    @given(st.lists(st.integers(0, len(_STREAM)), max_size=30))
    def test_where_reads_are_cut_makes_no_difference(self, cuts: list[int]) -> None:
        stream = read(call(_TO, stream=True), _STREAM, cuts)

        assert stream.text() == "Café 東京 end."
        assert stream.text("reasoning_content") == "Hmm."
        assert stream.finishes() == [(0, "stop")]
        assert stream.usage == Usage(input=19, output=10)

    def test_a_client_that_asks_for_usage_gets_one_usage_chunk_last(self) -> None:
        stream = read(call(_TO, stream=True, stream_options={"include_usage": True}), _STREAM)

        assert [bool(each.get("usage")) for each in stream.chunks].count(True) == 1
        assert stream.chunks[-1]["choices"] == []

    def test_whole_tool_calls_in_one_chunk_pass(self) -> None:
        stream = read(call(_TO, stream=True), (_FOLDER / "stream_tools.sse").read_bytes())

        assert stream.tool_calls() == {
            0: ("D681PevKs", "get_weather", '{"city": "Zürich"}'),
            1: ("a1b2c3d4e", "get_time", "{}"),
        }

    def test_an_error_finish_is_an_error(self) -> None:
        with pytest.raises(errors.UpstreamServerError):
            read(call(_TO, stream=True), events(chunk({"content": "x"}), chunk({}, "error")))
