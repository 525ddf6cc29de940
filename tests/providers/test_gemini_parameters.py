"""Which tools and parameters of an OpenAI chat request reach Gemini, and in which words."""

from typing import Any

import pytest

from shared.errors import InvalidRequest, UnsupportedParameter
from tests.providers.gemini_wire import DECLARED, WEATHER, a_call, translated
from workers.providers.gemini import GEMINI


def test_functions_share_one_tool_and_built_in_tools_have_their_own() -> None:
    tools = [WEATHER, {"googleSearch": {}}, {"type": "function", "function": {"name": "now"}}, {"code_execution": {}}]

    wire = translated({"tools": tools}, model="gemini-3-pro-preview")

    assert wire["tools"] == [
        {"functionDeclarations": [DECLARED, {"name": "now"}]},
        {"googleSearch": {}},
        {"codeExecution": {}},
    ]
    assert wire["toolConfig"] == {"includeServerSideToolInvocations": True}


def test_search_gives_way_to_functions_before_gemini_3() -> None:
    wire = translated({"tools": [WEATHER, {"type": "web_search"}], "web_search_options": {}})

    assert wire["tools"] == [{"functionDeclarations": [DECLARED]}]


@pytest.mark.parametrize(
    "body",
    [
        {"web_search_options": {"search_context_size": "low"}},
        {"tools": [{"type": "web_search_preview"}]},
        {"tools": [{"type": "google_search"}]},
        {"tools": [{"google_search": None}]},
    ],
)
def test_web_search_in_any_dialect_is_google_search(body: dict[str, Any]) -> None:
    assert translated(body)["tools"] == [{"googleSearch": {}}]


def test_empty_tools_and_a_choice_among_none_are_left_out() -> None:
    wire = translated({"tools": [], "tool_choice": "auto"})

    assert wire.keys() == {"contents"}


@pytest.mark.parametrize("tool", [{"type": "custom", "custom": {"name": "x"}}, {"type": "function"}, 3])
def test_tools_that_gemini_lacks_are_refused(tool: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        GEMINI.request(a_call({"tools": [tool]}))

    assert raised.value.param == "tools"


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("none", {"mode": "NONE"}),
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}}, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_tool_choice_is_a_mode(choice: Any, config: dict[str, Any]) -> None:
    wire = translated({"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False})

    assert wire["toolConfig"] == {"functionCallingConfig": config}


@pytest.mark.parametrize(
    ("body", "config"),
    [
        (
            {"temperature": 0, "top_p": 0.9, "top_k": 40, "n": 2, "seed": 7, "max_tokens": 10},
            {"temperature": 0, "topP": 0.9, "topK": 40, "candidateCount": 2, "seed": 7, "maxOutputTokens": 10},
        ),
        ({"max_tokens": 10, "max_completion_tokens": 20}, {"maxOutputTokens": 20}),
        ({"max_completion_tokens": 20, "max_tokens": 10}, {"maxOutputTokens": 20}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"presence_penalty": 0.5, "frequency_penalty": -1}, {"presencePenalty": 0.5, "frequencyPenalty": -1}),
        ({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}),
        ({"logprobs": True, "top_logprobs": 0}, {"responseLogprobs": True}),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        (
            {"modalities": ["audio"], "audio": {"voice": "Kore", "format": "pcm16"}},
            {
                "responseModalities": ["AUDIO"],
                "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
            },
        ),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
        ({"thinking_config": {"thinking_budget": 9}}, {"thinkingConfig": {"thinkingBudget": 9}}),
        (
            {"generation_config": {"top_k": 3}, "imageConfig": {"aspect_ratio": "1:1"}},
            {"topK": 3, "imageConfig": {"aspectRatio": "1:1"}},
        ),
        ({"responseSchema": {"type": "string"}}, {"responseSchema": {"type": "STRING"}}),
    ],
)
def test_parameters_become_generation_config(body: dict[str, Any], config: dict[str, Any]) -> None:
    assert translated(body)["generationConfig"] == config


def test_gemini_1_5_gets_its_schema_in_the_openapi_subset() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}, "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}

    wire = translated({"response_format": response_format}, model="gemini-1.5-pro")

    assert wire["generationConfig"]["responseSchema"] == {
        "type": "OBJECT",
        "properties": {"a": {"type": "INTEGER", "nullable": True}},
    }


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "minimal", {"thinkingBudget": 1, "includeThoughts": True}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 512, "includeThoughts": True}),
        ("gemini-2.5-pro", "minimal", {"thinkingBudget": 128, "includeThoughts": True}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 2048, "includeThoughts": True}),
        ("gemini-2.5-pro", {"effort": "high"}, {"thinkingBudget": 4096, "includeThoughts": True}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-flash", "disable", {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128, "includeThoughts": False}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "minimal", "includeThoughts": True}),
        ("gemini-3-pro-preview", "minimal", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3-pro-preview", "low", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3.1-pro", "medium", {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-flash-latest", "xhigh", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-3-flash", "none", {"thinkingLevel": "minimal", "includeThoughts": False}),
        ("gemini-3-pro", "none", {"thinkingLevel": "low", "includeThoughts": False}),
    ],
)
def test_reasoning_effort_is_a_budget_or_a_level(model: str, effort: Any, config: dict[str, Any]) -> None:
    wire = translated({"reasoning_effort": effort}, model=model)

    assert wire["generationConfig"] == {"thinkingConfig": config}


