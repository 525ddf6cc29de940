"""Anthropic's whole answers and errors become OpenAI's."""

from typing import Any

import orjson
import pytest
from anthropic.types import Message

from shared.errors import (
    UpstreamAuthentication,
    UpstreamBadRequest,
    UpstreamBroken,
    UpstreamContentPolicy,
    UpstreamContextWindowExceeded,
    UpstreamError,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamServerError,
    UpstreamTimeout,
)
from shared.jobs import Usage
from tests.providers.anthropic_calls import FIXTURES, HELLO, call, fixture, sent
from tests.providers.openai_schema import check_completion
from workers.providers.anthropic import ANTHROPIC

ANSWERS = sorted(path.name for path in FIXTURES.glob("*.json"))
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object", "properties": {}}}}


def completed(name: str, body: dict[str, Any] | None = None, **deployment: Any) -> dict[str, Any]:
    answer = ANTHROPIC.completion(call(body, **deployment), fixture(name)).body
    check_completion(answer)
    parsed: dict[str, Any] = orjson.loads(answer)
    return parsed


def message(name: str, body: dict[str, Any] | None = None, **deployment: Any) -> dict[str, Any]:
    found: dict[str, Any] = completed(name, body, **deployment)["choices"][0]["message"]
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_every_fixture_is_an_answer_that_the_vendor_documents(name: str) -> None:
    Message.model_validate_json(fixture(name))


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_one_that_openai_documents(name: str) -> None:
    answer = completed(name)

    assert (answer["id"], answer["created"], len(answer["choices"])) == ("chatcmpl-1", 1_700_000_000, 1)


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("text.json", "stop"),
        ("parallel_tools.json", "tool_calls"),
        ("web_search.json", "stop"),
        ("refusal.json", "content_filter"),
        ("empty.json", "stop"),
    ],
)
def test_finish_reasons(name: str, finish: str) -> None:
    assert completed(name)["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize(
    ("native", "finish"),
    [
        ("max_tokens", "length"),
        ("pause_turn", "length"),
        ("compaction", "length"),
        ("model_context_window_exceeded", "length"),
        ("stop_sequence", "stop"),
        ("a_reason_of_tomorrow", "stop"),
    ],
)
def test_stop_reasons_map_to_finish_reasons_and_stay_readable(native: str, finish: str) -> None:
    body = orjson.dumps({**orjson.loads(fixture("text.json")), "stop_reason": native})

    choice = orjson.loads(ANTHROPIC.completion(call(), body).body)["choices"][0]

    assert choice["finish_reason"] == finish
    known = choice["message"].get("provider_specific_fields", {}).get("native_finish_reason", native)
    assert known == native


