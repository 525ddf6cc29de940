"""What of an OpenAI chat request reaches Gemini, and in which words."""

from typing import Any

import orjson
import pytest

from shared.errors import InvalidRequest, UnsupportedParameter
from tests.providers.gemini_wire import a_call, fixture, translated
from workers.providers.gemini import GEMINI
from workers.providers.gemini.signatures import SKIP_VALIDATION

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
DECLARED = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def call_of(id: str, name: str = "weather", arguments: str = '{"city":"Bern"}', **fields: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def contents(*messages: dict[str, Any], model: str = "gemini-2.5-flash") -> list[dict[str, Any]]:
    return list(translated({"messages": list(messages)}, model=model)["contents"])


HELLO = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("stream", "api_base", "model", "url"),
    [
        (
            False,
            "",
            "gemini-2.5-flash",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        ),
        (
            True,
            "",
            "gemini-2.5-flash",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ),
        (
            False,
            "https://proxy.test/",
            "gemini-2.5-pro",
            "https://proxy.test/v1beta/models/gemini-2.5-pro:generateContent",
        ),
        (False, "http://[::1]:9/v1alpha", "models/x", "http://[::1]:9/v1alpha/models/x:generateContent"),
        (False, "https://proxy.test/v1", "tunedModels/mine", "https://proxy.test/v1/tunedModels/mine:generateContent"),
    ],
)
def test_url_names_the_version_the_model_and_the_method(stream: bool, api_base: str, model: str, url: str) -> None:
    request = GEMINI.request(a_call({"stream": stream}, model=model, api_base=api_base))

    assert request.url == url


def test_key_goes_in_a_header_and_the_deployments_headers_win() -> None:
    headers = {"X-Goog-Api-Key": "other", "x-team": "mill"}

    request = GEMINI.request(a_call(headers=headers))

    assert GEMINI.request(a_call()).headers == {"content-type": "application/json", "x-goog-api-key": "AIza-test"}
    assert request.headers == {"content-type": "application/json", "x-goog-api-key": "other", "x-team": "mill"}
    assert "other" not in request.url


def test_request_leaves_the_clients_body_as_it_was() -> None:
    body = {
        "tools": [WEATHER],
        "messages": [HELLO, {"role": "assistant", "tool_calls": [call_of("a")]}, {"role": "tool", "tool_call_id": "a"}],
    }
    call = a_call(body, model="gemini-3-pro-preview")
    before = orjson.dumps(call.body)

    GEMINI.request(call)

    assert orjson.dumps(call.body) == before


def test_system_and_developer_messages_become_the_instruction_wherever_they_stand() -> None:
    wire = translated(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                HELLO,
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": ""}]},
            ]
        }
    )

    assert wire["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]}
    assert wire["contents"] == [{"role": "user", "parts": [{"text": "hello"}]}]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "system", "content": "s"}], [("user", [" "])]),
        ([HELLO, HELLO], [("user", ["hello", "hello"])]),
        ([{"role": "assistant", "content": "a"}, HELLO], [("user", [" "]), ("model", ["a"]), ("user", ["hello"])]),
        ([HELLO, {"role": "assistant", "content": ""}, HELLO], [("user", ["hello", "hello"])]),
        ([{"role": "user", "content": ""}], [("user", [" "])]),
    ],
)
def test_turns_alternate_and_begin_with_the_user(messages: list[Any], expected: list[Any]) -> None:
    turns = [(each["role"], [part["text"] for part in each["parts"]]) for each in contents(*messages)]

    assert turns == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"inlineData": {"mimeType": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "format": "image/webp"}},
            {"inlineData": {"mimeType": "image/webp", "data": PNG}},
        ),
        ({"type": "image_url", "image_url": "data:,a%20b"}, {"inlineData": {"mimeType": "text/plain", "data": "YSBi"}}),
        (
            {"type": "image_url", "image_url": {"url": "https://mill.test/wheel.png?size=2"}},
            {"fileData": {"mimeType": "image/png", "fileUri": "https://mill.test/wheel.png?size=2"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://mill.test/wheel"}},
            {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://mill.test/wheel"}},
        ),
        (
            {"type": "file", "file": {"file_id": "gs://bucket/plan.pdf"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/plan.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_id": "files/abc-1"}},
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc-1"}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
        ),
        (
            {"type": "file", "file": {"file_data": "YSxi", "filename": "rows.csv"}},
            {"inlineData": {"mimeType": "text/csv", "data": "YSxi"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}},
            {"inlineData": {"mimeType": "audio/mp3", "data": "UklGRg=="}},
        ),
        (
            {
                "type": "video_url",
                "video_url": {"url": "https://mill.test/run.mp4"},
                "video_metadata": {"start_offset": "2s", "fps": 1},
            },
            {
                "fileData": {"mimeType": "video/mp4", "fileUri": "https://mill.test/run.mp4"},
                "videoMetadata": {"startOffset": "2s", "fps": 1},
            },
        ),
    ],
)
def test_media_becomes_inline_data_or_a_reference(part: dict[str, Any], expected: dict[str, Any]) -> None:
    wire = translated(user(part))

    assert wire["contents"][0]["parts"] == [expected, {"text": " "}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://mill.test/wheel.png"}},
        {"type": "image_url", "image_url": {"url": "data:nonsense"}},
        {"type": "image_url"},
        {"type": "file", "file": {"file_id": "file-abc"}},
        {"type": "file", "file": {}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "hologram", "hologram": {}},
        {"type": "text"},
        7,
    ],
)
def test_content_that_gemini_cannot_take_is_refused_before_the_wire(part: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        GEMINI.request(a_call(user(part)))

    assert raised.value.param == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "hello",
        ["hello"],
        [{"role": "wizard", "content": "x"}],
        [{"role": "user", "content": {"a": 1}}],
        [{"role": "system", "content": [{"type": "image_url"}]}],
        [{"role": "assistant", "tool_calls": [{}]}],
        [{"role": "assistant", "tool_calls": "x"}],
        [{"role": "assistant", "tool_calls": [call_of("a", arguments="{oops")]}],
        [HELLO, {"role": "tool", "tool_call_id": "never", "content": "x"}],
    ],
)
def test_messages_out_of_shape_are_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest):
        GEMINI.request(a_call({"messages": messages}))


