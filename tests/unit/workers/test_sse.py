"""SSE as the standard has it, whatever the reads look like."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UpstreamBroken
from workers.providers.base import ServerSentEvent
from workers.sse import SseDecoder

_STREAM = (
    '\ufeff: welcome\n\ndata: {"a":"é€😀"}\n\n'
    "event: delta\r\ndata: one\r\ndata:two\r\nid: 7\r\nretry: 10\r\n\r\n\r\n\r\n"
    "data: x\ry: z\rdata\r\rdata:  two spaces\n\n: ping\n\nevent\ndata: [DONE]"
).encode()
_EVENTS = [
    ("message", '{"a":"é€😀"}'.encode()),
    ("delta", b"one\ntwo"),
    ("message", b"x\n"),
    ("message", b" two spaces"),
    ("message", b"[DONE]"),
]


def decode(reads: list[bytes], limit: int = 1024) -> list[tuple[str, bytes]]:
    decoder = SseDecoder(limit)
    events = [event for read in reads for event in decoder.feed(read)]
    return [(event.event, event.data) for event in events + decoder.close()]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": comment\n\ndata: a\n:\n\n", [b"a"]),
        (b"id: 1\nretry: 5\nunknown: x\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\ndata\ndata:\n\n", [b"a\nb\n\n"]),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [b"a"]),
        (b"event: lonely\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"data: a\n\ndata: b\n", [b"a", b"b"]),
        (b"datas: a\n\n", []),
        (b"", []),
    ],
)
def test_every_legal_form_of_a_stream_is_read(stream: bytes, expected: list[bytes]) -> None:
    assert [data for _, data in decode([stream])] == expected


def test_an_event_has_the_name_the_stream_gives_it_and_only_that_event() -> None:
    events = decode([b"event: error\n", b"data: a\n\ndata: b\n\n"])

    assert events == [("error", b"a"), ("message", b"b")]


@given(st.lists(st.integers(0, len(_STREAM)), max_size=40))
def test_where_reads_are_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_STREAM)]

    assert decode([_STREAM[a:b] for a, b in pairwise(edges)]) == _EVENTS


def test_one_byte_a_read_makes_no_difference() -> None:
    assert decode([bytes([byte]) for byte in _STREAM]) == _EVENTS


_LINES = st.sampled_from([b"", b"data: a", b"data:b", b"data", b": c", b"event: e", b"event", b"id: 1", b"\xc3\xa9"])


@given(st.lists(st.tuples(_LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))), st.lists(st.integers(1, 9), max_size=20))
def test_the_fast_path_and_the_byte_by_byte_path_agree(lines: list[tuple[bytes, bytes]], sizes: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)
    reads, rest = [], stream
    for size in sizes:
        reads.append(rest[:size])
        rest = rest[size:]

    assert decode([*reads, rest]) == decode([bytes([byte]) for byte in stream])


def test_an_event_is_out_as_soon_as_its_blank_line_is_in() -> None:
    decoder = SseDecoder()

    assert decoder.feed(b"data: a\r\n\r") == [ServerSentEvent("message", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [ServerSentEvent("message", b"b")]


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param([b"data: " + b"x" * 101 + b"\n\n"], id="one line in one read"),
        pytest.param([b"data: "] + [b"x" * 10] * 11, id="a line that never ends"),
        pytest.param([b": "] + [b"x" * 10] * 11, id="a comment that never ends"),
        pytest.param([b"data: xxxx\n"] * 20, id="an event that never ends"),
        pytest.param([b"data\n"] * 200, id="a flood of empty lines"),
    ],
)
def test_an_event_over_the_limit_breaks_the_stream(reads: list[bytes]) -> None:
    with pytest.raises(UpstreamBroken, match="larger than 100 bytes"):
        decode(reads, limit=100)


@pytest.mark.parametrize("cut", [2, 40, 80])
def test_an_event_up_to_the_limit_passes_however_it_is_cut_and_after_many_others(cut: int) -> None:
    small, large = b": ping\ndata: a\n\n", b"data: " + b"x" * 90 + b"\n\n"

    events = decode([small] * 50 + [large[:cut], large[cut:], large], limit=100)

    assert [len(data) for _, data in events] == [1] * 50 + [90, 90]


def test_a_large_event_in_small_reads_costs_linear_time() -> None:
    reads = [b"data: ", *[b"x" * 512] * 16_384, b"\n\n"]
    began = time.perf_counter()

    events = decode(reads, limit=16 * 1024 * 1024)

    # Measured: 0.03 s. Copying or scanning what is already there on every read takes a minute.
    assert time.perf_counter() - began < 5
    assert len(events[0][1]) == 8 * 1024 * 1024
