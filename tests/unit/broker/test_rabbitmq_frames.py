"""What we pack by hand, pamqp must read."""

from typing import Any

import pamqp.frame
import pytest
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from broker.queues import rabbitmq_frames as frames


def message(**changes: Any) -> frames.Message:
    fields: dict[str, Any] = {
        "exchange": "headrace.jobs",
        "routing_key": "p.batch",
        "headers": ((b"headrace", '{"é":1}'.encode()), (b"x-headrace-reason", b"bad")),
        "body": b'{"a":1}',
        "message_id": "01",
        "type": "chat.completions",
        "timestamp": 1_800_000_000.9,
        "persistent": True,
    }
    return frames.Message(**fields | changes)


def unpack(payload: bytes) -> list[Any]:
    found = []
    while payload:
        length, channel, frame = pamqp.frame.unmarshal(payload)
        assert channel == 7
        found.append(frame)
        payload = payload[length:]
    return found


def test_publish_is_a_mandatory_method_with_header_and_body() -> None:
    method, header, body = unpack(frames.publish(message(expiration_ms=1500), 7, 131_072))

    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == ("headrace.jobs", "p.batch", True)
    assert isinstance(header, ContentHeader)
    assert header.body_size == 7
    properties = header.properties
    assert properties.headers == {"headrace": '{"é":1}', "x-headrace-reason": "bad"}
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert (properties.message_id, properties.message_type) == ("01", "chat.completions")
    assert properties.expiration == "1500"
    assert properties.timestamp is not None
    assert properties.timestamp.timestamp() == 1_800_000_000
    assert isinstance(body, ContentBody)
    assert body.value == b'{"a":1}'


@pytest.mark.parametrize("expiration_ms", [None, 1500])
def test_a_priority_stands_between_the_other_properties(expiration_ms: int | None) -> None:
    _, header, _ = unpack(frames.publish(message(priority=3, expiration_ms=expiration_ms), 7, 131_072))

    properties = header.properties
    assert (properties.delivery_mode, properties.priority, properties.message_id) == (2, 3, "01")
    assert properties.expiration == (None if expiration_ms is None else "1500")


def test_transient_message_without_expiration() -> None:
    _, header, _ = unpack(frames.publish(message(persistent=False), 7, 131_072))

    assert header.properties.delivery_mode == 1
    assert header.properties.expiration is None


@pytest.mark.parametrize(("size", "bodies"), [(0, 0), (1, 1), (4088, 1), (4089, 2), (10_000, 3)])
def test_body_is_split_at_the_largest_frame(size: int, bodies: int) -> None:
    _, header, *parts = unpack(frames.publish(message(body=b"x" * size), 7, 4096))

    assert header.body_size == size
    assert len(parts) == bodies
    assert sum(len(part.value) for part in parts) == size


def test_ack_settles_one_delivery() -> None:
    [frame] = unpack(frames.ack(2**40, 7))

    assert isinstance(frame, commands.Basic.Ack)
    assert (frame.delivery_tag, frame.multiple) == (2**40, False)


def test_requeue_is_a_nack_of_one_delivery() -> None:
    [frame] = unpack(frames.requeue(5, 7))

    assert isinstance(frame, commands.Basic.Nack)
    assert (frame.delivery_tag, frame.multiple, frame.requeue) == (5, False, True)


def test_routing_key_over_255_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        frames.publish(message(routing_key="k" * 256), 7, 4096)


@pytest.mark.parametrize("priority", [None, 0, 3])
@pytest.mark.parametrize("expiration_ms", [None, 1500])
def test_what_we_pack_we_read(priority: int | None, expiration_ms: int | None) -> None:
    packed = frames.publish(message(priority=priority, expiration_ms=expiration_ms), 7, 131_072)
    end = frames.end_of(packed, 0)
    assert end is not None
    header = frames.payload(packed, end, frames.end_of(packed, end) or 0)

    assert frames.channel_of(packed, 0) == 7
    assert frames.body_size(header) == 7
    assert frames.priority_of(header) == priority
    assert frames.text_header(header, b"headrace") == '{"é":1}'.encode()
    assert frames.text_header(header, b"x-headrace-reason") == b"bad"
    assert frames.text_header(header, b"missing") is None


@pytest.mark.parametrize(
    "given", [{}, {"priority": 5}, {"content_encoding": "gzip", "delivery_mode": 2, "priority": 1}]
)
def test_a_foreign_header_is_read(given: dict[str, Any]) -> None:
    header = ContentHeader(body_size=9, properties=commands.Basic.Properties(**given)).marshal()

    assert frames.body_size(header) == 9
    assert frames.priority_of(header) == given.get("priority")
    assert frames.text_header(header, b"headrace") is None


def test_headers_behind_one_that_is_no_string_are_not_looked_for() -> None:
    table: Any = {"a": 1, "headrace": "{}"}
    header = ContentHeader(body_size=0, properties=commands.Basic.Properties(headers=table)).marshal()

    assert frames.text_header(header, b"headrace") is None