def test_detail_is_per_image_for_gemini_3_and_the_highest_of_all_before() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": detail}}
        for detail in ("low", "ultra", "auto")
    ]

    newer, older = translated(user(*parts), model="gemini-3-pro-preview"), translated(user(*parts))

    levels = [part.get("mediaResolution", {}).get("level") for part in newer["contents"][0]["parts"][:3]]
    assert levels == ["MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_ULTRA_HIGH", None]
    assert older["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}


def test_parallel_results_are_named_and_follow_the_order_of_the_calls() -> None:
    turns = contents(
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call_of("a"), call_of("b", arguments='{"city":"Zug"}')]},
        {"role": "tool", "tool_call_id": "b", "content": '{"celsius": 7}'},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "user", "content": "and tomorrow?"},
    )

    assert turns[1]["parts"] == [
        {"functionCall": {"name": "weather", "args": {"city": "Bern"}}},
        {"functionCall": {"name": "weather", "args": {"city": "Zug"}}},
    ]
    assert turns[2]["parts"] == [
        {"functionResponse": {"name": "weather", "response": {"content": "rain"}}},
        {"functionResponse": {"name": "weather", "response": {"celsius": 7}}},
        {"text": "and tomorrow?"},
    ]


def test_results_of_one_turn_do_not_mix_with_an_earlier_turn_that_used_the_same_ids() -> None:
    turns = contents(
        HELLO,
        {"role": "assistant", "tool_calls": [call_of("a", "first"), call_of("b", "second")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "assistant", "tool_calls": [call_of("b", "third"), call_of("a", "fourth")]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "tool", "tool_call_id": "b", "content": "3"},
    )

    assert [part["functionResponse"]["name"] for part in turns[4]["parts"]] == ["third", "fourth"]


def test_functions_of_old_are_translated_like_tools() -> None:
    wire = translated(
        {
            "functions": [WEATHER["function"]],
            "function_call": {"name": "weather"},
            "messages": [
                HELLO,
                {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
                {"role": "function", "name": "weather", "content": "sun"},
            ],
        }
    )

    assert wire["tools"] == [{"functionDeclarations": [DECLARED]}]
    assert wire["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["weather"]}
    assert wire["contents"][2]["parts"][0]["functionResponse"]["name"] == "weather"


def test_image_in_a_result_is_nested_for_gemini_3_and_beside_it_before() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages = [
        HELLO,
        {"role": "assistant", "tool_calls": [call_of("a")]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "see"}, image]},
    ]
    blob = {"inlineData": {"mimeType": "image/png", "data": PNG}}

    newer, older = contents(*messages, model="gemini-3-flash"), contents(*messages)

    assert newer[2]["parts"] == [
        {"functionResponse": {"name": "weather", "response": {"content": "see"}, "id": "a", "parts": [blob]}}
    ]
    assert older[2]["parts"] == [{"functionResponse": {"name": "weather", "response": {"content": "see"}}}, blob]


@pytest.mark.parametrize("fields_survive", [True, False])
def test_signed_answer_goes_back_with_its_signatures_and_ids(fields_survive: bool) -> None:
    answer = GEMINI.completion(a_call(model="gemini-3-pro-preview"), fixture("parallel_calls.json")).body
    message = orjson.loads(answer)["choices"][0]["message"]
    if not fields_survive:
        message["tool_calls"] = [
            {key: value for key, value in call.items() if key != "provider_specific_fields"}
            for call in message["tool_calls"]
        ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "{}"} for call in message["tool_calls"]]

    turns = contents(HELLO, message, *results, model="gemini-3-pro-preview")

    assert turns[1]["parts"] == orjson.loads(fixture("parallel_calls.json"))["candidates"][0]["content"]["parts"]
    assert [part["functionResponse"]["id"] for part in turns[2]["parts"]] == ["fc_8831", "fc_8832"]


@pytest.mark.parametrize("name", ["thoughts.json", "code_execution.json", "image.json"])
def test_answer_goes_back_with_its_thoughts_code_and_images(name: str) -> None:
    message = orjson.loads(GEMINI.completion(a_call(), fixture(name)).body)["choices"][0]["message"]

    turns = contents(HELLO, message, HELLO)

    assert turns[1]["parts"] == orjson.loads(fixture(name))["candidates"][0]["content"]["parts"]


def test_reasoning_without_blocks_becomes_a_thought() -> None:
    turns = contents(HELLO, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}, HELLO)

    assert turns[1]["parts"] == [{"text": "Hm.", "thought": True}, {"text": "Yes."}]


def test_unsigned_first_call_gets_googles_dummy_signature_on_gemini_3_only() -> None:
    messages = [
        HELLO,
        {"role": "assistant", "tool_calls": [call_of("a"), call_of("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]

    newer, older = contents(*messages, model="gemini-3-flash-preview"), contents(*messages)

    assert [part.get("thoughtSignature") for part in newer[1]["parts"]] == [SKIP_VALIDATION, None]
    assert not any("thoughtSignature" in part for part in older[1]["parts"])


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
