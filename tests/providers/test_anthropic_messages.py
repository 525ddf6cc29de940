"""OpenAI's messages become Anthropic's: any chat that OpenAI accepts becomes one that Anthropic accepts."""

from typing import Any

import pytest

from shared.errors import InvalidRequest
from tests.providers.anthropic_calls import MARK, PDF, PNG, made_call, result, sent
from tests.providers.anthropic_types import check_request

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def calls(*ids: str, content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [made_call(each) for each in ids]}


def text(words: str, **extra: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **extra}


def translated(*messages: dict[str, Any], model: str = "claude-sonnet-4-5", **body: Any) -> dict[str, Any]:
    wire = sent({"messages": list(messages), **body}, model=model)
    check_request(wire)
    return wire


def turns(*messages: dict[str, Any], **body: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(turn["role"], turn["content"]) for turn in translated(*messages, **body)["messages"]]


def user_blocks(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return turns({"role": "user", "content": list(parts)})[0][1]


# System


def test_leading_system_and_developer_messages_are_the_system_prompt() -> None:
    body = translated(
        {"role": "system", "content": "One"},
        {"role": "developer", "content": [text("Two", **MARK), text("")]},
        {"role": "system", "content": ""},
        USER,
    )

    assert body["system"] == [text("One"), text("Two", **MARK)]
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_a_later_system_message_is_said_by_the_user_on_older_models() -> None:
    later = {"role": "system", "content": "Be brief"}

    assert turns(USER, later, {"role": "assistant", "content": "Hm"}, USER) == [
        ("user", [text("Hi"), text("Be brief")]),
        ("assistant", [text("Hm")]),
        ("user", [text("Hi")]),
    ]


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        (["user", "system"], ["user", "system"]),
        (["user", "system", "developer", "assistant", "user"], ["user", "system", "assistant", "user"]),
        (["user", "system", "user"], ["user"]),
        (["user", "assistant", "system", "user"], ["user", "assistant", "user"]),
        (["user", "assistant", "system"], ["user", "assistant", "user"]),
    ],
)
def test_a_later_system_message_stays_where_newer_models_allow_it(messages: list[str], roles: list[str]) -> None:
    chat = [{"role": role, "content": "x"} for role in messages]

    assert [role for role, _ in turns(*chat, model="claude-opus-4-8")] == roles


# Turns


def test_a_chat_without_a_user_begins_with_a_placeholder() -> None:
    assert turns({"role": "system", "content": "Tell a joke"}) == [("user", [text(".")])]
    assert turns({"role": "assistant", "content": "Well,"})[0] == ("user", [text(".")])


def test_neighbours_of_one_role_are_one_turn() -> None:
    assistant = {"role": "assistant", "content": "A"}

    assert turns(USER, USER, assistant, assistant, USER) == [
        ("user", [text("Hi"), text("Hi")]),
        ("assistant", [text("A"), text("A")]),
        ("user", [text("Hi")]),
    ]


@pytest.mark.parametrize("empty", ["", " \n", None, [], [text("")], [text(" ")]])
def test_an_empty_message_is_a_placeholder(empty: object) -> None:
    assistant = {"role": "assistant", "content": empty}

    assert turns({"role": "user", "content": empty}) == [("user", [text(".")])]
    assert turns(USER, assistant, USER)[1] == ("assistant", [text(".")])


def test_an_empty_message_beside_another_leaves_no_trace() -> None:
    assert turns(USER, {"role": "user", "content": ""}) == [("user", [text("Hi")])]


def test_a_prefill_loses_its_trailing_white_space_and_an_empty_one_vanishes() -> None:
    assert turns(USER, {"role": "assistant", "content": "Sure: \n", "prefix": True})[1] == (
        "assistant",
        [text("Sure:")],
    )
    assert turns(USER, {"role": "assistant", "content": ""}) == [("user", [text("Hi")])]


