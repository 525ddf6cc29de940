"""Whole answers of Gemini as OpenAI's chat.completion."""

from typing import Any

import orjson
import pytest

from shared.errors import UpstreamBroken, UpstreamOverloaded
from shared.jobs import Usage
from tests.providers.gemini_wire import a_call, fixture
from tests.providers.openai_schema import check_completion
from workers.providers.base import Completion
from workers.providers.gemini import GEMINI


def completed(name: str, body: dict[str, Any] | None = None) -> Completion:
    completion = GEMINI.completion(a_call(body), fixture(name))
    check_completion(completion.body)
    return completion


def parsed(name: str) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(completed(name).body)
    return answer


def answered(candidate: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    completion = GEMINI.completion(a_call(body), orjson.dumps({"candidates": [candidate]}))
    check_completion(completion.body)
    choice: dict[str, Any] = orjson.loads(completion.body)["choices"][0]
    return choice


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", **fields}


def test_text_answer_has_geminis_id_model_and_usage() -> None:
    completion = completed("text.json")

    answer = orjson.loads(completion.body)
    assert answer["id"] == "kq1oaZ3_GdyPz7IPmKeR4Ag"
    assert answer["created"] == 1_790_000_000
    assert answer["model"] == completion.model == "gemini-2.5-flash"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Water turns the wheel.", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
            "provider_specific_fields": {"native_finish_reason": "STOP"},
        }
    ]
    assert completion.usage == Usage(input=9, output=6)


def test_answer_without_id_model_or_usage_falls_back_on_the_calls() -> None:
    completion = GEMINI.completion(a_call(), orjson.dumps({"candidates": [said("hi")]}))

    answer = orjson.loads(completion.body)
    assert (answer["id"], answer["model"]) == ("chatcmpl-1", "gemini-2.5-flash")
    assert completion.usage is None
    assert "usage" not in answer


def test_thoughts_are_reasoning_and_stay_out_of_the_content() -> None:
    message = parsed("thoughts.json")["choices"][0]["message"]

    thought = "**Weighing the mill**\n\nThe head is two metres."
    assert message["content"] == "About 2 kW."
    assert message["reasoning_content"] == thought
    assert message["thinking_blocks"] == [{"type": "thinking", "thinking": thought}]
    assert len(message["provider_specific_fields"]["thought_signatures"]) == 1


def test_parallel_calls_keep_ids_and_carry_the_signature_twice() -> None:
    choice = parsed("parallel_calls.json")["choices"][0]

    first, second = choice["message"]["tool_calls"]
    signature = first["provider_specific_fields"]["thought_signature"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert first["id"] == f"fc_8831__thought__{signature}"
    assert second["id"] == "fc_8832"
    assert [orjson.loads(call["function"]["arguments"]) for call in (first, second)] == [
        {"city": "Zürich"},
        {"city": "Bern"},
    ]


def test_calls_without_ids_get_stable_ones_of_their_own() -> None:
    first = parsed("calls_without_ids.json")["choices"][0]["message"]["tool_calls"]
    again = parsed("calls_without_ids.json")["choices"][0]["message"]["tool_calls"]

    assert first == again
    assert len({call["id"] for call in first}) == 2
    assert all(len(call["id"]) == len("call_") + 28 for call in first)
    assert first[1]["function"]["arguments"] == "{}"


def test_image_and_audio_come_in_fields_of_their_own() -> None:
    image = parsed("image.json")["choices"][0]["message"]
    audio = parsed("audio.json")["choices"][0]["message"]

    assert image["content"] == "Here is the mill."
    assert image["images"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert audio["audio"]["data"] == "AAAAAAAAAAAAAAABAQEBAQEB"
    assert audio["content"] is None


def test_grounding_becomes_citations_counted_in_characters() -> None:
    answer = parsed("grounding.json")

    message = answer["choices"][0]["message"]
    cited = [each["url_citation"] for each in message["annotations"]]
    spans = [message["content"][each["start_index"] : each["end_index"]] for each in cited]
    assert spans == ["Die Mühle läuft seit 1641.", "Sie steht in Zürich.", "Sie steht in Zürich."]
    assert [each["title"] for each in cited] == ["muehlenverein.ch", "muehlenverein.ch", "wikipedia.org"]
    assert answer["vertex_ai_grounding_metadata"][0]["webSearchQueries"] == ["Mühle Zürich"]


def test_log_probabilities_have_bytes_and_alternatives() -> None:
    tokens = parsed("logprobs.json")["choices"][0]["logprobs"]["content"]

    assert [(each["token"], each["logprob"], each["bytes"]) for each in tokens] == [
        ("Yes", -0.1, [89, 101, 115]),
        (" é", 0.0, [32, 195, 169]),
    ]
    assert [each["token"] for each in tokens[0]["top_logprobs"]] == ["Yes", "No"]


def test_each_candidate_is_a_choice() -> None:
    choices = parsed("two_candidates.json")["choices"]

    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in choices] == [
        (0, "Heads.", "stop"),
        (1, "Tails, or", "length"),
    ]


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        *[(native, "content_filter") for native in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT")],
        *[(native, "content_filter") for native in ("SPII", "LANGUAGE", "OTHER", "IMAGE_SAFETY", "NO_IMAGE")],
        ("MALFORMED_FUNCTION_CALL", "stop"),
        ("NEWER_THAN_US", "stop"),
    ],
)
def test_finish_reason_is_openais_and_the_native_one_is_kept(native: str, expected: str) -> None:
    choice = answered(said("Some words.", finishReason=native))

    assert choice["finish_reason"] == expected
    assert choice["provider_specific_fields"]["native_finish_reason"] == native


