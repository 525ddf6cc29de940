"""Server-sent events from bytes, by the rules of https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import re

from shared.errors import UpstreamBroken
from workers.providers.base import ServerSentEvent

_DEFAULT_LIMIT = 16 * 1024 * 1024  # an image or a long tool argument in one event; nothing honest is larger

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseDecoder:
    """Bytes in as they arrive, events out as soon as they are complete.

    Works on bytes, so no read can cut a character. Lines may end in LF, CRLF or CR. `id:`, `retry:` and comments are
    ignored: a call upstream is never resumed. An event without data is no event.
    """

    def __init__(self, limit: int = _DEFAULT_LIMIT) -> None:
        """`limit` is the largest event, in bytes as they come over the wire."""
        self._limit = limit
        self._at_start = True  # where a byte order mark may stand
        self._after_cr = False  # a LF that comes next belongs to the CR that has already ended a line
        self._partial: list[bytes] = []  # pieces of the unfinished line, joined once, when it ends
        self._partial_size = 0
        self._name = b""
        self._data: list[bytes] = []
        self._data_size = 0

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that `data` completes. Raises `UpstreamBroken` when one is over the limit."""
        if self._at_start:
            data = self._without_bom(data)
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not self._partial and not self._data and data.endswith(b"\n\n") and b"\r" not in data:
            return self._whole_events(data)
        return self._any_lines(data)

    def close(self) -> list[ServerSentEvent]:
        """The connection ended: the last event, if its blank line is missing.

        The standard drops such an event. Vendors are known to omit the line, and whether the answer is whole is for
        its dialect to say.
        """
        events: list[ServerSentEvent] = []
        self._take(self._end_of_line(b""), events)
        self._dispatch(events)
        return events

    def _whole_events(self, data: bytes) -> list[ServerSentEvent]:
        """The usual read: one or more whole events of one line each, nothing pending. Twice as fast as line by line."""
        events: list[ServerSentEvent] = []
        for block in data[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._limit and not self._name:
                events.append(ServerSentEvent("message", block[6:]))
            else:
                for line in block.split(b"\n"):
                    self._take(line, events)
                self._dispatch(events)
        return events

    def _any_lines(self, data: bytes) -> list[ServerSentEvent]:
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            lines = _LINE_END.split(data)
        else:
            lines = data.split(b"\n")
        unfinished = lines.pop()
        events: list[ServerSentEvent] = []
        for line in lines:
            self._take(self._end_of_line(line) if self._partial else line, events)
        if unfinished:
            self._partial.append(unfinished)
            self._partial_size += len(unfinished)
            self._check_size()
        return events

    def _without_bom(self, data: bytes) -> bytes:
        data = self._end_of_line(data)
        self._at_start = len(data) < len(_BOM) and _BOM.startswith(data)
        return data.removeprefix(_BOM)

    def _end_of_line(self, piece: bytes) -> bytes:
        self._partial.append(piece)
        line = b"".join(self._partial)
        self._partial.clear()
        self._partial_size = 0
        return line

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if not line:
            self._dispatch(events)
        elif line.startswith(b"data:"):
            self._append(line[5:].removeprefix(b" "))
        elif line == b"data":
            self._append(b"")
        elif line.startswith(b"event:"):
            self._name = line[6:].removeprefix(b" ")
        elif line == b"event":
            self._name = b""

    def _append(self, value: bytes) -> None:
        self._data.append(value)
        self._data_size += len(value) + len(b"data:\n")  # empty lines count too, or a flood of them has no bound
        self._check_size()

    def _check_size(self) -> None:
        if self._data_size + self._partial_size > self._limit:
            raise UpstreamBroken(f"an event of the stream is larger than {self._limit} bytes")

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            name = self._name.decode(errors="replace") or "message"
            events.append(ServerSentEvent(name, b"\n".join(self._data)))
            self._data.clear()
            self._data_size = 0
        self._name = b""