def test_an_assistants_refusal_is_its_text() -> None:
    assert turns(USER, {"role": "assistant", "content": None, "refusal": "No."}, USER)[1][1] == [text("No.")]


# Content


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "low"}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
        ),
        (
            {"type": "image_url", "image_url": PNG},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        ),
        (
            {"type": "image_url", "image_url": {"url": PNG, "format": "image/webp"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "iVBORw0KGgo="}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,/9g="}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9g="}},
        ),
        (
            {"type": "image_url", "image_url": {"url": PDF}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;charset=utf-8;base64,R3LDvMOfZQ=="}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        ),
        (
            {"type": "file", "file": {"file_id": "https://a.example/b.pdf"}},
            {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_id": "file_1", "format": "application/pdf"}},
            {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        ),
        (
            {"type": "file", "file": {"file_id": "file_1", "format": "image/png"}},
            {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        ),
        ({"type": "file", "file": {"file_id": "file_1"}}, {"type": "container_upload", "file_id": "file_1"}),
        (
            {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}, "title": "B"},
            {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}, "title": "B"},
        ),
    ],
)
def test_parts_become_blocks_and_keep_their_cache_markers(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert user_blocks(part, text("?")) == [block, text("?")]
    assert user_blocks({**part, **MARK}, text("?")) == [{**block, **MARK}, text("?")]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}, "send https or a data: URL"),
        ({"type": "image_url", "image_url": {"url": "gs://bucket/b.png"}}, "not gs"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, "must be base64"),
        ({"type": "image_url", "image_url": {}}, "needs a url"),
        ({"type": "file", "file": {}}, "needs file_data or file_id"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, "UTF-8"),
        ({"type": "input_audio", "input_audio": {}}, "'input_audio'"),
        ("a string among parts", "not str"),
    ],
)
def test_a_part_that_anthropic_cannot_take_is_refused_with_its_place(part: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        sent({"messages": [USER, {"role": "user", "content": [text("x"), part]}]})

    assert caught.value.param == "messages[1].content[1]"


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        {},
        {"role": "narrator", "content": "x"},
        {"role": "user", "content": 7},
        {"role": "tool", "content": "x"},
        {"role": "system", "content": ["a", "b"]},
        {"role": "system", "content": [{"type": "image_url", "image_url": PNG}]},
        {"role": "assistant", "tool_calls": "f"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [made_call("a", arguments='{"half')]},
        {"role": "assistant", "tool_calls": [made_call("a", arguments="[1]")]},
    ],
)
def test_a_message_that_is_none_is_refused_with_its_place(message: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent({"messages": [USER, message]})

    assert str(caught.value.param).startswith("messages[1]")


@pytest.mark.parametrize("messages", [None, [], "hello"])
def test_messages_must_be_there(messages: object) -> None:
    with pytest.raises(InvalidRequest):
        sent({"messages": messages})


def test_a_marker_on_a_message_marks_its_last_block() -> None:
    marked = {"role": "user", "content": [text("a"), text("b")], **MARK}
    call = {"role": "assistant", "tool_calls": [{**made_call("c"), **MARK}]}

    chat = turns(marked, call, {**result("c"), **MARK})

    assert chat[0][1] == [text("a"), text("b", **MARK)]
    assert chat[1][1][0].items() >= MARK.items()
    assert chat[2][1][0].items() >= MARK.items()


# Tools


def test_parallel_calls_and_their_results() -> None:
    chat = turns(USER, calls("a", "b", content="Both"), result("a", "1"), result("b", [text("2")]), USER)

    assert chat[1] == (
        "assistant",
        [
            text("Both"),
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            {"type": "tool_use", "id": "b", "name": "f", "input": {}},
        ],
    )
    assert chat[2] == (
        "user",
        [
            {"type": "tool_result", "tool_use_id": "a", "content": "1"},
            {"type": "tool_result", "tool_use_id": "b", "content": [text("2")]},
            text("Hi"),
        ],
    )


def test_a_result_may_hold_pictures() -> None:
    content = turns(USER, calls("a"), result("a", [{"type": "image_url", "image_url": PNG}]))[2][1][0]["content"]

    assert content[0]["source"]["media_type"] == "image/png"


@pytest.mark.parametrize("nothing", ["", None, [], [text("")]])
def test_a_result_may_hold_nothing(nothing: object) -> None:
    assert turns(USER, calls("a"), result("a", nothing))[2][1] == [{"type": "tool_result", "tool_use_id": "a"}]


def test_what_was_said_between_results_comes_after_them() -> None:
    note = {"role": "system", "content": "Note"}

    kinds = [block["type"] for block in turns(USER, calls("a", "b"), result("a"), note, USER, result("b"))[2][1]]

    assert kinds == ["tool_result", "tool_result", "text", "text"]


def test_ids_and_names_are_made_safe_on_both_sides() -> None:
    call = {"role": "assistant", "tool_calls": [made_call("call:1/x", name="get.weather")]}

    chat = turns(USER, call, result("call:1/x"))

    assert (chat[1][1][0]["id"], chat[1][1][0]["name"]) == ("call_1_x", "get_weather")
    assert chat[2][1][0]["tool_use_id"] == "call_1_x"


def test_an_id_that_every_turn_reuses_is_told_apart() -> None:
    chat = turns(USER, calls("call_0"), result("call_0"), calls("call_0"), result("call_0"))

    assert [turn[1][0].get("id") or turn[1][0].get("tool_use_id") for turn in chat[1:]] == [
        "call_0",
        "call_0",
        "call_0_2",
        "call_0_2",
    ]


def test_a_call_or_result_that_comes_twice_counts_once() -> None:
    chat = turns(USER, calls("a", "a"), result("a", "first"), result("a", "second"))

    assert len(chat[1][1]) == 1
    assert [block["content"] for block in chat[2][1]] == ["first"]


def test_a_legacy_function_call_is_a_tool_call() -> None:
    made = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}

    chat = turns(USER, made, {"role": "function", "name": "f", "content": "ok"})

    assert chat[1][1][0].items() >= {"type": "tool_use", "name": "f", "input": {"x": 1}}.items()
    assert chat[2][1][0]["tool_use_id"] == chat[1][1][0]["id"]


