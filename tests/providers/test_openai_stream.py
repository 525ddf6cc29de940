"""OpenAI's streams: whole, odd and broken. Fault numbers are those of the fault catalogue."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import errors
from shared.jobs import Usage
from tests.providers.openai_wire import FIXTURES, call, chunk, events, read
from workers.providers.base import ServerSentEvent
from workers.providers.openai_stream import ChunkDecoder

_STREAM = (FIXTURES / "openai" / "stream.sse").read_bytes()
_TOOLS = (FIXTURES / "openai" / "stream_tools.sse").read_bytes()
_TEXT = 'Café 東京 👩‍🚀 "quoted"\n end.'
_USAGE = Usage(input=15, cache_read=4, output=10, reasoning=3)

_ROLE = chunk({"role": "assistant", "content": ""})
_HELLO = chunk({"content": "Hello"})
_STOP = chunk({}, "stop")
_COUNTS = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
_COUNTED = chunk({}) | {"choices": [], "usage": _COUNTS}


def tool(index: Any = None, call_id: Any = None, name: str | None = None, arguments: Any = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": call_id, "function": function}
    return chunk({"tool_calls": [{key: value for key, value in fields.items() if value is not None}]})


class TestWholeStreams:
    def test_chunks_pass_as_the_bytes_they_are_and_the_usage_chunk_is_stripped(self) -> None:
        stream = read(call(stream=True), _STREAM)

        sent = [line.removeprefix(b"data: ") for line in _STREAM.split(b"\n\n")]
        assert stream.raw == sent[:7]
        assert stream.text() == _TEXT
        assert stream.finishes() == [(0, "stop")]
        assert stream.usage == _USAGE

    def test_a_client_that_asks_for_usage_gets_one_usage_chunk_last(self) -> None:
        stream = read(call(stream=True, stream_options={"include_usage": True}), _STREAM)

        assert [index for index, each in enumerate(stream.chunks) if not each["choices"]] == [len(stream.chunks) - 1]
        assert stream.chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
        assert {each["id"] for each in stream.chunks} == {"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG"}

    @given(st.lists(st.integers(0, len(_STREAM)), max_size=30))
    def test_where_reads_are_cut_makes_no_difference(self, cuts: list[int]) -> None:
        assert read(call(stream=True), _STREAM, cuts).raw == read(call(stream=True), _STREAM).raw

    @given(st.lists(st.integers(0, len(_TOOLS)), max_size=30))
    def test_where_reads_are_cut_makes_no_difference_to_tool_calls(self, cuts: list[int]) -> None:
        assert read(call(stream=True), _TOOLS, cuts).tool_calls() == {
            0: ("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", '{"city":"Zürich"}'),
            1: ("call_h2k9pD3xa9XTPNJ32zg2hcA1", "get_time", "{}"),
        }

    @pytest.mark.parametrize("ending", [b"\r\n", b"\r"])
    def test_line_endings_make_no_difference(self, ending: bytes) -> None:
        assert read(call(stream=True), _STREAM.replace(b"\n", ending)).text() == _TEXT

    def test_content_is_what_the_client_waits_for_and_nothing_else_is(self) -> None:
        notes = read(call(stream=True), _STREAM).notes

        assert [(each.content, each.finish, each.text) for each in notes] == [
            (False, False, 0),
            (True, False, 4),
            (True, False, 3),
            (True, False, 4),
            (True, False, 10),
            (True, False, 5),
            (False, True, 0),
            (False, False, 0),
        ]

    @pytest.mark.parametrize(
        "delta",
        [
            {"content": "x"},
            {"refusal": "x"},
            {"reasoning_content": "x"},
            {"reasoning": "x"},
            {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
            {"function_call": {"name": "f"}},
            {"audio": {"id": "a"}},
            {"content": "x", "extra": 1},
        ],
    )
    def test_every_kind_of_output_is_content(self, delta: dict[str, Any]) -> None:
        notes = read(call(stream=True), events(_ROLE, chunk(delta), _STOP)).notes

        assert [each.content for each in notes] == [False, True, False]

    def test_azures_prompt_filter_chunk_is_dropped_and_its_empty_name_not_taken(self) -> None:
        stream = read(call(stream=True), (FIXTURES / "openai" / "stream_azure.sse").read_bytes())

        assert stream.text() == "Café end."
        assert {each["model"] for each in stream.chunks} == {"gpt-4o-2024-08-06"}

    def test_every_choice_has_its_own_finish_and_the_last_one_says_so(self) -> None:
        stream = read(call(stream=True, n=2), (FIXTURES / "openai" / "stream_two_choices.sse").read_bytes())

        assert (stream.text(index=0), stream.text(index=1)) == ("A", "Bb")
        assert stream.finishes() == [(0, "stop"), (1, "stop")]
        assert [each.finish for each in stream.notes if each.data] == [False] * 6 + [True]

    def test_done_is_seen_and_nothing_after_it_is_of_interest(self) -> None:
        decoder = ChunkDecoder(call(stream=True))
        for data in (orjson.dumps(_HELLO), orjson.dumps(_STOP), b"[DONE]"):
            list(decoder.feed(ServerSentEvent("message", data)))

        assert decoder.done
        assert list(decoder.feed(ServerSentEvent("message", b'{"error":{"message":"late"}}'))) == []
        assert list(decoder.close()) == []


class TestOddStreams:
    def test_f11_a_second_finish_and_content_after_the_finish_are_dropped(self) -> None:
        stream = read(call(stream=True), events(_ROLE, _HELLO, _STOP, _STOP, chunk({"content": "!"}), _COUNTED))

        assert stream.text() == "Hello"
        assert stream.finishes() == [(0, "stop")]
        assert stream.usage == Usage(input=9, output=2)

    def test_f11_a_finish_without_delta_is_tolerated_and_its_usage_kept(self) -> None:
        stream = read(call(stream=True), events(_ROLE, _HELLO, chunk(None, "stop", usage=_COUNTS)))

        assert stream.finishes() == [(0, "stop")]
        assert stream.usage == Usage(input=9, output=2)

    def test_f11_a_repeated_role_is_taken_out(self) -> None:
        stream = read(call(stream=True), events(*[chunk({"role": "assistant", "content": "a"})] * 3, _STOP))

        assert [each["choices"][0]["delta"].get("role") for each in stream.chunks] == ["assistant", None, None, None]

    def test_f11_a_second_choice_without_finish_is_not_complete(self) -> None:
        with pytest.raises(errors.UpstreamBroken):
            read(call(stream=True, n=2), events(_HELLO, chunk({"content": "x"}, index=1), _STOP))

    def test_f12_no_usage_is_no_usage(self) -> None:
        stream = read(call(stream=True, stream_options={"include_usage": True}), events(_HELLO, _STOP))

        assert stream.usage is None
        assert len(stream.chunks) == 2

    def test_f12_running_totals_are_not_added_up_and_reach_the_client_once(self) -> None:
        totals = [{**_COUNTS, "completion_tokens": n} for n in (1, 2, 3)]
        chunks = [chunk({"content": "x"}, usage=each) for each in totals]

        stream = read(
            call(stream=True, stream_options={"include_usage": True}), events(*chunks, chunk({}, "stop", usage=None))
        )

        assert stream.usage == Usage(input=9, output=3)
        assert [each.get("usage") for each in stream.chunks] == [None, None, None, None, totals[-1]]

    def test_f13_unclosed_arguments_keep_their_finish_and_get_no_brace(self) -> None:
        parts = [tool(0, "c1", "f", ""), tool(0, arguments='{"a":'), chunk({}, "length")]

        stream = read(call(stream=True), events(*parts))

        assert stream.tool_calls() == {0: ("c1", "f", '{"a":')}
        assert stream.finishes() == [(0, "length")]

    @pytest.mark.parametrize(
        ("parts", "calls"),
        [
            pytest.param(
                [tool(0, "c1", "f", "1"), tool(0, "c2", "g", "2")],
                {0: ("c1", "f", "1"), 1: ("c2", "g", "2")},
                id="same",
            ),
            pytest.param(
                [tool(1, "c1", "f", "1"), tool(2, "c2", "g", "2"), tool(1, arguments="+")],
                {0: ("c1", "f", "1+"), 1: ("c2", "g", "2")},
                id="counted from one",
            ),
            pytest.param(
                [tool(None, "c1", "f", "1"), tool(arguments="+"), tool(None, "c2", "g", "2")],
                {0: ("c1", "f", "1+"), 1: ("c2", "g", "2")},
                id="no index",
            ),
            pytest.param([tool(0, "c1", "f", "1"), tool(0, "c1", "f", "2")], {0: ("c1", "f", "12")}, id="id repeated"),
            pytest.param([tool(0, "c1", "f", "1"), tool(0, "zz", None, "2")], {0: ("c1", "f", "12")}, id="new id only"),
            pytest.param([tool(0, arguments="1"), tool(0, arguments="2")], {0: ("", "", "12")}, id="nameless"),
            pytest.param([tool(0, "c1", "f", {"a": 1})], {0: ("c1", "f", '{"a":1}')}, id="object for arguments"),
        ],
    )
    def test_f13_tool_calls_keep_one_index_each(self, parts: list[dict[str, Any]], calls: Any) -> None:
        assert read(call(stream=True), events(*parts, chunk({}, "tool_calls"))).tool_calls() == calls

    @pytest.mark.parametrize("bad", [b'{"choices":[{"delta":{"content":"He', b"{} {}", b"nonsense", b"[1]", b"null"])
    def test_s10_a_malformed_event_is_skipped_if_the_stream_ends_well(self, bad: bytes) -> None:
        assert read(call(stream=True), events(_ROLE, bad, _HELLO, _STOP)).text() == "Hello"

    def test_s10_a_malformed_finish_leaves_the_answer_incomplete(self) -> None:
        with pytest.raises(errors.UpstreamBroken):
            read(call(stream=True), events(_HELLO, orjson.dumps(_STOP)[:-5]))

    @pytest.mark.parametrize("half", [b"\xe2\x82", rb"\ud83d"])
    def test_f05_half_a_character_is_replaced_and_the_rest_of_the_event_kept(self, half: bytes) -> None:
        text = read(call(stream=True), events(orjson.dumps(_HELLO).replace(b"llo", b"l" + half), _STOP)).text()

        assert text in ("Hel�", "Hel?")

    def test_identity_is_that_of_the_first_chunk_on_every_chunk(self) -> None:
        first, second = (
            chunk({"content": "a"}),
            chunk({"content": "b"}, id="other", created=5, model="else", object="x"),
        )

        stream = read(call(stream=True), events(first, second, _STOP))

        assert {(each["id"], each["created"], each["model"]) for each in stream.chunks} == {
            ("chatcmpl-1", 1_741_570_283, "gpt-4o")
        }

    def test_a_stream_without_identity_gets_the_calls_own(self) -> None:
        stream = read(call(stream=True), events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}))

        assert (stream.chunks[0]["id"], stream.chunks[0]["model"]) == ("chatcmpl-own", "gpt-4o")

    def test_a_vendors_finish_reason_becomes_openais(self) -> None:
        assert read(call(stream=True), events(_HELLO, chunk({}, "eos"))).finishes() == [(0, "stop")]


class TestEndings:
    def test_s11_a_finish_without_done_is_complete(self) -> None:
        assert read(call(stream=True), events(_HELLO, _STOP, done=False)).text() == "Hello"

    @pytest.mark.parametrize(
        "wire",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"data: [DONE]\n\n", id="only done"),
            pytest.param(b"<html>log in</html>", id="html"),
            pytest.param(b": ping\n\n: ping\n\n", id="only comments"),
            pytest.param(events(_ROLE, _HELLO, done=False), id="cut"),
            pytest.param(events(_ROLE, _HELLO), id="done without finish"),
            pytest.param(events(_ROLE, _HELLO, _COUNTED), id="usage without finish"),
        ],
    )
    def test_f20_a_stream_without_finish_is_broken(self, wire: bytes) -> None:
        with pytest.raises(errors.UpstreamBroken):
            read(call(stream=True), wire)

    @pytest.mark.parametrize("before", [[], [_ROLE], [_ROLE, _HELLO]])
    def test_f14_an_error_object_is_raised_wherever_it_stands(self, before: list[dict[str, Any]]) -> None:
        error = {"error": {"message": "Overloaded", "type": "overloaded_error"}}

        with pytest.raises(errors.UpstreamOverloaded, match="Overloaded"):
            read(call(stream=True), events(*before, error, _STOP))

    def test_f14_an_error_beside_choices_is_an_error(self) -> None:
        openrouter = chunk({"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"})

        with pytest.raises(errors.UpstreamServerError, match="Provider disconnected"):
            read(call(stream=True), events(_HELLO, openrouter))

    def test_f14_an_event_named_error_is_an_error(self) -> None:
        with pytest.raises(errors.UpstreamServerError, match="went wrong"):
            read(call(stream=True), b'event: error\ndata: {"message":"went wrong"}\n\n')

    def test_a_finish_that_says_the_vendor_failed_is_an_error(self) -> None:
        with pytest.raises(errors.UpstreamOverloaded):
            read(call(stream=True), events(_HELLO, chunk({}, "insufficient_system_resource")))


def test_f08_a_giant_event_is_an_error_and_one_below_the_limit_passes() -> None:
    text = "x" * 1_000_000

    assert read(call(stream=True), events(chunk({"content": text}), _STOP)).text() == text