@pytest.mark.parametrize(
    ("model", "thinking", "config"),
    [
        (
            "gemini-2.5-pro",
            {"type": "enabled", "budget_tokens": 3000},
            {"thinkingBudget": 3000, "includeThoughts": True},
        ),
        ("gemini-2.5-flash", {"type": "disabled"}, {"thinkingBudget": 0, "includeThoughts": False}),
        (
            "gemini-3-pro",
            {"type": "enabled", "budget_tokens": 2000},
            {"thinkingLevel": "medium", "includeThoughts": True},
        ),
        ("gemini-3-pro", {"type": "adaptive"}, {"includeThoughts": True}),
    ],
)
def test_explicit_thinking_wins_over_the_effort(model: str, thinking: Any, config: dict[str, Any]) -> None:
    wire = translated({"thinking": thinking, "reasoning_effort": "high"}, model=model)

    assert wire["generationConfig"] == {"thinkingConfig": config}


def test_geminis_own_fields_pass_in_either_spelling() -> None:
    wire = translated(
        {
            "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "cached_content": "cachedContents/1",
            "labels": {"cost_center": "mill"},
            "service_tier": "flex",
        }
    )

    assert wire["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert wire["cachedContent"] == "cachedContents/1"
    assert wire["labels"] == {"cost_center": "mill"}
    assert wire["serviceTier"] == "flex"


def test_extra_body_is_merged_last() -> None:
    extra = {"generationConfig": {"temperature": 1, "topK": 5}, "cachedContent": "cachedContents/2"}

    wire = translated({"temperature": 0, "seed": 1, "extra_body": extra})

    assert wire["generationConfig"] == {"temperature": 1, "topK": 5, "seed": 1}
    assert wire["cachedContent"] == "cachedContents/2"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"audio": {"voice": "Kore", "format": "mp3"}}, "audio"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"never_heard_of": 1}, "never_heard_of"),
    ],
)
def test_parameters_without_counterpart_are_refused_or_dropped(body: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        GEMINI.request(a_call(body, model="gemini-3-pro-preview"))

    assert raised.value.param == param
    assert translated(body, model="gemini-3-pro-preview", drop_params=True).keys() == {"contents"}
    assert translated(body, model="gemini-3-pro-preview", additional_drop_params=(param,)).keys() == {"contents"}


def test_parameters_that_ask_for_nothing_or_concern_others_are_ignored() -> None:
    wire = translated(
        {
            "logit_bias": {},
            "presence_penalty": 0,
            "temperature": None,
            "user": "u1",
            "metadata": {"a": "b"},
            "store": True,
            "stream_options": {"include_usage": True},
            "prompt_cache_key": "k",
            "safety_identifier": "s",
        },
        model="gemini-3-pro-preview",
    )

    assert wire.keys() == {"contents"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"thinking": "yes"}, "thinking"),
        ({"thinking_config": []}, "thinking_config"),
        ({"thinking": {"budget_tokens": "many"}}, "thinking"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": [WEATHER], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": {}, "functions": 1}, "tools"),
    ],
)
def test_nonsense_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        GEMINI.request(a_call(body))

    assert raised.value.param == param
