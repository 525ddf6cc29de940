"""Anthropic's event stream becomes OpenAI's chunks."""

import orjson
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shared.errors import UpstreamBroken, UpstreamError, UpstreamOverloaded, UpstreamRateLimited, UpstreamServerError
from shared.jobs import Usage
from tests.providers.anthropic_calls import (
    FIXTURES,
    call,
    decode,
    deltas,
    finish_reasons,
    fixture,
    joined,
    sent,
    tool_calls,
)
from workers.providers.anthropic import ANTHROPIC
from workers.providers.base import Chunk, ServerSentEvent
from workers.sse import SseDecoder

STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object", "properties": {}}}}
STREAMS = sorted(path.name for path in FIXTURES.glob("*.sse"))
WHOLE = [name for name in STREAMS if not name.startswith("error")]


@pytest.mark.parametrize("name", STREAMS)
def test_every_fixture_is_a_stream_that_the_vendor_documents(name: str) -> None:
    events = [orjson.loads(event.data) for event in SseDecoder().feed(fixture(name))]

    for event in events:
        if event["type"] not in ("ping", "error"):
            TypeAdapter(RawMessageStreamEvent).validate_python(event)


def test_text_arrives_piece_by_piece_and_ends_with_the_reason_and_the_usage() -> None:
    chunks = decode(call(STREAM), fixture("text.sse"))

    assert [delta.get("content") for delta in deltas(chunks)] == ["", "Grüße", " aus", " Wien 🎡", None]
    assert finish_reasons(chunks) == ["stop"]
    assert orjson.loads(chunks[-1].data)["choices"] == []
    assert orjson.loads(chunks[-1].data)["usage"]["prompt_tokens"] == 22


def test_cache_tokens_keep_their_classes() -> None:
    chunks = decode(call(STREAM), fixture("text.sse"))

    assert chunks[-1].usage == Usage(input=10, cache_read=5, cache_write=4, cache_write_1h=3, output=4)


@pytest.mark.parametrize("name", WHOLE)
def test_every_chunk_has_one_id_model_and_time_and_the_role_comes_once(name: str) -> None:
    chunks = [orjson.loads(chunk.data) for chunk in decode(call(STREAM), fixture(name)) if chunk.data]

    assert {(each["id"], each["created"]) for each in chunks} == {("chatcmpl-1", 1_700_000_000)}
    assert len({each["model"] for each in chunks}) == 1
    assert ["role" in choice["delta"] for each in chunks for choice in each["choices"]].count(True) == 1
    assert "role" in chunks[0]["choices"][0]["delta"]


@pytest.mark.parametrize("name", WHOLE)
def test_usage_is_one_chunk_at_the_end_and_only_on_request(name: str) -> None:
    asked = [orjson.loads(chunk.data) for chunk in decode(call(STREAM), fixture(name)) if chunk.data]
    silent = [orjson.loads(chunk.data) for chunk in decode(call({"stream": True}), fixture(name)) if chunk.data]

    assert [each["choices"] == [] for each in asked].count(True) == 1
    assert asked[-1]["choices"] == []
    assert all(each["choices"] for each in silent)


@pytest.mark.parametrize("name", WHOLE)
def test_content_is_committed_by_content_and_finish_alone(name: str) -> None:
    chunks = decode(call(STREAM), fixture(name))

    assert not chunks[0].content
    assert [chunk.finish for chunk in chunks].count(True) == 1
    assert any(chunk.content for chunk in chunks)


def test_thinking_is_reasoning_with_blocks_that_carry_the_signature() -> None:
    chunks = decode(call(STREAM), fixture("thinking.sse"))

    assert joined(chunks, "reasoning_content") == "27 * 453: 27 * 400 = 10800, 27 * 53 = 1431."
    assert joined(chunks, "content") == "27 * 453 = 12231"
    blocks = [block for delta in deltas(chunks) for block in delta.get("thinking_blocks", ())]
    assert "".join(block["thinking"] for block in blocks) == joined(chunks, "reasoning_content")
    assert [block["signature"] for block in blocks if "signature" in block] == [
        "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
    ]
    assert chunks[-1].usage == Usage(input=25, output=58, reasoning=41)


