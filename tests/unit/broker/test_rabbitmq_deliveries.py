"""Deliveries are taken off the wire; all else reaches the AMQP library as it came."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from broker.queues import rabbitmq_deliveries
from broker.queues.rabbitmq_deliveries import Delivered, Deliveries

CHANNEL: Any = object()


class Library(asyncio.Protocol):
    """Takes what the AMQP library would get."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        assert data
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@dataclass
class Wire:
    """Both sides of the interception."""

    deliveries: Deliveries
    library: Library
    arrived: list[Delivered]

    def receive(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        """In pieces of these sizes, and the rest."""
        for size in sizes:
            piece, data = data[:size], data[size:]
            if piece:
                self.deliveries.data_received(piece)
        if data:
            self.deliveries.data_received(data)


def on_a_wire(*steps: Any) -> Wire:
    """Have each step done with a wire that has a consumer `jobs`, inside of an event loop."""

    async def run() -> Wire:
        library = Library()
        wire = Wire(Deliveries(library), library, [])
        wire.deliveries.consume("jobs", CHANNEL, wire.arrived.append)
        for step in steps:
            step(wire)
        return wire

    return asyncio.run(run())


def marshalled(frame: Any, channel: int = 1) -> bytes:
    packed: bytes = pamqp.frame.marshal(frame, channel)
    return packed


def delivery(
    body: bytes, *, tag: int = 1, consumer: str = "jobs", frame_size: int = 100, channel: int = 1, **properties: Any
) -> bytes:
    method = commands.Basic.Deliver(consumer, tag, tag % 2 == 0, "headrace.jobs", "p.batch")
    header = ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    parts = [body[at : at + frame_size] for at in range(0, len(body), frame_size)]
    return b"".join(marshalled(each, channel) for each in (method, header, *map(ContentBody, parts)))


OTHERS = [
    marshalled(commands.Basic.Ack(7, True)),
    marshalled(commands.Basic.ConsumeOk("jobs")),
    marshalled(commands.Basic.Cancel("jobs")),
    marshalled(Heartbeat(), 0),
    delivery(b"for somebody else", consumer="others", channel=2),
]


@given(
    wanted=st.lists(st.one_of(st.binary(max_size=350), st.sampled_from(range(len(OTHERS)))), max_size=8),
    sizes=st.lists(st.integers(1, 60), max_size=60),
)
def test_deliveries_and_all_else_find_their_receivers_however_the_bytes_come(
    wanted: list[bytes | int], sizes: list[int]
) -> None:
    bodies = [each for each in wanted if isinstance(each, bytes)]
    others = [OTHERS[each] for each in wanted if isinstance(each, int)]
    tags = iter(range(1, 100))
    sent = [delivery(each, tag=next(tags)) if isinstance(each, bytes) else OTHERS[each] for each in wanted]

    wire = on_a_wire(lambda wire: wire.receive(b"".join(sent), sizes))

    assert [message.body for message in wire.arrived] == bodies
    assert [message.delivery_tag for message in wire.arrived] == list(range(1, len(bodies) + 1))
    assert [message.redelivered for message in wire.arrived] == [tag % 2 == 0 for tag in range(1, len(bodies) + 1)]
    assert all(message.channel is CHANNEL and message.consumer_tag == "jobs" for message in wire.arrived)
    assert wire.library.got == b"".join(others)


def test_a_heartbeat_between_the_frames_of_a_delivery_goes_to_the_library() -> None:
    whole = delivery(b"x" * 150)
    body = whole.index(b"x")
    between = body - 7  # before the first body frame
    heartbeat = marshalled(Heartbeat(), 0)

    wire = on_a_wire(lambda wire: wire.receive(whole[:between] + heartbeat + whole[between:]))

    assert [message.body for message in wire.arrived] == [b"x" * 150]
    assert wire.library.got == heartbeat


def test_properties_that_the_fast_way_does_not_know_are_there_all_the_same() -> None:
    headers = {"x-delivery-count": 2, "headrace": "{}"}

    wire = on_a_wire(lambda wire: wire.receive(delivery(b"", headers=headers, priority=3, message_id="m")))

    (message,) = wire.arrived
    assert message.properties.headers == headers
    assert (message.properties.priority, message.properties.message_id) == (3, "m")


@pytest.mark.parametrize(
    "garbage",
    [
        b"AMQP\x00\x00\x09\x01",
        b"AMQ",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x01\x00\x01\x00\x00\x00\x01xx" + b"more",  # does not end where it says
        b"\x01\x00\x01\xff\xff\xff\xff",  # is four gigabytes long
    ],
)
def test_what_is_no_frame_is_the_librarys_to_complain_about(garbage: bytes) -> None:
    heartbeat = marshalled(Heartbeat(), 0)

    wire = on_a_wire(lambda wire: wire.receive(heartbeat + garbage), lambda wire: wire.receive(b" and on"))

    assert wire.library.got == heartbeat + garbage + b" and on"


def test_the_library_that_watches_the_server_sees_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_deliveries, "_SIGN_OF_LIFE", 0.0)

    wire = on_a_wire(lambda wire: wire.receive(delivery(b"1") + delivery(b"2")))

    frames = wire.library.got
    assert frames
    while frames:
        size, channel, frame = pamqp.frame.unmarshal(frames)
        assert isinstance(frame, Heartbeat)
        assert channel == 0
        frames = frames[size:]


def test_the_end_of_the_connection_is_told() -> None:
    error = ConnectionResetError()

    wire = on_a_wire(lambda wire: wire.deliveries.connection_lost(error))

    assert wire.library.lost == [error]
