"""Which messages of an OpenAI chat request reach Gemini, and as what."""

from typing import Any

import orjson
import pytest

from shared.errors import InvalidRequest
from tests.providers.gemini_wire import DECLARED, WEATHER, a_call, fixture, translated
from workers.providers.gemini import GEMINI
from workers.providers.gemini.signatures import SKIP_VALIDATION

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


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
