"""Gemini's streams as OpenAI's chunks, however the bytes are cut."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import errors
from shared.jobs import Usage
from tests.providers.gemini_wire import a_call, fixture
from tests.providers.openai_schema import check_chunk
from workers.providers.base import Chunk, ServerSentEvent
from workers.providers.gemini import GEMINI
from workers.sse import SseDecoder

WHOLE = [
    *("text.sse", "thoughts_and_calls.sse", "signed_text.sse", "image.sse", "grounding.sse"),
    *("safety_midway.sse", "blocked_prompt.sse", "logprobs.sse", "two_candidates.sse"),
]


def decoded(pieces: list[bytes], body: dict[str, Any] | None = None) -> list[Chunk]:
    """The chunks of a stream that arrives in `pieces` and then ends."""
    sse, decoder = SseDecoder(), GEMINI.decoder(a_call({"stream": True, **(body or {})}))
    chunks: list[Chunk] = []
    for event in [event for piece in pieces for event in sse.feed(piece)] + sse.close():
        chunks += decoder.feed(event)
        assert not decoder.done
    chunks += decoder.close()
    for chunk in chunks:
        if chunk.data:
            check_chunk(chunk.data)
    return chunks


def parsed(name: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [orjson.loads(chunk.data) for chunk in decoded([fixture(name)], body) if chunk.data]


def deltas(name: str) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in parsed(name) for choice in chunk["choices"]]


def reasons(name: str) -> list[str]:
    return [choice["finish_reason"] for chunk in parsed(name) for choice in chunk["choices"] if choice["finish_reason"]]


def event(answer: Any) -> ServerSentEvent:
    return ServerSentEvent("message", orjson.dumps(answer))


def test_text_arrives_in_pieces_with_the_role_on_the_first() -> None:
    chunks = decoded([fixture("text.sse")])

    bodies = [orjson.loads(chunk.data) for chunk in chunks]
    assert [body["choices"][0]["delta"] for body in bodies] == [
        {"role": "assistant", "content": "Water"},
        {"content": " turns the"},
        {"content": " wheel – größer. 水"},
    ]
    assert {(body["id"], body["model"], body["created"]) for body in bodies} == {
        ("kq1oaZ3_GdyPz7IPmKeR4Ag", "gemini-2.5-flash", 1_790_000_000)
    }
    assert [(chunk.content, chunk.finish, chunk.text) for chunk in chunks] == [
        (True, False, 5),
        (True, False, 10),
        (True, True, 18),
    ]
    assert chunks[-1].usage == Usage(input=9, output=9)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_chunks_do_not_depend_on_how_the_bytes_are_cut(name: str, data: st.DataObject) -> None:
    wire = fixture(name)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=12)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    assert decoded(pieces) == decoded([wire])


@pytest.mark.parametrize("name", WHOLE)
def test_usage_chunk_comes_once_and_last_and_only_when_asked_for(name: str) -> None:
    asked = parsed(name, {"stream_options": {"include_usage": True}})

    assert asked[:-1] == parsed(name)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] > 0
    assert not any("usage" in chunk for chunk in asked[:-1])


@pytest.mark.parametrize("name", WHOLE)
def test_each_choice_has_one_role_and_one_finish(name: str) -> None:
    choices = [choice for chunk in parsed(name) for choice in chunk["choices"]]

    for index in {choice["index"] for choice in choices}:
        own = [choice for choice in choices if choice["index"] == index]
        assert ["role" in choice["delta"] for choice in own] == [True] + [False] * (len(own) - 1)
        assert [choice["finish_reason"] is not None for choice in own] == [False] * (len(own) - 1) + [True]


def test_parallel_calls_are_numbered_across_chunks_and_finish_as_tool_calls() -> None:
    said = deltas("thoughts_and_calls.sse")

    calls = [call for delta in said for call in delta.get("tool_calls", [])]
    assert [(call["index"], call["id"].partition("__")[0]) for call in calls] == [(0, "fc_1"), (1, "fc_2")]
    assert [orjson.loads(call["function"]["arguments"])["city"] for call in calls] == ["Zürich", "Bern"]
    assert said[0]["reasoning_content"] == "**Planning**"
    assert reasons("thoughts_and_calls.sse") == ["tool_calls"]


def test_calls_without_ids_get_different_ones_in_different_chunks() -> None:
    part = {"functionCall": {"name": "now"}}
    events = [
        event({"candidates": [{"content": {"parts": [part]}}]}),
        event({"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}),
    ]
    decoder = GEMINI.decoder(a_call({"stream": True}))

    chunks = [orjson.loads(chunk.data) for each in events for chunk in decoder.feed(each)]

    ids = {chunk["choices"][0]["delta"]["tool_calls"][0]["id"] for chunk in chunks}
    assert len(ids) == 2


def test_late_signature_of_a_text_comes_with_the_finish() -> None:
    assert len(deltas("signed_text.sse")[-1]["provider_specific_fields"]["thought_signatures"]) == 1


def test_citations_count_from_the_beginning_of_the_whole_text() -> None:
    said = deltas("grounding.sse")

    text = "".join(delta.get("content", "") for delta in said)
    cited = [each["url_citation"] for each in said[-1]["annotations"]]
    assert [text[each["start_index"] : each["end_index"]] for each in cited] == [
        "Die Mühle läuft seit 1641.",
        "Sie steht in Zürich.",
        "Sie steht in Zürich.",
    ]


def test_log_probabilities_stream_with_their_tokens() -> None:
    first = parsed("logprobs.sse")[0]["choices"][0]

    assert [each["token"] for each in first["logprobs"]["content"]] == ["Yes"]


def test_two_candidates_stream_side_by_side_and_finish_together() -> None:
    chunks = decoded([fixture("two_candidates.sse")], {"n": 2})

    text = {0: "", 1: ""}
    for choice in (choice for chunk in chunks for choice in orjson.loads(chunk.data)["choices"]):
        text[choice["index"]] += choice["delta"].get("content", "")
    assert text == {0: "Heads.", 1: "Tails."}
    assert [chunk.finish for chunk in chunks] == [False, False, True]


def test_safety_stop_ends_a_begun_answer_as_filtered() -> None:
    assert reasons("safety_midway.sse") == ["content_filter"]
    assert "refusal" not in deltas("safety_midway.sse")[-1]


def test_blocked_prompt_is_one_chunk_with_a_refusal() -> None:
    (chunk,) = decoded([fixture("blocked_prompt.sse")])

    choice = orjson.loads(chunk.data)["choices"][0]
    assert (chunk.content, chunk.finish) == (True, True)
    assert choice["finish_reason"] == "content_filter"
    assert choice["delta"]["refusal"] == "The prompt was blocked."


@pytest.mark.parametrize(
    ("name", "kind", "chunks_before"),
    [
        ("error_first.sse", errors.UpstreamRateLimited, 0),
        ("error_midway.sse", errors.UpstreamOverloaded, 1),
        ("truncated.sse", errors.UpstreamBroken, 1),
        ("empty_stop.sse", errors.UpstreamBroken, 0),
        ("malformed_call.sse", errors.UpstreamBroken, 0),
    ],
)
def test_failed_stream_raises_after_what_came_before(
    name: str, kind: type[errors.UpstreamError], chunks_before: int
) -> None:
    decoder = GEMINI.decoder(a_call({"stream": True}))
    chunks: list[Chunk] = []

    with pytest.raises(kind) as raised:
        for each in SseDecoder().feed(fixture(name)):
            chunks += decoder.feed(each)
        chunks += decoder.close()

    assert type(raised.value) is kind
    assert len(chunks) == chunks_before
    assert not any(chunk.finish for chunk in chunks)


def test_rate_limit_in_a_stream_has_googles_own_delay() -> None:
    decoder = GEMINI.decoder(a_call({"stream": True}))

    with pytest.raises(errors.UpstreamRateLimited) as raised:
        decoder.feed(*SseDecoder().feed(fixture("error_first.sse")))

    assert raised.value.retry_after == 12.0


@pytest.mark.parametrize("data", [[], [b""], [b": ping\n\n"], [b"data: {}\n\n"], [b"data: oops\n\n"], [b"data: 7\n\n"]])
def test_stream_of_nothing_is_broken(data: list[bytes]) -> None:
    with pytest.raises(errors.UpstreamBroken):
        decoded(data)


def test_broken_event_in_a_stream_that_ends_well_is_skipped() -> None:
    first, rest = fixture("text.sse").split(b"\r\n\r\n", 1)

    chunks = decoded([first, b"\r\n\r\ndata: {oops\r\n\r\n", rest])

    assert chunks == decoded([fixture("text.sse")])


def test_what_comes_after_the_finish_is_dropped_but_its_usage_counts() -> None:
    late = {
        "candidates": [{"content": {"parts": [{"text": "too late"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 11, "totalTokenCount": 20},
    }

    chunks = decoded([fixture("text.sse"), b"data: ", orjson.dumps(late), b"\n\n"])

    assert chunks[:-1] == decoded([fixture("text.sse")])
    assert chunks[-1] == Chunk(b"", usage=Usage(input=9, output=11))


def test_candidate_without_content_is_a_mere_note() -> None:
    decoder = GEMINI.decoder(a_call({"stream": True}))

    (chunk,) = decoder.feed(event({"candidates": [{"index": 0}], "usageMetadata": {"promptTokenCount": 3}}))

    assert chunk == Chunk(b"", usage=Usage(input=3))
    assert list(decoder.feed(event({"candidates": [{"index": 0}]}))) == []
