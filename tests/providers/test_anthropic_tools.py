"""OpenAI's tools and structured output become Anthropic's."""

from typing import Any

import pytest

from shared.errors import InvalidRequest
from tests.providers.anthropic_calls import sent
from tests.providers.anthropic_requests import (
    OLD,
    PARAMETERS,
    SCHEMA,
    TIME,
    WEATHER,
    valid,
)
from tests.providers.anthropic_types import check_request
from workers.providers.anthropic.tools import JSON_TOOL

# Tools


def test_a_function_is_a_custom_tool() -> None:
    assert valid({"tools": [WEATHER, TIME]})["tools"] == [
        {"type": "custom", "name": "weather", "description": "Now", "input_schema": PARAMETERS},
        {"type": "custom", "name": "time", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, {"type": "object", "properties": {}}),
        ({}, {"type": "object", "properties": {}}),
        ({"type": "object", "anyOf": [{}], "$schema": "x"}, {"type": "object", "properties": {}}),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": PARAMETERS}},
            {**PARAMETERS, "$defs": {"A": PARAMETERS}},
        ),
    ],
)
def test_input_schema_is_always_an_object(parameters: object, schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}

    assert valid({"tools": [tool]})["tools"][0]["input_schema"] == schema


def test_tools_keep_what_anthropic_adds_to_them() -> None:
    extra = {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "input_examples": [{"city": "Wien"}]}

    assert valid({"tools": [{**WEATHER, **extra}]})["tools"][0].items() >= extra.items()


def test_names_are_made_safe_and_stay_apart() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a.b", "a b", "a_b", "x" * 200)]

    names = [tool["name"] for tool in valid({"tools": tools})["tools"]]

    assert names == ["a_b", "a_b_2", "a_b_3", "x" * 128]


@pytest.mark.parametrize(
    ("tool", "wire"),
    [
        ({"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, None),
        ({"type": "bash_20250124", "name": "bash"}, None),
        ({"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}, None),
        ({"type": "web_search"}, {"type": "web_search_20250305", "name": "web_search"}),
        (
            {
                "type": "computer_20250124",
                "function": {"name": "computer", "parameters": {"display_width_px": 9, "display_height_px": 9}},
            },
            {"type": "computer_20250124", "name": "computer", "display_width_px": 9, "display_height_px": 9},
        ),
        ({"name": "native", "input_schema": {"type": "object", "properties": {}}}, None),
    ],
)
def test_hosted_and_native_tools_pass(tool: dict[str, Any], wire: dict[str, Any] | None) -> None:
    assert valid({"tools": [tool]}, betas=True)["tools"] == [wire or tool]


def test_an_mcp_tool_is_a_server() -> None:
    tool = {
        "type": "mcp",
        "server_url": "https://mcp.example",
        "server_label": "files",
        "headers": {"Authorization": "Bearer t"},
        "allowed_tools": ["read"],
    }

    assert valid({"tools": [tool]}, betas=True)["mcp_servers"] == [
        {
            "type": "url",
            "url": "https://mcp.example",
            "name": "files",
            "authorization_token": "t",
            "tool_configuration": {"allowed_tools": ["read"]},
        }
    ]


@pytest.mark.parametrize(
    ("options", "tool"),
    [
        ({}, {}),
        ({"search_context_size": "low"}, {"max_uses": 1}),
        ({"search_context_size": "high"}, {"max_uses": 10}),
        (
            {"user_location": {"type": "approximate", "approximate": {"city": "Wien", "country": "AT"}}},
            {"user_location": {"type": "approximate", "city": "Wien", "country": "AT"}},
        ),
    ],
)
def test_web_search_options_are_a_tool(options: dict[str, Any], tool: dict[str, Any]) -> None:
    assert valid({"web_search_options": options})["tools"] == [
        {"type": "web_search_20250305", "name": "web_search", **tool}
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "wire"),
    [
        (None, None, None),
        (None, True, None),
        ("auto", None, {"type": "auto"}),
        ("none", None, {"type": "none"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, None, {"type": "tool", "name": "weather"}),
        ({"type": "tool", "name": "weather"}, None, {"type": "tool", "name": "weather"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choice(choice: object, parallel: bool | None, wire: dict[str, Any] | None) -> None:
    body = valid({"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": parallel})

    assert body.get("tool_choice") == wire


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [WEATHER], "tool_choice": "sometimes"},
        {"tools": "weather"},
        {"tools": ["weather"]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"tools": [{"type": "mcp"}]},
        {"max_tokens": "many"},
        {"stop": [1]},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_field(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(body)

    assert caught.value.param is not None


# Structured output


def test_a_schema_is_enforced_where_the_model_can() -> None:
    body = valid({"response_format": SCHEMA, "tools": [WEATHER]})

    schema = {**PARAMETERS, "additionalProperties": False}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert [tool["name"] for tool in body["tools"]] == ["weather"]


@pytest.mark.parametrize(
    ("extra", "choice"),
    [
        ({}, {"type": "tool", "name": JSON_TOOL}),
        ({"tools": [WEATHER]}, {"type": "any"}),
        ({"tools": [WEATHER], "tool_choice": "none"}, {"type": "tool", "name": JSON_TOOL}),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_elsewhere_a_forced_tool_stands_in(extra: dict[str, Any], choice: dict[str, Any]) -> None:
    body = valid({"response_format": SCHEMA, **extra}, model=OLD)

    assert body["tools"][-1]["name"] == JSON_TOOL
    assert body["tools"][-1]["input_schema"] == PARAMETERS
    assert body["tool_choice"] == choice


def test_the_stand_in_is_not_forced_while_the_model_thinks() -> None:
    body = valid({"response_format": SCHEMA, "reasoning_effort": "low"}, model="claude-3-7-sonnet-20250219")

    assert "tool_choice" not in body
    assert "thinking" in body


@pytest.mark.parametrize(
    ("given", "strict"),
    [
        ({"type": "string", "minLength": 2}, {"type": "string", "description": "{minLength: 2}"}),
        (
            {"type": "integer", "description": "Age", "minimum": 0, "maximum": 9},
            {"type": "integer", "description": "Age\n\n{minimum: 0, maximum: 9}"},
        ),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "color"}, {"type": "string", "description": "{format: color}"}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "array", "items": {"type": "object"}, "minItems": 1}, None),
        ({"$ref": "#/definitions/A", "description": "x"}, {"$ref": "#/$defs/A"}),
    ],
)
def test_schemas_are_cut_to_the_subset_that_is_enforced(given: dict[str, Any], strict: dict[str, Any] | None) -> None:
    schema = {"type": "object", "properties": {"x": given}, "definitions": {"A": {"type": "object"}}}

    body = valid({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}})

    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert body["output_config"]["format"]["schema"] == {
        "type": "object",
        "properties": {"x": strict or {"type": "array", "items": closed, "minItems": 1}},
        "additionalProperties": False,
        "$defs": {"A": closed},
    }


# The validator itself


@pytest.mark.parametrize(
    "wrong",
    [
        {"foo": 1},
        {"max_tokens": "x"},
        {"temperature": "1"},
        {"metadata": {"a": 1}},
        {"thinking": {"type": "enabled"}},
        {"tools": [{"name": "x"}]},
        {"tool_choice": {"type": "any"}},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "orphan"}]}]},
    ],
)
def test_the_validator_finds_what_anthropic_would_reject(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_request({**valid(), **wrong})