def test_streamed_thinking_goes_back_as_the_block_it_was() -> None:
    chunks = decode(call(STREAM), fixture("thinking.sse"))
    pieces = [block for delta in deltas(chunks) for block in delta.get("thinking_blocks", ())]
    answer = {"role": "assistant", "content": joined(chunks, "content"), "thinking_blocks": pieces}

    body = sent({"messages": [{"role": "user", "content": "27 * 453?"}, answer, {"role": "user", "content": "Sure?"}]})

    assert body["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "27 * 453: 27 * 400 = 10800, 27 * 53 = 1431.",
        "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds",
    }


def test_redacted_thinking_is_handed_out_to_be_handed_back() -> None:
    chunks = decode(call(STREAM), fixture("redacted_thinking.sse"))

    blocks = [block for delta in deltas(chunks) for block in delta.get("thinking_blocks", ())]
    assert [block["type"] for block in blocks] == ["redacted_thinking"]
    assert joined(chunks, "content") == "I see."


def test_parallel_tools_count_from_zero_whatever_their_block_is() -> None:
    chunks = decode(call(STREAM), fixture("parallel_tools.sse"))

    assert tool_calls(chunks) == [
        {
            "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6",
            "name": "get_weather",
            "arguments": '{"location": "San Francisco, CA"}',
        },
        {"id": "toolu_01NRLabsLyVHZPKxbKvkfSMn", "name": "get_time", "arguments": "{}"},
    ]
    assert finish_reasons(chunks) == ["tool_calls"]


def test_a_tool_gets_its_own_name_back() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("get.weather", "get_weather")]
    renamed = fixture("parallel_tools.sse").replace(b'"get_weather"', b'"get_weather_2"')
    renamed = renamed.replace(b'"get_time"', b'"get_weather"')

    chunks = decode(call({**STREAM, "tools": tools}), renamed)

    assert [made["name"] for made in tool_calls(chunks)] == ["get_weather", "get.weather"]


def test_arguments_cut_by_the_token_limit_stay_cut() -> None:
    chunks = decode(call(STREAM), fixture("tool_cut_by_max_tokens.sse"))

    assert tool_calls(chunks)[0]["arguments"] == '{"path": "a.txt", "content": "Once upon'
    assert finish_reasons(chunks) == ["length"]


def test_a_search_shows_its_call_its_results_and_its_citations() -> None:
    chunks = decode(call(STREAM), fixture("web_search.sse"))

    assert tool_calls(chunks)[0]["arguments"] == '{"query": "weather NYC today"}'
    fields = [delta["provider_specific_fields"] for delta in deltas(chunks) if "provider_specific_fields" in delta]
    assert fields[0]["web_search_results"][0]["content"][0]["url"] == "https://example.com/nyc"
    assert fields[1]["citation"]["cited_text"] == "Sunny, 24 C"
    assert finish_reasons(chunks) == ["stop"]
    assert orjson.loads(chunks[-1].data)["usage"]["server_tool_use"]["web_search_requests"] == 1
    assert chunks[-1].usage == Usage(input=10_682, output=510)


def test_a_refusal_is_a_content_filter_with_the_vendors_words() -> None:
    chunks = decode(call(STREAM), fixture("refusal.sse"))

    assert finish_reasons(chunks) == ["content_filter"]
    assert joined(chunks, "refusal") == "This could enable biological harm."
    assert deltas(chunks)[-1]["provider_specific_fields"]["native_finish_reason"] == "refusal"


def test_the_stop_sequence_that_matched_is_named() -> None:
    chunks = decode(call(STREAM), fixture("stop_sequence.sse"))

    assert finish_reasons(chunks) == ["stop"]
    assert deltas(chunks)[-1]["provider_specific_fields"]["stop_sequence"] == ", 4"


@pytest.mark.parametrize("name", ["json_tool.sse", "json_tool_after_text.sse", "json_without_tool.sse"])
def test_structured_output_by_tool_reads_as_content(name: str) -> None:
    made = call({**STREAM, "response_format": SCHEMA}, model="claude-3-7-sonnet-20250219")

    chunks = decode(made, fixture(name))

    assert orjson.loads(joined(chunks, "content")) == {"city": "Wien"}
    assert tool_calls(chunks) == []
    assert finish_reasons(chunks) == ["stop"]


