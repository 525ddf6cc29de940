"""Where webhooks go, and where nothing is ever sent."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from tests.fakes.webhooks import World, receiver, sending


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with receiver() as world:
        yield world


def names(**hosts: Sequence[str]) -> Callable[..., list[tuple[Any, ...]]]:
    """A name service that knows these hosts under `example`, as `socket.getaddrinfo` answers."""

    def lookup(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        found = hosts.get(host.removesuffix(".example"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [
            (kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for kind, address in zip(kinds, found, strict=True)
        ]

    return lookup


REFUSED = "the host has a private address; HEADRACE_WEBHOOK_ALLOW_PRIVATE=true allows it"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["::ffff:127.0.0.1"], ["2606:4700::1", "::1"]],
    ids=["private", "public and private", "private and public", "IPv4-mapped", "IPv6"],
)
async def test_a_name_with_any_private_address_is_refused(world: World, addresses: list[str]) -> None:
    world.deliveries.owe(f"http://inside.example:{world.port}/", world.clock.now())

    async with sending(world, allow_private=False, lookup=names(inside=addresses)):
        noted = await world.noted()

    assert (noted.status, noted.error) == (None, REFUSED)
    assert world.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "169.254.169.254"])
async def test_a_private_address_in_numbers_is_refused_though_nothing_resolves_it(world: World, host: str) -> None:
    world.deliveries.owe(f"http://{host}:{world.port}/", world.clock.now())

    async with sending(world, allow_private=False):
        noted = await world.noted()

    assert (noted.status, noted.error) == (None, REFUSED)
    assert world.requests == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "localhost"])
async def test_no_other_spelling_of_loopback_gets_through(world: World, host: str) -> None:
    world.deliveries.owe(f"http://{host}:{world.port}/", world.clock.now())

    async with sending(world, allow_private=False):
        noted = await world.noted()

    assert noted.status is None
    assert world.requests == []


async def test_the_connection_goes_to_the_very_address_that_was_checked(world: World) -> None:
    """A name that changes between check and use (DNS rebinding) gains nothing: it is resolved once."""
    answers = iter([["127.0.0.1"], ["1.1.1.1"]])

    def rebinding(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        return names(hook=next(answers))(host, port)

    world.deliveries.owe(f"http://hook.example:{world.port}/", world.clock.now())

    async with sending(world, lookup=rebinding):
        noted = await world.noted()

    assert noted.status == 200
    assert world.requests[0].headers["host"] == f"hook.example:{world.port}"
    assert next(answers) == ["1.1.1.1"]


async def test_tls_is_spoken_with_the_name_though_the_connection_goes_to_its_address(world: World) -> None:
    hellos: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hellos.append(await reader.read(4096))
        writer.write(b"no TLS at all")
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    world.deliveries.owe(f"https://hook.example:{port}/", world.clock.now())

    async with server, sending(world, lookup=names(hook=["127.0.0.1"])):
        noted = await world.noted()

    assert b"hook.example" in hellos[0]
    assert noted.error == "TLS failed (ClientConnectorSSLError)"


async def test_a_name_that_does_not_resolve_is_tried_again(world: World) -> None:
    world.deliveries.owe("https://nowhere.example/", world.clock.now())

    async with sending(world, lookup=names()):
        noted = await world.noted()

    assert noted.error == "the host's name does not resolve"
    assert noted.next_at is not None


async def test_a_proxy_of_the_environment_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{world.port}")
    world.deliveries.owe("http://inside.example/", world.clock.now())

    async with sending(world, allow_private=False, lookup=names(inside=["10.0.0.1"])):
        noted = await world.noted()

    assert noted.error == REFUSED
    assert world.requests == []
