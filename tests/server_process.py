"""A server process that a test owns: its port, its data, its end."""

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

START_TIMEOUT = 90.0  # seconds; RabbitMQ needs about 6 on an idle machine and several times that on a busy one
_STOP_TIMEOUT = 20.0  # seconds until a server that ignores the polite signal is killed
_MEMORY = Path("/dev/shm")
_ROOM = 3 << 30  # bytes; a whole run takes a third of that at most
POLL = 0.05  # seconds between two looks at a server that is starting
_TRIES = 4  # of a first start whose ports somebody else took in the meantime


class ServerFailed(Exception):
    """A server did not start; the message ends with the tail of its log."""


class Server:
    """A server process with its own port and data folder. After the first start both stay the same over `stop`, `kill`
    and `start`."""

    name: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable that hands the address to the tests."""
    polite: ClassVar[signal.Signals] = signal.SIGTERM
    rude: ClassVar[signal.Signals] = signal.SIGKILL
    durable: ClassVar[bool] = False
    """On a disk, and as safe there as in production: for measuring. Else data is in memory where there is room."""

    def __init__(self) -> None:
        # Not below the checkout: PostgreSQL runs as another user, who may not be allowed to look into it.
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"headrace-{self.name}-", dir=None if self.durable else _in_memory())
        )
        self.folder.chmod(0o755)
        self._draw_ports()
        self._started = False
        self._processes: list[asyncio.subprocess.Process] = []

    @classmethod
    def installed(cls) -> bool:
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return bool(self._processes) and self._processes[-1].returncode is None

    async def start(self) -> None:
        """Return when the server answers. Raises `ServerFailed` when it ends or stays silent. A first start that finds
        a port taken takes others."""
        tries = 1 if self._started else _TRIES
        while True:
            tries -= 1
            try:
                await self._start()
            except ServerFailed:
                await self.kill()
                if not tries or all(map(_is_free, self._ports)):
                    raise
                self._draw_ports()
            else:
                self._started = True
                return

    async def _start(self) -> None:
        await self._launch()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await self._answers():
                    if not self.running:
                        raise ServerFailed(f"{self.name} ended while starting\n{self._log_tail()}")
                    await asyncio.sleep(POLL)
            if not self.running:  # somebody else's server took the port and answered
                raise ServerFailed(f"{self.name} lost its port {self.port}\n{self._log_tail()}")
        except TimeoutError as exc:
            raise ServerFailed(f"{self.name} did not answer in {START_TIMEOUT:.0f} s\n{self._log_tail()}") from exc

    async def stop(self) -> None:
        """Shut down in good order; the data stays. Safe to call twice."""
        await self._end(self.polite)

    async def kill(self) -> None:
        """Crash it; the data stays as the crash left it."""
        await self._end(self.rude)

    async def close(self) -> None:
        """Stop at once and remove the data."""
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _draw_ports(self) -> None:
        self.port = free_port()

    @property
    def _ports(self) -> Sequence[int]:
        """All that the server listens at."""
        return (self.port,)

    async def _launch(self) -> None:
        raise NotImplementedError

    async def _answers(self) -> bool:
        raise NotImplementedError

    async def _spawn(self, *command: str, env: Mapping[str, str] | None = None, user: str | None = None) -> None:
        # A session of its own keeps Ctrl-C in the terminal from reaching the server before its tests have ended.
        with (self.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **(env or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **_as_user(user),
            )
        self._processes.append(process)

    async def _end(self, how: signal.Signals) -> None:
        for process in reversed(self._processes):
            await _end(process, how)
        self._processes.clear()

    def _log_tail(self) -> str:
        log = self.folder / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""


def _in_memory() -> Path | None:
    """A file system in memory, if there is one with plenty of room: on a disk a queue or a database takes ten times as
    long to make, and tests make thousands."""
    with contextlib.suppress(OSError):
        if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
            return _MEMORY
    return None


_PORTS = range(20_000, 32_000)  # below those that outgoing connections take
_SHARES = 8  # of the ports: parallel test processes draw from different ones
_random = random.SystemRandom()  # whatever seeds `random`
_given: deque[int] = deque(maxlen=len(_PORTS) // _SHARES // 2)
"""Ports that this process has given away lately: who got one may not listen yet, or not at the moment."""


def free_port() -> int:
    """A TCP port of loopback that is free, and that nobody else here gets."""
    while True:
        port = _random.choice(_share(os.environ.get("PYTEST_XDIST_WORKER", "")))
        if port not in _given and _is_free(port):
            _given.append(port)
            return port


def _share(worker: str) -> range:
    """The ports of a worker of pytest-xdist: `gw0`, `gw1` ...; the last share is everybody else's."""
    number = int(worker.removeprefix("gw")) % (_SHARES - 1) if worker else _SHARES - 1
    return _PORTS[number::_SHARES]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def exchange(port: int, message: bytes) -> bytes:
    """The first bytes that a server answers to a message; none when it is not there yet."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(message)
                return await reader.read(64)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


async def _end(process: asyncio.subprocess.Process, how: signal.Signals) -> None:
    if process.returncode is None:
        _signal(process, how)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()
    if how is signal.SIGKILL:
        _signal(process, how)  # what the leader left behind in its group


def _signal(process: asyncio.subprocess.Process, which: signal.Signals) -> None:
    """SIGKILL goes to the whole group; the others to the leader, which ends its children in its own order."""
    with contextlib.suppress(ProcessLookupError):
        if which is signal.SIGKILL:
            os.killpg(process.pid, which)
        else:
            os.kill(process.pid, which)