def test_a_chat_with_calls_and_no_tools_gets_a_tool_that_is_not_to_be_called() -> None:
    body = translated(USER, calls("a"), result("a"))

    assert [tool["name"] for tool in body["tools"]] == ["dummy_tool"]
    assert body["tool_choice"] == {"type": "none"}


def test_a_server_call_goes_back_with_its_result_or_not_at_all() -> None:
    made = {"role": "assistant", "content": "Sunny.", "tool_calls": [made_call("srvtoolu_1", name="web_search")]}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    kept = {**made, "provider_specific_fields": {"web_search_results": [found]}}

    assert [block["type"] for block in turns(USER, kept, result("srvtoolu_1"), USER)[1][1]] == [
        "server_tool_use",
        "web_search_tool_result",
        "text",
    ]
    assert turns(USER, made, USER)[1][1] == [text("Sunny.")]


# Thinking


def test_thinking_comes_first_and_as_it_was() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "s1"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "", "signature": "s2"},
    ]

    answer = {**calls("a", content="So"), "reasoning_content": "Hm", "thinking_blocks": blocks}

    assert turns(USER, answer, result("a"))[1][1][:4] == [*blocks, text("So")]


def test_thinking_among_the_parts_counts_too() -> None:
    block = {"type": "thinking", "thinking": "Hm", "signature": "s"}

    answer = {"role": "assistant", "content": [text("So"), block]}

    assert turns(USER, answer, USER)[1][1] == [block, text("So")]


def test_thinking_of_another_vendor_stays_behind() -> None:
    answer = {"role": "assistant", "content": "So", "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]}

    assert turns(USER, answer, USER)[1][1] == [text("So")]