@pytest.mark.parametrize("name", ["error_first.sse", "error_after_ping.sse", "error_midstream.sse"])
def test_an_overloaded_event_is_an_overload(name: str) -> None:
    with pytest.raises(UpstreamOverloaded) as caught:
        decode(call(STREAM), fixture(name))

    assert (caught.value.status, caught.value.retryable) == (529, True)


@pytest.mark.parametrize("name", ["error_first.sse", "error_after_ping.sse"])
def test_nothing_is_committed_before_an_early_error(name: str) -> None:
    seen: list[Chunk] = []
    decoder = ANTHROPIC.decoder(call(STREAM))

    with pytest.raises(UpstreamOverloaded):
        for event in SseDecoder().feed(fixture(name)):
            seen += decoder.feed(event)

    assert not any(chunk.content or chunk.finish for chunk in seen)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}', UpstreamRateLimited),
        (b'{"type":"error","error":{"type":"an_error_of_tomorrow"}}', UpstreamServerError),
        (b'{"type":"error"}', UpstreamServerError),
        (b"<html>502</html>", UpstreamBroken),
    ],
)
def test_error_events_have_a_class(data: bytes, kind: type[UpstreamError]) -> None:
    decoder = ANTHROPIC.decoder(call(STREAM))

    with pytest.raises(kind):
        list(decoder.feed(ServerSentEvent("error", data)))


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_cut_before_its_finish_is_broken(name: str) -> None:
    cut = fixture(name)[: fixture(name).index(b"event: message_delta")]

    with pytest.raises(UpstreamBroken):
        decode(call(STREAM), cut)


def test_an_empty_stream_is_broken() -> None:
    with pytest.raises(UpstreamBroken):
        decode(call(STREAM), b"")


@pytest.mark.parametrize("name", WHOLE)
def test_a_finish_without_message_stop_is_complete(name: str) -> None:
    cut = fixture(name)[: fixture(name).index(b"event: message_stop")]

    assert decode(call(STREAM), cut) == decode(call(STREAM), fixture(name))


def test_done_is_the_message_stop() -> None:
    decoder = ANTHROPIC.decoder(call(STREAM))
    done = []

    for event in SseDecoder().feed(fixture("text.sse")):
        list(decoder.feed(event))
        done.append(decoder.done)

    assert done == [False] * (len(done) - 1) + [True]
    assert list(decoder.close()) == []


def test_what_follows_the_finish_is_dropped() -> None:
    events = SseDecoder().feed(fixture("text.sse"))
    delta = next(event for event in events if b"text_delta" in event.data)
    finish = events[-2]
    decoder = ANTHROPIC.decoder(call(STREAM))

    chunks = [chunk for event in [*events[:-1], delta, finish, events[-1]] for chunk in decoder.feed(event)]

    assert joined(chunks, "content") == "Grüße aus Wien 🎡"
    assert finish_reasons(chunks) == ["stop"]


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"type":"ping"}',
        b'{"type":"brand_new_event"}',
        b'{"type":"content_block_delta"}',
        b'{"type":"content_block_delta","delta":{"type":"new"}}',
        b'{"type":"content_block_start","content_block":7}',
    ],
)
def test_odd_events_are_skipped_when_the_stream_ends_well(odd: bytes) -> None:
    events = SseDecoder().feed(fixture("text.sse"))
    decoder = ANTHROPIC.decoder(call(STREAM))

    chunks = [chunk for event in events for each in (event, ServerSentEvent("x", odd)) for chunk in decoder.feed(each)]

    assert joined(chunks, "content") == "Grüße aus Wien 🎡"
    assert finish_reasons(chunks) == ["stop"]


@settings(deadline=None, max_examples=60)  # two busy cores
@given(name=st.sampled_from(WHOLE), sizes=st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_a_stream_reads_the_same_however_its_bytes_are_cut(name: str, sizes: list[int]) -> None:
    whole = decode(call(STREAM), fixture(name))

    assert decode(call(STREAM), fixture(name), sizes) == whole
