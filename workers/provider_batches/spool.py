"""What is uploaded: as many lines as a provider takes, on disk, because they are too much for memory."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_IN_MEMORY = 1024 * 1024  # bytes that do not need a file yet
_CHUNK = 256 * 1024  # bytes read at a time: well under a millisecond


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around lines and between them."""

    begin: bytes
    between: bytes
    end: bytes


JSON_LINES = Frame(b"", b"\n", b"\n")


class Spool:
    """Lines in a temporary file that is gone when this is closed."""

    def __init__(self, frame: Frame, limit: int) -> None:
        """At most `limit` bytes."""
        self._frame = frame
        self._limit = limit
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by `__exit__`
        self._file.write(frame.begin)
        self.lines = 0
        self.size = len(frame.begin) + len(frame.end)
        """Bytes, frame included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, line: bytes) -> bool:
        """False, and the line is left out, when it does not fit."""
        written = line if not self.lines else self._frame.between + line
        if self.size + len(written) > self._limit:
            return False
        self._file.write(written)
        self.lines += 1
        self.size += len(written)
        return True

    async def read(self, before: bytes = b"", after: bytes = b"") -> AsyncIterator[bytes]:
        """The content in pieces, with something around it."""
        yield before
        self._file.seek(0)
        while piece := self._file.read(_CHUNK):
            yield piece
        yield self._frame.end + after
