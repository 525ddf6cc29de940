"""Events of a job: numbered, small, and the same bytes on every backend."""

import struct
from enum import IntEnum
from typing import Any, Self

import orjson

from shared.values import value


class Kind(IntEnum):
    STARTED = 1  # an attempt is about to go upstream; meta: attempt, deployment, provider
    CHUNK = 2  # data: complete SSE frames, ready to write; the first one carries meta (see below)
    COMPLETED = 3  # meta: usage, cost, timings; data: the JSON answer, empty for a stream
    FAILED = 4  # meta: AppError.to_wire() under "error", and what is known of the attempt
    ACCEPTED = 5  # meta: key, stream, deadline: whose job it is, for who asks another api process about it


@value(frozen=True, slots=True)
class Event:
    """`job_id | seq | kind | meta | data`. Numbers start at 1 and have no gap; STARTED and ACCEPTED events carry 0.

    A STARTED event is a note for the next worker, should this one die, and an ACCEPTED event one for other api
    processes: they are logged and never delivered to followers.
    """

    job_id: str
    seq: int
    kind: Kind
    data: bytes = b""
    meta: Any = None
    """A JSON object; what goes in may be a dataclass, what comes out is a dict."""

    @property
    def last(self) -> bool:
        return self.kind is Kind.COMPLETED or self.kind is Kind.FAILED

    def to_wire(self) -> bytes:
        meta = b"" if self.meta is None else orjson.dumps(self.meta)
        job_id = self.job_id.encode()
        return _HEAD.pack(self.kind, len(job_id), self.seq, len(meta)) + job_id + meta + self.data

    @classmethod
    def from_wire(cls, wire: bytes) -> Self:
        kind, id_length, seq, meta_length = _HEAD.unpack_from(wire)
        meta_at = _HEAD.size + id_length
        data_at = meta_at + meta_length
        return cls(
            job_id=wire[_HEAD.size : meta_at].decode(),
            seq=seq,
            kind=_KINDS[kind],
            data=wire[data_at:],
            meta=orjson.loads(wire[meta_at:data_at]) if meta_length else None,
        )


_KINDS = {kind.value: kind for kind in Kind}
_HEAD = struct.Struct("!BBII")  # kind, length of the job id, sequence, length of the meta
