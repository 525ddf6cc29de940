"""Where a webhook may go: names are resolved once, here, and connections are made to nothing but checked addresses.

A tenant chooses the address, and the network that Headrace runs in must not answer to it (server-side request forgery).
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.webhooks import is_public

Lookup = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`, or what stands for it in a test."""

_LOOKUPS = 4  # at a time, in threads of their own: names that do not answer must not hold up those of the providers


class AddressRefused(OSError):
    """The address is one that tenants may not reach. The message does not tell it: it would map the network."""

    def __init__(self) -> None:
        super().__init__("the host has a private address; HEADRACE_WEBHOOK_ALLOW_PRIVATE=true allows it")


def connector(limit: int, allow_private: bool, lookup: Lookup = socket.getaddrinfo) -> aiohttp.TCPConnector:
    """For at most `limit` connections, each to be used once. Failing to connect raises `aiohttp.ClientConnectorError`,
    whose `os_error` is an `AddressRefused` where that is the reason."""
    return aiohttp.TCPConnector(
        limit=limit,
        force_close=True,
        use_dns_cache=False,
        resolver=_Resolver(allow_private, lookup),
        socket_factory=_any_socket if allow_private else _public_socket,
    )


class _Resolver(AbstractResolver):
    def __init__(self, allow_private: bool, lookup: Lookup) -> None:
        self._allow_private = allow_private
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUPS, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `AddressRefused` when any of the name's addresses is private: such a name is an attempt, or a mistake
        that would work every other time."""
        lookup = partial(self._lookup, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        if not self._allow_private and not all(is_public(address[0]) for *_, address in found):
            raise AddressRefused
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=proto, flags=_NUMERIC)
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def _public_socket(address: tuple[Any, ...]) -> socket.socket:
    """The last gate, and the only one for addresses that stand in the URL as numbers: those are never resolved."""
    if not is_public(address[4][0]):
        raise AddressRefused
    return _any_socket(address)


def _any_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    return socket.socket(family, kind, protocol)
