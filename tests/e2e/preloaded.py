"""Headrace processes that begin where everything has been imported.

Imports are three quarters of what a start costs, and the suite starts hundreds of processes: `python -m
tests.e2e.preloaded` imports what they need, once, and forks a process for each order. What runs in it is the same
`main` as in any other. Commands, compose files and examples are tested without it.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

ROOT = Path(__file__).parents[2]
_MODULES = (
    "api.cli", "api.serving", "api.working", "broker.accounts.redis", "broker.events.redis", "broker.limits.redis",
    "broker.queues.rabbitmq", "broker.store.database",
)  # fmt: skip
_POLL = 0.02  # seconds


class Running(Protocol):
    """As much of `asyncio.subprocess.Process` as tests use."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, signal: int) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class Preloaded:
    """The process that forks, while inside."""

    def __enter__(self) -> Self:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.preloaded"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        return self

    def __exit__(self, *exc: object) -> None:
        with self._parent:  # closes its pipes, which is its end, and waits for it
            pass

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> Running:
        order = {"arguments": [*arguments], "environment": {**environment}, "log": str(log), "folder": str(folder)}
        return _Forked(self, self.ask(order))

    def ask(self, order: Mapping[str, Any]) -> Any:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order).encode() + b"\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())


class _Forked:
    def __init__(self, parent: Preloaded, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        if self._code is None:
            self._code = self._parent.ask({"ended": self.pid})
        return self._code

    def send_signal(self, signal: int) -> None:
        if self.returncode is None:  # a process that nobody has asked about keeps its id
            os.kill(self.pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        while (code := self.returncode) is None:
            await asyncio.sleep(_POLL)
        return code


def main() -> None:
    """Take orders until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is for pytest, which ends us in good order
    for name in _MODULES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if "ended" in order:
            pid, status = os.waitpid(order["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                answers.close()
                _become(order)
        answers.write(json.dumps(answer).encode() + b"\n")


def _become(order: Mapping[str, Any]) -> None:
    """The command, with nothing of its parent's but the modules. Does not return."""
    from api import cli

    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for given, taken in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(given, taken)
        os.set_inheritable(taken, True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = ["headrace", *order["arguments"]]
    cli.main()
    sys.exit()


if __name__ == "__main__":
    main()
