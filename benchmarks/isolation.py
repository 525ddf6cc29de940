"""A network namespace with nothing but loopback: some peers listen on every interface, and some call home."""

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1


def enter(arguments: Sequence[str], program: str = "benchmarks") -> NoReturn:
    """Start this program (a module) again, inside, with other arguments."""
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    _replace(["unshare", "--net", *as_user, *_program(program, arguments)])


def start_servers(arguments: Sequence[str], program: str = "benchmarks") -> NoReturn:
    """Start this program again, as the child of a process that keeps RabbitMQ, Redis and PostgreSQL running, on a disk
    and with every commit safe there."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_TEST_")]:
        del os.environ[name]  # servers outside cannot be reached
    _replace([sys.executable, "-m", "tests.servers", "--durable", "--", *_program(program, arguments)])


def raise_loopback() -> None:
    """What `ip link set lo up` does, see netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _program(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _replace(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execvp(command[0], command)
