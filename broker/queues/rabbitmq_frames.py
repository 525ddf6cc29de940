"""AMQP 0-9-1 frames of the hot path, packed and read by hand.

pamqp knows any method and any table, and takes ten times as long for these few. The tests check that it reads back what
is written here, and that what it writes is read. Section numbers are those of the AMQP 0-9-1 specification.
"""

import struct

from shared.values import value

METHOD, HEADER, BODY = 1, 2, 3  # frame types, 4.2.3
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
NO_FRAME = -1
_END = b"\xce"
_BASIC = 60
_DELIVER = b"\x00\x3c\x00\x3c"  # class 60, method 60

_FRAME = struct.Struct("!BHI")  # type, channel, payload size
_ACK = struct.Struct("!HHQB")  # class, method, delivery tag, multiple
_NACK = _ACK  # the last octet packs multiple and requeue as bits 0 and 1
_CONTENT = struct.Struct("!HHQH")  # class, weight, body size, property flags
_TAG = struct.Struct("!QB")  # delivery tag, redelivered
_LONG = struct.Struct("!I")
_FRAME_HEAD, _FRAME_OVERHEAD = 7, 8  # bytes before a payload, and around it
_LONGEST_FRAME = (
    256 * 1024 * 1024
)  # bytes; twice RabbitMQ's largest message, which is as long as a frame may need to be
_FIRST_PROPERTY = 14  # where it begins in a content header

# Properties in the order in which they are written, 4.2.6.1: the first has the highest bit.
_CONTENT_TYPE, _ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP, _TYPE = (
    1 << bit for bit in (15, 14, 13, 12, 11, 8, 7, 6, 5)
)
_ALWAYS = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TIMESTAMP | _TYPE

_JSON = b"\x10application/json"
_TEXT = ord("S")  # the type of a header's value, 4.2.1


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
        _frame(METHOD, channel, _publish_method(message)),
        _frame(HEADER, channel, _content_header(message)),
    ]
    size = frame_max - _FRAME_OVERHEAD
    for start in range(0, len(message.body), size):
        parts.append(_frame(BODY, channel, message.body[start : start + size]))
    return b"".join(parts)


def ack(delivery_tag: int, channel: int) -> bytes:
    return _frame(METHOD, channel, _ACK.pack(_BASIC, 80, delivery_tag, 0))


def requeue(delivery_tag: int, channel: int) -> bytes:
    """Basic.Nack with requeue."""
    return _frame(METHOD, channel, _NACK.pack(_BASIC, 120, delivery_tag, 2))


@value(frozen=True, slots=True)
class Deliver:
    """What Basic.Deliver says of the message that follows."""

    consumer_tag: str
    delivery_tag: int
    redelivered: bool


def end_of(data: bytes, at: int) -> int | None:
    """Where the frame that begins at `at` ends; None while it is not all there, `NO_FRAME` when it is none."""
    if len(data) - at < _FRAME_HEAD:
        return NO_FRAME if data[at : at + 1] == b"A" else None  # "AMQP...": the server wants another version, 4.2.2
    size: int = _FRAME.unpack_from(data, at)[2]
    if data[at] not in (METHOD, HEADER, BODY, HEARTBEAT[0]) or size > _LONGEST_FRAME:
        return NO_FRAME
    end = at + _FRAME_OVERHEAD + size
    if len(data) < end:
        return None
    return end if data[end - 1] == _END[0] else NO_FRAME


def channel_of(data: bytes, at: int) -> int:
    return data[at + 1] << 8 | data[at + 2]


def payload(data: bytes, at: int, end: int) -> bytes:
    return data[at + _FRAME_HEAD : end - 1]


def deliver(data: bytes, at: int) -> Deliver | None:
    """The Basic.Deliver in the method frame that begins at `at`; None when it is another method."""
    at += _FRAME_HEAD
    if not data.startswith(_DELIVER, at):
        return None
    tag, at = _short_at(data, at + len(_DELIVER))
    delivery_tag, redelivered = _TAG.unpack_from(data, at)
    return Deliver(tag.decode(), delivery_tag, bool(redelivered))


def body_size(header: bytes) -> int:
    """Of a content header's payload, as all below."""
    size: int = _CONTENT.unpack_from(header)[2]
    return size


def priority_of(header: bytes) -> int | None:
    flags = _CONTENT.unpack_from(header)[3]
    if not flags & _PRIORITY:
        return None
    at = _headers_at(header, flags)
    if flags & _HEADERS:
        at += _LONG.size + _LONG.unpack_from(header, at)[0]
    return header[at + bool(flags & _DELIVERY_MODE)]


def text_header(header: bytes, name: bytes) -> bytes | None:
    """The string header `name`. None when there is none before the first header that is no string."""
    flags = _CONTENT.unpack_from(header)[3]
    if not flags & _HEADERS:
        return None
    at = _headers_at(header, flags)
    end = at + _LONG.size + _LONG.unpack_from(header, at)[0]
    at += _LONG.size
    while at < end:
        found, at = _short_at(header, at)
        if header[at] != _TEXT:
            return None
        start = at + 1 + _LONG.size
        at = start + _LONG.unpack_from(header, at + 1)[0]
        if found == name:
            return header[start:at]
    return None


def _headers_at(header: bytes, flags: int) -> int:
    at = _FIRST_PROPERTY
    for each in (_CONTENT_TYPE, _ENCODING):
        if flags & each:
            at += 1 + header[at]
    return at


def _short_at(data: bytes, at: int) -> tuple[bytes, int]:
    """A short string, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end], end


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
