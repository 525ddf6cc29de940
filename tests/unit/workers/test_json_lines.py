"""Cutting a file into lines gives the same lines wherever its pieces end, and resumes where it stopped."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.json_lines import Line, LineCutter

LONGEST = 20


def cut(content: bytes, size: int = 7, *, number: int = 0, offset: int = 0) -> list[Line]:
    cutter = LineCutter(LONGEST, number=number, offset=offset)
    lines = [
        line for begin in range(offset, len(content), size) for line in list(cutter.feed(content[begin : begin + size]))
    ]
    last = cutter.close()
    return lines if last is None else [*lines, last]


def test_lines_are_numbered_and_know_where_they_end() -> None:
    assert cut(b'{"a":1}\n{"b":2}\n') == [Line(1, 8, b'{"a":1}'), Line(2, 16, b'{"b":2}')]


def test_the_last_line_needs_no_line_feed() -> None:
    assert cut(b"one\ntwo") == [Line(1, 4, b"one"), Line(2, 7, b"two")]


def test_carriage_returns_and_white_space_around_a_line_are_left_out() -> None:
    assert [line.text for line in cut(b"one\r\n  two \r\n")] == [b"one", b"two"]


def test_empty_lines_are_counted() -> None:
    assert cut(b"one\n\n\r\ntwo\n") == [Line(1, 4, b"one"), Line(2, 5, b""), Line(3, 7, b""), Line(4, 11, b"two")]


def test_a_byte_order_mark_is_left_out_at_the_beginning_only() -> None:
    mark = b"\xef\xbb\xbf"

    assert [line.text for line in cut(mark + b"one\n" + mark + b"two\n")] == [b"one", mark + b"two"]


def test_a_line_that_is_too_long_is_skipped_and_those_after_it_are_not() -> None:
    lines = cut(b"x" * 21 + b"\nshort\n" + b"y" * 20 + b"\n" + b"z" * 100)

    assert lines == [Line(1, 22, None), Line(2, 28, b"short"), Line(3, 49, b"y" * 20), Line(4, 149, None)]


def test_an_empty_file_has_no_lines() -> None:
    assert cut(b"") == []


@settings(deadline=None)  # another process may have the machine
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=12), st.integers(1, 50))
def test_lines_do_not_depend_on_the_pieces_that_the_file_comes_in(texts: list[bytes], size: int) -> None:
    content = b"\n".join(texts)

    assert cut(content, size) == cut(content, 10_000)


@settings(deadline=None)  # another process may have the machine
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=12), st.data())
def test_reading_on_from_a_line_gives_the_lines_after_it(texts: list[bytes], data: st.DataObject) -> None:
    content = b"".join(text + b"\n" for text in texts)
    lines = cut(content)
    here = data.draw(st.sampled_from(lines))

    assert lines[: here.number] + cut(content, number=here.number, offset=here.end) == lines
