"""A streamed answer on the wire: numbered frames, comments while it waits, an end.

Every frame of a job has a number, from 1 on, in its line `id: <job id>:<number>`. An event of the job's log may bring
several frames, and a client may be cut off between any two of them, so it is the frames that are counted.
"""

from collections.abc import Iterator

from shared.error_bodies import body_of
from shared.errors import AppError, from_wire
from shared.events import Event, Kind

HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
# No blank line after it: OpenAI's client takes any blank line for the end of an event once it has seen an `id:`, and
# fails at the empty one.
KEEP_ALIVE = b": keep-alive\n"

_DONE = b"data: [DONE]"
_END = b"\n\n"  # of a frame


class Frames:
    """One client's view of a job: the frames after number `after`, which it has already."""

    __slots__ = ("_after", "_number", "_prefix")

    def __init__(self, job_id: str, after: int = 0) -> None:
        self._prefix = b"id: %b:" % job_id.encode()
        self._after = after
        self._number = 0

    def opening(self) -> bytes:
        """Tells the client which job it follows, and from where, before there is any event. No blank line after it, for
        the same reason as after a comment."""
        return b"%b%d\n" % (self._prefix, self._after)

    def of(self, event: Event) -> bytes:
        """The event's frames that the client has not; every event of the job passes here, in order, except notes."""
        if event.kind is Kind.CHUNK:
            data, number = event.data, self._number + 1
            if number > self._after and data.find(_END) == len(data) - 2:  # one frame: by far the most events
                self._number = number
                return b"%b%b%d\n\n" % (data[:-1], self._prefix, number)
            return b"".join([self._numbered(frame) for frame in frames_in(data)])
        if event.kind is Kind.FAILED:
            return self._numbered(b"data: " + body_of(from_wire(event.meta["error"])))
        return (self._numbered(_whole(event.data)) if event.data else b"") + _DONE + _END

    def _numbered(self, frame: bytes) -> bytes:
        self._number += 1
        if self._number <= self._after:
            return b""
        return b"%b\n%b%d\n\n" % (frame, self._prefix, self._number)


def frame_of(error: AppError) -> bytes:
    """An error that is not one of the job's events, and has no number."""
    return b"data: %b\n\n" % body_of(error)


def frames_in(data: bytes) -> Iterator[bytes]:
    """The frames that are whole, each without the blank line at its end."""
    begin = 0
    while (end := data.find(_END, begin)) >= 0:
        yield data[begin:end]
        begin = end + 2


def count(event: Event) -> int:
    """How many frames the event has."""
    if event.kind is Kind.CHUNK:
        return event.data.count(_END)
    if event.kind is Kind.COMPLETED:
        return 1 if event.data else 0
    return 1 if event.kind is Kind.FAILED else 0


def stored_chunks(answer: bytes) -> Iterator[bytes]:
    """The frames of a stream as the store keeps it, to be numbered: all but the `[DONE]`."""
    for frame in frames_in(answer):
        if frame != _DONE:
            yield frame + _END


def is_done(answer: bytes) -> bool:
    """Whether a stored stream came to its end."""
    return answer.endswith(_DONE + _END)


def _whole(answer: bytes) -> bytes:
    """A JSON answer as one frame: its line breaks, which only stand between tokens, would end the line."""
    return b"data: " + b" ".join(answer.splitlines())
