"""Private RabbitMQ, Redis and PostgreSQL servers for tests: free ports, throw-away data, never a server of the machine.

From a shell, around any command:

    python -m tests.servers -- pytest tests/conformance

From a test that stops and restarts a server of its own:

    async with Redis() as redis:
        await redis.kill()
        await redis.start()
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.server_process import POLL, START_TIMEOUT, Server, ServerFailed, connects, exchange, free_port

VHOSTS = 16
"""RabbitMQ's virtual hosts `test0` ...: one for each worker of pytest-xdist, as the names of queues are fixed."""


class Redis(Server):
    name = "redis"
    variable = "HEADRACE_TEST_REDIS_URL"

    def __init__(self, *options: str) -> None:
        """`options` are for its command line."""
        super().__init__()
        self._options = options

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _launch(self) -> None:
        await self._spawn(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "no", "--databases", "64", *self._options,
        )  # fmt: skip

    async def _answers(self) -> bool:
        return (await exchange(self.port, b"PING\r\n")).startswith(b"+PONG")


class Postgres(Server):
    name = "postgres"
    variable = "HEADRACE_TEST_DATABASE_URL"
    polite = signal.SIGINT  # "fast": disconnects the clients instead of waiting for them
    rude = signal.SIGQUIT  # "immediate": no checkpoint, recovery at the next start; SIGKILL would orphan its children

    @classmethod
    def installed(cls) -> bool:
        return cls._binary("postgres") is not None

    @property
    def url(self) -> str:
        return f"postgresql://headrace@127.0.0.1:{self.port}/postgres"

    @property
    def _user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root

    @staticmethod
    def _binary(name: str) -> str | None:
        """Debian keeps these off PATH, in a folder for each major version; the newest wins."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: int(bin.parent.name))
        found = [str(bin / name) for bin in reversed(versions) if (bin / name).exists()]
        return found[0] if found else shutil.which(name)

    async def _launch(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            await self._initialise(data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(data),
            "max_connections": "200",
        }
        if not self.durable:
            settings |= {
                # Safe against a crash of the server, which is what tests cause, though not of the machine.
                "fsync": "off",
                "full_page_writes": "off",
                "max_wal_size": "256MB",  # the data may be in memory
            }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        await self._spawn(str(self._binary("postgres")), "-D", str(data), *options, user=self._user)

    async def _initialise(self, data: Path) -> None:
        data.mkdir()
        if self._user:
            shutil.chown(data, self._user)
        await self._spawn(
            str(self._binary("initdb")), "-D", str(data), "-U", "headrace", "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-sync", user=self._user,
        )  # fmt: skip
        initdb = self._processes.pop()
        if await initdb.wait() != 0:
            raise ServerFailed(f"initdb failed\n{self._log_tail()}")

    async def _answers(self) -> bool:
        startup = b"\x00\x03\x00\x00user\x00headrace\x00database\x00postgres\x00\x00"
        answer = await exchange(self.port, (len(startup) + 4).to_bytes(4) + startup)
        return answer.startswith(b"R")  # an authentication message; a server that recovers answers E, an error


class RabbitMQ(Server):
    name = "rabbitmq"
    variable = "HEADRACE_TEST_RABBITMQ_URL"

    _SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on PATH changes to the system's user and folders

    def _draw_ports(self) -> None:
        super()._draw_ports()
        self._epmd_port, self._distribution_port = free_port(), free_port()

    @property
    def _ports(self) -> Sequence[int]:
        return (self.port, self._epmd_port, self._distribution_port)

    @classmethod
    def installed(cls) -> bool:
        return Path(cls._SERVER).exists() and shutil.which("epmd") is not None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    async def _launch(self) -> None:
        self._configure()
        env = self._environment()
        # Started by us and in the foreground, or else the server starts one as a daemon that outlives it.
        await self._spawn("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1", env=env)
        async with asyncio.timeout(START_TIMEOUT):
            while not await connects(self._epmd_port):
                await asyncio.sleep(POLL)
        if not self.running:
            raise ServerFailed(f"epmd ended while starting\n{self._log_tail()}")
        await self._spawn(self._SERVER, env=env)

    def _configure(self) -> None:
        vhosts = ["/", *(f"test{number}" for number in range(VHOSTS))]
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
            "vhosts": [{"name": vhost} for vhost in vhosts],
            "permissions": [{"user": "guest", "vhost": vhost, **everything} for vhost in vhosts],
        }
        (self.folder / "definitions.json").write_text(json.dumps(definitions))
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"load_definitions = {self.folder / 'definitions.json'}\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
        )

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),  # the Erlang cookie is written there
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"headrace{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                # Idle schedulers sleep instead of spinning on the cores that the tests need.
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    async def _answers(self) -> bool:
        return (await exchange(self.port, b"AMQP\x00\x00\x09\x01")).startswith(b"\x01")  # Connection.Start


ALL: tuple[type[Server], ...] = (RabbitMQ, Redis, Postgres)


async def run(command: Sequence[str]) -> int:
    """Run a command while the servers run; its exit status. Servers whose variable is set already are left alone."""
    servers = [kind() for kind in ALL if kind.variable not in os.environ and _report(kind)]
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    # In a terminal the command gets Ctrl-C too and ends by itself; while the servers start there is none yet.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, task.cancel)
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(each)
        return await _run_command(command, {server.variable: server.url for server in servers})
    finally:
        await asyncio.gather(*(server.close() for server in servers))


def _report(kind: type[Server]) -> bool:
    if not kind.installed():
        print(f"{kind.name} is not installed; what needs {kind.variable} cannot run", file=sys.stderr)
        return False
    return True


async def _run_command(command: Sequence[str], env: Mapping[str, str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env})
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal told the command itself
    for each in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, process.send_signal, each)
    status = await process.wait()
    return status if status >= 0 else 128 - status  # as a shell reports a death by signal


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--durable"]:
        Server.durable = True
        del arguments[0]
    if arguments[:1] != ["--"] or len(arguments) < 2:
        sys.exit("usage: python -m tests.servers [--durable] -- COMMAND [ARGUMENT ...]")
    try:
        status = asyncio.run(run(arguments[1:]))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGINT)
    except ExceptionGroup as group:
        sys.exit("\n".join(str(failure) for failure in group.exceptions))
    sys.exit(status)


if __name__ == "__main__":
    main()
