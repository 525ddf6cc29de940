"""OpenAI's parameters and headers become Anthropic's."""

from typing import Any

import orjson
import pytest

from shared.errors import UnsupportedParameter
from tests.providers.anthropic_calls import HELLO, call, sent
from tests.providers.anthropic_requests import (
    ADAPTIVE,
    BUDGET,
    NEW,
    OLD,
    SCHEMA,
    TIME,
    WEATHER,
    valid,
    with_client_headers,
)
from workers.providers.anthropic import ANTHROPIC

# Where it goes


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("", "https://api.anthropic.com/v1/messages"),
        ("https://proxy.example/", "https://proxy.example/v1/messages"),
        ("https://proxy.example/v1", "https://proxy.example/v1/messages"),
        ("https://proxy.example/a/v1/messages", "https://proxy.example/a/v1/messages"),
    ],
)
def test_the_address_is_completed(base: str, url: str) -> None:
    assert ANTHROPIC.request(call(api_base=base)).url == url


def test_a_key_goes_out_as_x_api_key_with_a_version() -> None:
    assert ANTHROPIC.request(call()).headers == {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "x-api-key": "sk-ant-api03-test",
    }


def test_an_oauth_token_is_a_bearer() -> None:
    headers = ANTHROPIC.request(call(api_key="sk-ant-oat01-x")).headers

    assert headers["authorization"] == "Bearer sk-ant-oat01-x"
    assert headers["anthropic-beta"] == "oauth-2025-04-20"
    assert "x-api-key" not in headers


def test_betas_of_client_deployment_and_features_are_joined_and_other_headers_of_the_deployment_win() -> None:
    headers = {"Anthropic-Beta": "two, one", "X-Api-Key": "other", "X-Trace": "1"}
    made = call({"context_management": {"edits": []}}, headers=headers)

    sent_headers = ANTHROPIC.request(with_client_headers(made, {"anthropic-beta": "zero,one"})).headers

    assert sent_headers["anthropic-beta"] == "context-management-2025-06-27,zero,one,two"
    assert (sent_headers["x-api-key"], sent_headers["x-trace"]) == ("other", "1")


@pytest.mark.parametrize(
    ("body", "beta"),
    [
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "computer-use-2025-01-24"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "code-execution-2025-08-25"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "advanced-tool-use-2025-11-20"),
        ({"tools": [{"type": "mcp", "server_url": "https://m", "server_label": "m"}]}, "mcp-client-2025-04-04"),
        ({"speed": "fast"}, "fast-mode-2026-02-01"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file_1"}}]}]},
            "files-api-2025-04-14",
        ),
    ],
)
def test_a_feature_brings_its_beta(body: dict[str, Any], beta: str) -> None:
    assert ANTHROPIC.request(call(body)).headers["anthropic-beta"] == beta


def test_nothing_in_beta_means_no_beta_header() -> None:
    assert "anthropic-beta" not in ANTHROPIC.request(call({"tools": [WEATHER], "response_format": SCHEMA})).headers


# Parameters


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-3-opus-20240229", 4_096),
        ("claude-3-haiku-20240307", 4_096),
        ("claude-3-5-sonnet-20241022", 8_192),
        ("claude-3-7-sonnet-latest", 64_000),
        ("claude-opus-4-20250514", 32_000),
        ("claude-opus-4-1", 32_000),
        ("claude-sonnet-4-5-20250929", 64_000),
        ("claude-opus-4-5", 64_000),
        ("claude-opus-4-8", 128_000),
        ("claude-sonnet-5-5", 128_000),
        ("claude-haiku-5-5", 64_000),
        ("claude-fable-5-2", 128_000),
        ("my-finetune", 4_096),
    ],
)
def test_max_tokens_defaults_to_what_the_model_can_write(model: str, tokens: int) -> None:
    assert valid(model=model)["max_tokens"] == tokens


