"""A batch of outcomes as one message."""

from collections.abc import Sequence

import orjson

from shared.jobs import Outcome


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    return b"[" + b",".join(outcome.to_wire() for outcome in outcomes) + b"]"


def decode_outcomes(wire: bytes) -> list[Outcome]:
    return [Outcome.from_wire(fields) for fields in orjson.loads(wire)]
