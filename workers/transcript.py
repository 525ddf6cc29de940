"""The answer of a durable stream, for the store to keep."""

from collections.abc import Sequence

from shared.error_bodies import body_of
from shared.errors import AppError
from shared.events import Event, Kind

MAX_ANSWER_BYTES = 15 * 1024 * 1024
"""The largest answer that the store keeps. It travels there in one message, of which RabbitMQ 4 takes 16 MiB."""

_DONE = b"data: [DONE]\n\n"


class Transcript:
    """Server-sent events, without the numbers that a client's view of them has; `[DONE]` follows once the stream is
    complete. An end in failure is left out: the ending's `error` has it.

    What goes over `limit` bytes (`MAX_ANSWER_BYTES`) is not kept. Live followers still get it; the stored text then
    ends with an error in-band, and without `[DONE]`, so that nobody takes it for the whole.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = MAX_ANSWER_BYTES if limit is None else limit
        self._frames: list[bytes] = []
        self._size = 0
        self._cut = False

    @classmethod
    def of(cls, history: Sequence[Event]) -> "Transcript":
        """What a job's log tells of its stream."""
        transcript = cls()
        for event in history:
            if event.kind is Kind.CHUNK:
                transcript.add(event)
        return transcript

    def add(self, chunk: Event) -> None:
        frames = chunk.data
        self._cut = self._cut or self._size + len(frames) > self._limit
        if not self._cut:
            self._frames.append(frames)
            self._size += len(frames)

    def text(self, *, complete: bool) -> bytes:
        """`complete`: the provider's stream came to its end."""
        if self._cut:
            message = f"The rest of this answer was not kept: it is over {self._limit} bytes."
            return b"".join([*self._frames, b"data: %b\n\n" % body_of(AppError(message))])
        return b"".join([*self._frames, _DONE]) if complete else b"".join(self._frames)
