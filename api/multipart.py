"""A multipart form, read as it arrives: fields whole, the content of files in pieces, nothing kept.

RFC 7578. The parser is python-multipart's; spooling, which its and Starlette's form readers do, is left out.
"""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from shared.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_PARTS = 64
_LONGEST_FIELD = 64 * 1024  # bytes
_LONGEST_FILENAME = 255  # characters


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file begins: the `bytes` that follow are its content."""

    name: str
    filename: str


Piece = Field | FileStart | bytes


async def read(content_type: str, body: AsyncIterable[bytes]) -> AsyncIterator[Piece]:
    """The form's pieces in the order in which they arrive. A piece is never longer than the part of the body it came
    in.

    Raises `InvalidRequest` for what is no form, for a form that ends before its closing boundary, and for one with
    over 64 parts or a field over 64 KiB.
    """
    form = _Form()
    parser = MultipartParser(_boundary(content_type), form.callbacks())
    async for chunk in body:
        try:
            parser.write(chunk)
        except FormParserError as exc:
            raise InvalidRequest(f"The request is not a valid multipart form: {exc}") from exc
        pieces, form.pieces = form.pieces, []
        for piece in pieces:
            yield piece
    if not form.ended:
        raise InvalidRequest("The upload was cut off: the form ends before its closing boundary. Send it again.")


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("Expected a multipart/form-data request with a boundary: send the file as a form.")
    if len(boundary) > 70:  # RFC 2046, section 5.1.1
        raise InvalidRequest("The form's boundary is longer than 70 characters.")
    return boundary


class _Form:
    """What the parser's callbacks have gathered since somebody looked."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.ended = False
        self._parts = 0
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._field: str | None = None
        self._content = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequest(f"The form has too many parts: at most {_MOST_PARTS}.")
        self._disposition = b""
        self._content.clear()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            self._field = None
            self.pieces.append(FileStart(name, _plain(options[b"filename"].decode("utf-8", "replace"))))
        else:
            self._field = name

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.pieces.append(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > _LONGEST_FIELD:
            raise InvalidRequest(
                f"The form's field {self._field[:50]!r} is too long: at most {_LONGEST_FIELD} bytes.",
                param=self._field[:50],
            )

    def _end_part(self) -> None:
        if self._field is not None:
            self.pieces.append(Field(self._field, self._content.decode("utf-8", "replace")))

    def _end(self) -> None:
        self.ended = True


def _plain(filename: str) -> str:
    """The last part of a path, without control characters, which PostgreSQL and terminals do not take well."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[-_LONGEST_FILENAME:]
