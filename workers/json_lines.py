"""A file of JSON lines, cut into lines as it streams by, in bounded memory. Pure."""

from collections.abc import Iterator

from shared.values import value

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@value(frozen=True, slots=True)
class Line:
    number: int
    """From 1, empty lines included."""
    end: int
    """The file's offset behind the line and its line feed."""
    text: bytes | None
    """Without the line feed and white space around it; None when the line is longer than what fits into memory."""


class LineCutter:
    """Cuts what it is fed. Line feeds end lines, with or without a carriage return before; the last line needs none. A
    byte-order mark at the file's beginning is left out."""

    def __init__(self, longest: int, *, number: int = 0, offset: int = 0) -> None:
        """Lines over `longest` bytes are skipped. `number` lines and `offset` bytes of the file are behind us."""
        self._longest = longest
        self._number = number
        self._offset = offset
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that end in `data`. Read them all before the next call."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._add(piece)
            yield self._cut(line_feed=1)
        self._add(rest)

    def close(self) -> Line | None:
        """The last line, if the file does not end with a line feed."""
        return self._cut(line_feed=0) if self._size else None

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._longest:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _cut(self, line_feed: int) -> Line:
        text = b"".join(self._pieces) if self._size <= self._longest else None
        if text is not None and self._offset == 0:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        self._number += 1
        self._offset += self._size + line_feed
        self._pieces = []
        self._size = 0
        return Line(self._number, self._offset, None if text is None else text.strip())