def test_usage_counts_every_token_once() -> None:
    completion = ANTHROPIC.completion(call(), fixture("text.json"))

    assert completion.usage == Usage(input=10, cache_read=5, cache_write=4, cache_write_1h=3, output=4)
    usage = orjson.loads(completion.body)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (22, 4, 26)
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 5,
        "text_tokens": 10,
        "cache_creation_tokens": 7,
        "cache_creation_token_details": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 3},
    }
    assert (usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (7, 5)


def test_an_answer_without_usage_says_so() -> None:
    answer = orjson.loads(fixture("text.json"))
    del answer["usage"]

    assert ANTHROPIC.completion(call(), orjson.dumps(answer)).usage is None


def test_visible_thinking_is_counted_when_the_vendor_does_not_count_it() -> None:
    completion = ANTHROPIC.completion(call(), fixture("thinking.json"))

    assert completion.usage is not None
    assert completion.usage.reasoning == len("27 * 453: 10800 + 1431.") // 4


def test_thinking_is_reasoning_and_blocks() -> None:
    answer = message("thinking.json")

    assert answer["reasoning_content"] == "27 * 453: 10800 + 1431."
    assert [block["type"] for block in answer["thinking_blocks"]] == ["thinking", "redacted_thinking"]
    assert answer["content"] == "12231"


@pytest.mark.parametrize("name", ["thinking.json", "parallel_tools.json", "web_search.json"])
def test_an_answer_goes_back_as_the_blocks_it_was(name: str) -> None:
    results = [
        {"role": "tool", "tool_call_id": made["id"], "content": "done"} for made in message(name).get("tool_calls", [])
    ]

    body = sent({"messages": [*HELLO, message(name), *results, *HELLO]})

    original = orjson.loads(fixture(name))["content"]
    for block in original:
        block.pop("citations", None)
    assert body["messages"][1]["content"] == original


def test_tool_calls_are_indexed_and_carry_json() -> None:
    calls = message("parallel_tools.json")["tool_calls"]

    assert [(each["index"], each["id"], each["function"]["name"]) for each in calls] == [
        (0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather"),
        (1, "toolu_01NRLabsLyVHZPKxbKvkfSMn", "get_time"),
    ]
    assert [orjson.loads(each["function"]["arguments"]) for each in calls] == [{"location": "San Francisco, CA"}, {}]


def test_a_tool_gets_its_own_name_back() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("get weather", "get_time")]
    assert [tool["name"] for tool in sent({"tools": tools})["tools"]] == ["get_weather", "get_time"]

    calls = message("parallel_tools.json", {"tools": tools})["tool_calls"]

    assert [each["function"]["name"] for each in calls] == ["get weather", "get_time"]


def test_search_results_and_citations_are_provider_specific() -> None:
    fields = message("web_search.json")["provider_specific_fields"]

    assert fields["web_search_results"][0]["content"][0]["url"] == "https://example.com/nyc"
    assert fields["citations"][0][0]["cited_text"] == "Sunny, 24 C"


def test_a_refusal_has_the_vendors_words() -> None:
    assert message("refusal.json")["refusal"] == "This could enable biological harm."


def test_structured_output_by_tool_reads_as_content() -> None:
    body = {"response_format": SCHEMA}

    choice = completed("json_tool.json", body, model="claude-3-5-haiku-20241022")["choices"][0]

    assert orjson.loads(choice["message"]["content"]) == {"city": "Wien"}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_a_tool_of_that_name_is_a_tool_when_no_schema_was_asked_for() -> None:
    choice = completed("json_tool.json", model="claude-3-5-haiku-20241022")["choices"][0]

    assert choice["message"]["tool_calls"][0]["function"]["name"] == "json_tool_call"
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"<html>login</html>",
        b"[]",
        b"{}",
        b'{"content":[]}',
        b'{"content":["x"],"stop_reason":"end_turn"}',
    ],
)
def test_what_is_not_an_answer_is_broken(body: bytes) -> None:
    with pytest.raises(UpstreamBroken) as caught:
        ANTHROPIC.completion(call(), body)

    assert "<" not in caught.value.message


def test_an_error_in_a_200_is_the_error_it_describes() -> None:
    with pytest.raises(UpstreamOverloaded):
        ANTHROPIC.completion(call(), b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "max_tokens: Field required", UpstreamBadRequest),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", UpstreamContextWindowExceeded),
        (400, "input length and `max_tokens` exceed context limit: 1 + 2 > 2", UpstreamContextWindowExceeded),
        (400, "Output blocked by content filtering policy", UpstreamContentPolicy),
        (400, "Your credit balance is too low to access the Anthropic API.", UpstreamQuotaExhausted),
        (401, "invalid x-api-key", UpstreamAuthentication),
        (402, "billing", UpstreamAuthentication),
        (403, "no permission", UpstreamAuthentication),
        (404, "model: claude-9", UpstreamNotFound),
        (408, "timeout", UpstreamTimeout),
        (413, "prompt is too long", UpstreamBadRequest),
        (422, "unprocessable", UpstreamBadRequest),
        (429, "rate limited", UpstreamRateLimited),
        (500, "Internal server error", UpstreamServerError),
        (502, "bad gateway", UpstreamServerError),
        (503, "unavailable", UpstreamOverloaded),
        (504, "too long", UpstreamTimeout),
        (529, "Overloaded", UpstreamOverloaded),
    ],
)
def test_errors_are_classified_by_status_first(status: int, words: str, kind: type[UpstreamError]) -> None:
    body = orjson.dumps({"type": "error", "error": {"type": "some_error", "message": words}})

    error = ANTHROPIC.error(status, {}, body)

    assert type(error) is kind
    assert (error.message, error.status, error.provider) == (words, status, "anthropic")


@pytest.mark.parametrize("body", [b"", b"<html><b>Bad Gateway</b></html>", b"null", b'{"error":"text"}', b"\xff\xfe"])
def test_an_error_that_is_not_json_is_told_by_its_status_without_markup(body: bytes) -> None:
    error = ANTHROPIC.error(502, {}, body)

    assert type(error) is UpstreamServerError
    assert "502" in error.message
    assert "<" not in error.message


def test_long_messages_are_cut() -> None:
    body = orjson.dumps({"error": {"type": "api_error", "message": "x" * 5_000}})

    assert len(ANTHROPIC.error(500, {}, body).message) == 2_000
