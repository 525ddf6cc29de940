"""Outcomes and endings as messages on the outcomes queue.

[{...}, ...]                          outcomes alone: JSON, which every version reads
0x01 | size of the head, 4 bytes big-endian | head | answers
                                      head: {"outcomes": [{...}], "endings": [{..., "answer": size in bytes}]};
                                      the answers are raw bytes in the order of the endings, never escaped
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from shared.errors import RequestTooLarge
from shared.jobs import Ending, JobState, Outcome
from shared.values import value

MESSAGE_BYTES = 4 * 1024 * 1024
"""What is larger is split: a message is held whole by the server, and many at a time by the recorder. One ending alone
may exceed it."""

_FRAMED = b"\x01"
_HEAD = struct.Struct("!I")
_ENDING_META = tuple(name for name in Ending.__slots__ if name != "answer")


@value(frozen=True, slots=True)
class Recorded:
    """What one message carried."""

    outcomes: Sequence[Outcome]
    endings: Sequence[Ending]


@value(frozen=True, slots=True)
class _Piece:
    """An outcome or an ending, encoded."""

    head: bytes
    ending: bool
    answer: bytes = b""

    @property
    def size(self) -> int:
        return len(self.head) + len(self.answer)


def encode(outcomes: Sequence[Outcome], endings: Sequence[Ending], most: int) -> list[bytes]:
    """The messages that carry them, usually one. Raises `RequestTooLarge` for an ending that would need more than
    `most` bytes, naming its job."""
    pieces = [_Piece(outcome.to_wire(), ending=False) for outcome in outcomes]
    pieces += [_ending_piece(ending, most) for ending in endings]
    return [_message(group) for group in _groups(pieces)]


def decode(wire: bytes) -> Recorded:
    """Raises `ValueError`, `KeyError` or `TypeError` for what `encode` did not make."""
    if not wire.startswith(_FRAMED):
        return Recorded([Outcome.from_wire(fields) for fields in orjson.loads(wire)], ())
    try:
        (size,) = _HEAD.unpack_from(wire, len(_FRAMED))
    except struct.error as exc:
        raise ValueError(f"a framed message of {len(wire)} bytes has no head") from exc
    at = len(_FRAMED) + _HEAD.size + size
    head = orjson.loads(wire[at - size : at])
    endings = []
    for fields in head["endings"]:
        answer = wire[at : at + fields["answer"]]
        if len(answer) != fields["answer"]:
            raise ValueError(f"the answer of job {fields['job_id']} is cut off")
        at += len(answer)
        endings.append(_ending(fields, answer))
    return Recorded([Outcome.from_wire(fields) for fields in head["outcomes"]], endings)


def _ending_piece(ending: Ending, most: int) -> _Piece:
    meta = {name: getattr(ending, name) for name in _ENDING_META}
    meta["answer"] = len(ending.answer)
    piece = _Piece(orjson.dumps(meta), True, ending.answer)
    if piece.size + _ENVELOPE > most:
        raise RequestTooLarge(
            f"The answer of job {ending.job_id} has {len(ending.answer)} bytes; one message may carry {most}."
        )
    return piece


def _groups(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.size > MESSAGE_BYTES:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size
    if group or not pieces:
        yield group


def _message(group: Sequence[_Piece]) -> bytes:
    outcomes = b",".join([piece.head for piece in group if not piece.ending])
    endings = [piece for piece in group if piece.ending]
    if not endings:  # also what a recorder of an older version can read while an installation is upgraded
        return b"[" + outcomes + b"]"
    head = b'{"outcomes":[' + outcomes + b'],"endings":[' + b",".join([piece.head for piece in endings]) + b"]}"
    return b"".join([_FRAMED, _HEAD.pack(len(head)), head, *[piece.answer for piece in endings]])


_ENVELOPE = len(_message([_Piece(b"", ending=True)]))


def _ending(fields: dict[str, Any], answer: bytes) -> Ending:
    fields["answer"] = answer
    fields["state"] = JobState(fields["state"])
    try:
        return Ending(**fields)
    except TypeError:  # a newer version's message: what this one does not know is left out
        return Ending(**{name: value for name, value in fields.items() if name in Ending.__slots__})
