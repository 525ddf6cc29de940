"""Several api processes on one port: a parent that binds it, starts them, and starts those anew that die."""

import os
import signal
import socket
import subprocess
import sys
import time

import structlog

from shared.errors import ConfigError
from shared.settings import Settings

SOCKET_VARIABLE = "HEADRACE_LISTEN_FD"  # tells a child which inherited file descriptor to accept on
_BACKLOG = 2048  # connections the kernel may hold before we accept them
_SHORTEST_LIFE = 1.0  # seconds; a child that dies sooner is started again only after this time

log = structlog.get_logger()


def supervise(settings: Settings, count: int) -> int:
    """Run `count` copies of this command until SIGTERM or SIGINT; returns the exit code."""
    listening = bind(settings)
    listening.set_inheritable(True)
    environment = os.environ | {SOCKET_VARIABLE: str(listening.fileno())}
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            child.send_signal(signal.SIGTERM)

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "api.cli", *sys.argv[1:]]
        return subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()])  # noqa: S603 - our own command

    children = [start() for _ in range(count)]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        time.sleep(_SHORTEST_LIFE)
        for index, child in enumerate(children):
            if child.poll() is not None and not stopping:
                log.error("an api process died; starting another", code=child.returncode)
                children[index] = start()
    for child in children:
        child.terminate()  # again: the signal may have come while a child was being started anew
    return max(abs(child.wait()) for child in children)


def bind(settings: Settings) -> socket.socket:
    """The socket to accept on. Raises `ConfigError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as exc:
        listening.close()
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {exc.strerror}: "
            "choose another with --port or HEADRACE_PORT, or end what uses it"
        ) from exc
    listening.listen(_BACKLOG)
    return listening


def inherited() -> socket.socket | None:
    """The parent's socket, in a child."""
    number = os.environ.get(SOCKET_VARIABLE)
    return socket.socket(fileno=int(number)) if number else None
