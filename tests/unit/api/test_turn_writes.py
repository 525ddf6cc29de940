"""What is written in one turn leaves together, in order, and nothing of it is lost at the end."""

import asyncio

from api.turn_writes import TurnWrites


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def _turn() -> None:
    await asyncio.sleep(0)


async def test_what_is_written_in_one_turn_leaves_together() -> None:
    wire = Wire()
    transport = TurnWrites(wire, asyncio.get_running_loop())

    transport.write(b"head ")
    transport.write(b"body")
    await _turn()
    transport.write(b"more")
    await _turn()

    assert wire.writes == [b"head body", b"more"]


async def test_much_leaves_at_once_and_in_order() -> None:
    wire = Wire()
    transport = TurnWrites(wire, asyncio.get_running_loop())
    large = b"x" * 100_000

    transport.write(b"head")
    transport.write(large)
    written_at_once = list(wire.writes)
    transport.write(b"rest")
    await _turn()

    assert written_at_once == [b"head" + large]
    assert wire.writes == [b"head" + large, b"rest"]


async def test_closing_sends_what_waits() -> None:
    wire = Wire()
    transport = TurnWrites(wire, asyncio.get_running_loop())

    transport.write(b"last words")
    transport.close()
    await _turn()

    assert (wire.writes, wire.closed) == ([b"last words"], True)


async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    wire = Wire()
    transport = TurnWrites(wire, asyncio.get_running_loop())

    transport.write(b"too late")
    wire.closed = True
    await _turn()

    assert wire.writes == []