@pytest.mark.parametrize("body", [{"max_tokens": 7}, {"max_completion_tokens": 7}])
def test_max_tokens_has_two_names(body: dict[str, Any]) -> None:
    assert valid(body)["max_tokens"] == 7


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"stream": True}, {"stream": True}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"safety_identifier": "u-2"}, {"metadata": {"user_id": "u-2"}}),
        ({"metadata": {"user_id": "u-3", "team": "x"}}, {"metadata": {"user_id": "u-3"}}),
        ({"user": "ada@example.com"}, {}),
        ({"user": "+43 1 234 5678"}, {}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
        ({"n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}, {}),
        ({"store": True, "timeout": 3, "litellm_call_id": "x", "stream_options": {}, "prompt_cache_key": "k"}, {}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {}),
        ({"response_format": {"type": "json_object"}}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"tools": []}, {}),
    ],
)
def test_parameters(given: dict[str, Any], wire: dict[str, Any]) -> None:
    plain = valid()

    assert valid(given) == {**plain, **wire}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("seed", 0),
        ("logit_bias", {"1": 5}),
        ("functions", [{"name": "f"}]),
        ("modalities", ["audio"]),
        ("service_tier", "flex"),
        ("stop", ["END", "\n"]),
        ("reasoning_effort", "colossal"),
    ],
)
def test_what_has_no_counterpart_is_refused_or_dropped(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        sent({name: value})

    assert caught.value.param == name
    valid({name: value}, drop_params=True)
    valid({name: value}, additional_drop_params=(name,))


def test_dropping_blank_stops_keeps_the_others() -> None:
    assert valid({"stop": [" ", "END"]}, drop_params=True)["stop_sequences"] == ["END"]


@pytest.mark.parametrize(
    ("model", "given", "wire"),
    [
        (OLD, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        (BUDGET, {"temperature": 0.5, "top_p": 1}, {"temperature": 0.5}),
        (BUDGET, {"temperature": 1, "top_p": 0.9}, {"top_p": 0.9}),
        (NEW, {"temperature": 1, "top_p": 1.0}, {}),
        (BUDGET, {"temperature": 1, "reasoning_effort": "low"}, {}),
    ],
)
def test_sampling_is_sent_where_the_model_takes_it(model: str, given: dict[str, Any], wire: dict[str, Any]) -> None:
    body = valid(given, model=model)

    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == wire


@pytest.mark.parametrize(
    ("model", "given", "param"),
    [
        (NEW, {"temperature": 0.5}, "temperature"),
        (NEW, {"top_k": 5}, "top_k"),
        (BUDGET, {"temperature": 0.5, "top_p": 0.9}, "top_p"),
        (BUDGET, {"temperature": 0.5, "reasoning_effort": "low"}, "temperature"),
        ("claude-mythos-preview", {"temperature": 0}, "temperature"),
    ],
)
def test_sampling_that_the_model_rejects_is_refused_or_dropped(model: str, given: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        sent(given, model=model)

    assert caught.value.param == param
    assert param not in valid(given, model=model, drop_params=True)


def test_extra_body_comes_last() -> None:
    assert valid({"extra_body": {"max_tokens": 9, "inference_geo": "us"}}) == {
        **valid(),
        "max_tokens": 9,
        "inference_geo": "us",
    }


@pytest.mark.parametrize("extra", [{"messages": "odd"}, {"tools": "odd"}, {"tools": [1], "messages": [1]}])
def test_an_odd_extra_body_is_left_for_the_vendor(extra: dict[str, Any]) -> None:
    assert sent({"extra_body": extra}).items() >= extra.items()


def test_the_clients_request_is_left_as_it_was() -> None:
    body = {"tools": [WEATHER], "messages": [{"role": "user", "content": "hi", "cache_control": {"type": "ephemeral"}}]}
    before = orjson.dumps(body)

    sent(body)

    assert orjson.dumps(body) == before


# Thinking


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1_024), ("low", 1_024), ("medium", 2_048), ("high", 4_096), ("xhigh", 8_192), ("max", 16_384)],
)
def test_an_effort_is_a_budget_on_older_models(effort: str, budget: int) -> None:
    assert valid({"reasoning_effort": effort})["thinking"] == {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize(
    ("model", "effort", "level"),
    [(ADAPTIVE, "minimal", "low"), (ADAPTIVE, "xhigh", "high"), (NEW, "xhigh", "xhigh"), (NEW, "max", "max")],
)
def test_an_effort_is_an_effort_on_newer_models(model: str, effort: str, level: str) -> None:
    body = valid({"reasoning_effort": effort}, model=model)

    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": level})


@pytest.mark.parametrize(
    ("model", "wire"),
    [
        (OLD, {}),
        (BUDGET, {}),
        (NEW, {}),
        ("claude-opus-5", {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", {"thinking": {"type": "between_tools"}}),
        ("claude-opus-5-5", {"output_config": {"effort": "low"}}),
        ("claude-fable-5-1", {"output_config": {"effort": "low"}}),
    ],
)
def test_no_effort_is_as_little_thinking_as_the_model_has(model: str, wire: dict[str, Any]) -> None:
    assert valid({"reasoning_effort": "none"}, model=model) == {**valid(model=model), **wire}


def test_a_summary_asks_to_see_the_thinking() -> None:
    body = valid({"reasoning_effort": {"effort": "high", "summary": "auto"}}, model=NEW)

    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}


def test_explicit_thinking_wins() -> None:
    body = valid({"thinking": {"type": "enabled", "budget_tokens": 5_000}, "reasoning_effort": "low"})

    assert body["thinking"] == {"type": "enabled", "budget_tokens": 5_000}


def test_max_tokens_leaves_room_for_an_answer_after_the_budget() -> None:
    assert valid({"reasoning_effort": "medium", "max_tokens": 100})["max_tokens"] == 2_048 + 4_096


@pytest.mark.parametrize("model", [BUDGET, ADAPTIVE])
def test_an_effort_gives_way_to_a_forced_tool(model: str) -> None:
    body = valid({"reasoning_effort": "high", "tools": [WEATHER], "tool_choice": "required"}, model=model)

    assert "thinking" not in body


def test_an_effort_gives_way_when_the_tool_calls_of_the_turn_came_without_thinking() -> None:
    made = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [made]}
    thought = {**turn, "thinking_blocks": [{"type": "thinking", "thinking": "?", "signature": "s"}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "noon"}
    chat = {"reasoning_effort": "high", "tools": [TIME]}

    assert "thinking" not in valid({**chat, "messages": [*HELLO, turn, result]})
    assert "thinking" in valid({**chat, "messages": [*HELLO, thought, result]})
    assert "thinking" in valid({**chat, "messages": [*HELLO, turn, result]}, model=ADAPTIVE)


def test_a_model_that_cannot_think_refuses_an_effort() -> None:
    with pytest.raises(UnsupportedParameter):
        sent({"reasoning_effort": "low"}, model=OLD)

    assert "thinking" not in valid({"reasoning_effort": "low"}, model=OLD, drop_params=True)