def test_length_stands_even_when_a_function_was_called() -> None:
    parts = [{"functionCall": {"name": "now", "args": {}}}]

    choice = answered({"content": {"parts": parts}, "finishReason": "MAX_TOKENS"})

    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("name", "native", "refusal"),
    [
        ("safety.json", "SAFETY", "Gemini withheld the answer: SAFETY"),
        ("blocked_prompt.json", "PROHIBITED_CONTENT", "Gemini blocked the prompt: PROHIBITED_CONTENT"),
    ],
)
def test_withheld_answer_is_one_choice_with_a_refusal(name: str, native: str, refusal: str) -> None:
    (choice,) = parsed(name)["choices"]

    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] == refusal
    assert choice["provider_specific_fields"] == {"native_finish_reason": native}


@pytest.mark.parametrize("name", ["no_candidates.json", "malformed_call.json", "empty_stop.json"])
def test_empty_success_is_a_failure_worth_another_try(name: str) -> None:
    with pytest.raises(UpstreamBroken) as raised:
        GEMINI.completion(a_call(), fixture(name))

    assert raised.value.retryable


@pytest.mark.parametrize(
    ("candidate", "body"),
    [
        ({"finishReason": "STOP"}, {"stop": "END"}),
        (said(""), {}),
    ],
)
def test_answer_may_be_empty_when_it_says_so_or_a_stop_sequence_came_first(candidate: Any, body: Any) -> None:
    choice = answered(candidate, body)

    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")


def test_answer_that_was_all_thought_ends_for_its_length() -> None:
    completion = completed("thought_out.json")

    assert orjson.loads(completion.body)["choices"][0]["finish_reason"] == "length"
    assert completion.usage == Usage(input=7, output=64, reasoning=64)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"<html>502</html>", b'"ok"', b"{}", b'{"candidates": []}', b'{"candidates": null}']
)
def test_what_is_no_answer_is_broken_whatever_its_status(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        GEMINI.completion(a_call(), body)


def test_error_in_an_answer_of_200_is_raised_as_what_it_is() -> None:
    body = orjson.dumps([{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}])

    with pytest.raises(UpstreamOverloaded, match="overloaded"):
        GEMINI.completion(a_call(), body)


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("thoughts.json", Usage(input=21, output=147, reasoning=140)),
        ("cached.json", Usage(input=904, cache_read=4096, output=23, reasoning=20)),
        ("code_execution.json", Usage(input=67, output=20)),
        ("grounding.json", Usage(input=10, output=14)),
    ],
)
def test_usage_classes_are_disjoint(name: str, usage: Usage) -> None:
    assert completed(name).usage == usage


def test_thoughts_that_are_counted_among_the_candidates_are_not_counted_twice() -> None:
    metadata = {"promptTokenCount": 5, "candidatesTokenCount": 30, "thoughtsTokenCount": 20, "totalTokenCount": 35}

    completion = GEMINI.completion(a_call(), orjson.dumps({"candidates": [said("x")], "usageMetadata": metadata}))

    assert completion.usage == Usage(input=5, output=30, reasoning=20)
    assert orjson.loads(completion.body)["usage"]["completion_tokens"] == 30


def test_openais_usage_counts_the_cache_within_the_prompt_and_tells_modalities_apart() -> None:
    usage = parsed("cached.json")["usage"]

    assert usage["prompt_tokens"] == 5000
    assert usage["completion_tokens"] == 23
    assert usage["total_tokens"] == 5023
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4096, "text_tokens": 904, "image_tokens": 0}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 20, "text_tokens": 3}
