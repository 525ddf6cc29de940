"""Forms as they arrive: cut anywhere, in any order, and wrong in every way."""

from collections.abc import AsyncIterator

import pytest

from api import multipart
from api.multipart import Field, FileStart, Piece
from shared.errors import InvalidRequest

TYPE = "multipart/form-data; boundary=frontier"
FORM = (
    b'--frontier\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
    b'{"a": "--frontier"}\r\n--frontie\r\n\r\n'
    b"\r\n--frontier--\r\n"
)


async def read(body: bytes, size: int = 1 << 16, content_type: str = TYPE) -> list[Piece]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    pieces: list[Piece] = []
    async for piece in multipart.read(content_type, chunks()):
        if isinstance(piece, bytes) and pieces and isinstance(pieces[-1], bytes):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 64, 1 << 16])
async def test_a_form_is_the_same_wherever_the_network_cuts_it(size: int) -> None:
    pieces = await read(FORM, size)

    assert pieces == [
        Field("purpose", "batch"),
        FileStart("file", "lines.jsonl"),
        b'{"a": "--frontier"}\r\n--frontie\r\n\r\n',
    ]


@pytest.mark.parametrize("cut", [0, 1, 40, 100, 200, len(FORM) - 12, len(FORM) - 5])
async def test_a_form_that_stops_anywhere_is_told_from_a_whole_one(cut: int) -> None:
    with pytest.raises(InvalidRequest, match="cut off"):
        await read(FORM[:cut])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\files\\lines.jsonl", "lines.jsonl"),
        ("l\x1b[2J\x00.jsonl", "l[2J.jsonl"),
        ("zeilen-ä.jsonl", "zeilen-ä.jsonl"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
    ],
)
async def test_a_file_keeps_its_plain_name_only(given: str, kept: str) -> None:
    pieces = await read(FORM.replace(b"lines.jsonl", given.encode()))

    assert pieces[1] == FileStart("file", kept)


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("application/json", "multipart/form-data"),
        ("multipart/form-data", "boundary"),
        ("multipart/form-data; boundary=", "boundary"),
        (f"multipart/form-data; boundary={'x' * 71}", "70 characters"),
        ("", "multipart/form-data"),
    ],
)
async def test_what_is_no_form_is_refused(content_type: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await read(FORM, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not a form at all", "not a valid multipart form"),
        (b"--frontier\r\nno header\r\n\r\n", "not a valid multipart form"),
        (b"".join(b'--frontier\r\nContent-Disposition: form-data; name="f"\r\n\r\n\r\n' for _ in range(65)), "64"),
        (b'--frontier\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + b"x" * 70_000, "too long"),
        (b"--frontier\r\nX: " + b"x" * 70_000, "not a valid multipart form"),
    ],
)
async def test_a_form_that_would_fill_the_memory_or_makes_no_sense_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await read(body)
