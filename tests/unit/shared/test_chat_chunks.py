"""Streams of several vendors, folded into the completion that they tell in pieces."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chat_chunks import fold

FIXTURES = Path(__file__).parents[2] / "fixtures" / "providers"
STREAM = (FIXTURES / "openai" / "stream.sse").read_bytes()
TOOLS = (FIXTURES / "openai" / "stream_tools.sse").read_bytes()


def folded(sse: bytes) -> dict[str, Any]:
    completion = fold(sse)
    assert completion is not None
    return completion


def sse(*deltas: dict[str, Any], finish: str | None = None) -> bytes:
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [{"id": "c", "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    return b"".join(b"data: %b\nid: job:%d\n\n" % (orjson.dumps(chunk), seq) for seq, chunk in enumerate(chunks))


def message(*deltas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = folded(sse(*deltas))["choices"][0]["message"]
    return found


def test_a_recorded_stream_folds_into_a_chat_completion() -> None:
    completion = folded(STREAM)

    (choice,) = completion.pop("choices")
    usage = completion.pop("usage")
    assert completion == {
        "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
        "object": "chat.completion",
        "created": 1741570283,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_fc9f1d7035",
    }
    assert choice["message"] == {
        "role": "assistant", "content": 'Café 東京 👩‍🚀 "quoted"\n end.', "refusal": None,
    }  # fmt: skip
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert usage["completion_tokens"] == 10


def test_tool_calls_are_put_together_by_their_index_which_a_whole_answer_does_not_have() -> None:
    (choice,) = folded(TOOLS)["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_DdmO9pD3xa9XTPNJ32zg2hcA", "type": "function",
         "function": {"name": "get_weather", "arguments": '{"city":"Zürich"}'}},
        {"id": "call_h2k9pD3xa9XTPNJ32zg2hcA1", "type": "function",
         "function": {"name": "get_time", "arguments": "{}"}},
    ]  # fmt: skip


def test_several_choices_come_apart_again() -> None:
    completion = folded((FIXTURES / "openai" / "stream_two_choices.sse").read_bytes())

    assert [choice["index"] for choice in completion["choices"]] == [0, 1]
    assert all(choice["message"]["content"] for choice in completion["choices"])


@pytest.mark.parametrize("vendor", ["deepseek", "xai", "groq", "openrouter", "together_ai", "hosted_vllm", "ollama"])
def test_the_streams_of_compatible_vendors_fold(vendor: str) -> None:
    completion = folded((FIXTURES / "compatible" / f"{vendor}.sse").read_bytes())

    for choice in completion["choices"]:
        assert choice["finish_reason"] is not None
        assert choice["message"]["role"] == "assistant"
        assert choice["message"].get("content") or choice["message"].get("tool_calls")


def test_reasoning_grows_beside_the_content() -> None:
    found = message({"reasoning_content": "I "}, {"reasoning_content": "think."}, {"content": "Yes"}, {"content": "."})

    assert (found["reasoning_content"], found["content"]) == ("I think.", "Yes.")


def test_thinking_blocks_with_their_signatures_are_kept() -> None:
    first = {"thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "a"}]}
    second = {"thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "b", "signature": "s"}]}

    assert message(first, second)["thinking_blocks"] == [
        {"index": 0, "type": "thinking", "thinking": "ab", "signature": "s"}
    ]


def test_log_probabilities_are_collected() -> None:
    def chunk(token: str) -> bytes:
        choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token, "logprob": -1.0}]}}
        return b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [choice]})

    (choice,) = folded(chunk("a") + chunk("b"))["choices"]

    assert choice["logprobs"] == {"content": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -1.0}]}


def test_a_vendor_that_repeats_ids_and_names_is_understood() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "}"}}

    found = message({"role": "assistant", "tool_calls": [call]}, {"role": "assistant", "tool_calls": [again]})

    assert found["role"] == "assistant"
    assert found["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_calls_without_an_index_stay_apart() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": "{}"}}

    assert message({"tool_calls": [call]}, {"tool_calls": [{**call, "id": "2"}]})["tool_calls"] == [
        call, {**call, "id": "2"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "nothing",
    [b"", b": keep-alive\n", b"data: [DONE]\n\n", b'data: {"error": {"message": "no"}}\nid: j:1\n\n', b"data: 7\n\n"],
)
def test_where_no_chunk_is_there_is_no_completion(nothing: bytes) -> None:
    assert fold(nothing) is None


def test_comments_ids_errors_and_the_end_leave_no_trace() -> None:
    noisy = b": keep-alive\nid: job:0\n" + STREAM + b'data: {"error": {"code": "502"}}\nid: job:9\n\ndata: [DONE]\n\n'

    assert fold(noisy) == fold(STREAM)


@given(st.integers(0, len(STREAM)))
def test_a_stream_that_was_cut_adds_up_to_what_came_before(cut: int) -> None:
    completion = fold(STREAM[:cut])

    if completion is not None and completion["choices"]:
        whole = folded(STREAM)["choices"][0]["message"]["content"]
        assert whole.startswith(completion["choices"][0]["message"]["content"] or "")
