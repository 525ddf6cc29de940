"""AMQP 0-9-1 frames of the hot path, packed by hand.

pamqp packs any method and any table, and takes ten times as long for these three. The tests check that pamqp reads
back what is written here. Section numbers are those of the AMQP 0-9-1 specification.
"""

import struct

from shared.values import value

_METHOD, _HEADER, _BODY = 1, 2, 3  # frame types, 4.2.3
_END = b"\xce"
_BASIC = 60

_FRAME = struct.Struct("!BHI")  # type, channel, payload size
_ACK = struct.Struct("!HHQB")  # class, method, delivery tag, multiple
_NACK = _ACK  # the last octet packs multiple and requeue as bits 0 and 1
_CONTENT = struct.Struct("!HHQH")  # class, weight, body size, property flags
_FRAME_OVERHEAD = 8  # bytes around a payload

# Properties in the order in which they are written, 4.2.6.1: the first has the highest bit.
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _PRIORITY, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP, _TYPE = (
    1 << bit for bit in (15, 13, 12, 11, 8, 7, 6, 5)
)
_ALWAYS = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TIMESTAMP | _TYPE

_JSON = b"\x10application/json"


@value(frozen=True, slots=True)
class Message:
    """What one Basic.Publish carries. Headers are strings; a job has one, a dead job two."""

    exchange: str
    routing_key: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    message_id: str
    type: str
    timestamp: float
    """Seconds since the epoch; AMQP keeps whole ones."""
    persistent: bool
    expiration_ms: int | None = None
    priority: int | None = None


def publish(message: Message, channel: int, frame_max: int) -> bytes:
    """Basic.Publish with the mandatory flag, content header and body."""
    parts = [
        _frame(_METHOD, channel, _publish_method(message)),
        _frame(_HEADER, channel, _content_header(message)),
    ]
    size = frame_max - _FRAME_OVERHEAD
    for start in range(0, len(message.body), size):
        parts.append(_frame(_BODY, channel, message.body[start : start + size]))
    return b"".join(parts)


def ack(delivery_tag: int, channel: int) -> bytes:
    return _frame(_METHOD, channel, _ACK.pack(_BASIC, 80, delivery_tag, 0))


def requeue(delivery_tag: int, channel: int) -> bytes:
    """Basic.Nack with requeue."""
    return _frame(_METHOD, channel, _NACK.pack(_BASIC, 120, delivery_tag, 2))


def _publish_method(message: Message) -> bytes:
    return b"".join(
        (
            b"\x00\x3c\x00\x28\x00\x00",  # class 60, method 40, reserved
            _short(message.exchange),
            _short(message.routing_key),
            b"\x01",  # mandatory
        )
    )


def _content_header(message: Message) -> bytes:
    table = b"".join(
        _short_bytes(name) + b"S" + struct.pack("!I", len(value)) + value for name, value in message.headers
    )
    flags, priority, expiration = _ALWAYS, b"", b""
    if message.priority is not None:
        flags |= _PRIORITY
        priority = bytes((message.priority,))
    if message.expiration_ms is not None:
        flags |= _EXPIRATION
        expiration = _short(str(message.expiration_ms))
    return b"".join(
        (
            _CONTENT.pack(_BASIC, 0, len(message.body), flags),
            _JSON,
            struct.pack("!I", len(table)),
            table,
            b"\x02" if message.persistent else b"\x01",
            priority,
            expiration,
            _short(message.message_id),
            struct.pack("!Q", int(message.timestamp)),
            _short(message.type),
        )
    )


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    return _short_bytes(text.encode())


def _short_bytes(text: bytes) -> bytes:
    return bytes((len(text),)) + text  # ValueError over 255 bytes
