"""A parent of several processes, with real ones: the children are a shell's `sleep`, so that a test takes seconds."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api import supervisor
from shared.settings import Settings

_PARENT = """
import sys
from api import supervisor
from shared.settings import Settings
supervisor._SHORTEST_LIFE = 0.05
sys.executable = sys.argv[1]
settings = Settings(_env_file=None, host="127.0.0.1", port=0)
sys.exit(supervisor.supervise(settings, 2))
"""
_CHILD = """#!/bin/sh
echo "$$ $HEADRACE_LISTEN_FD" >> "{log}"
exec sleep 60
"""


class Family:
    def __init__(self, folder: Path) -> None:
        self._log = folder / "children"
        self._log.touch()
        child = folder / "child"
        child.write_text(_CHILD.format(log=self._log))
        child.chmod(0o700)
        root = Path(supervisor.__file__).parents[1]
        command = [sys.executable, "-c", _PARENT, str(child)]
        self.parent = subprocess.Popen(command, cwd=root)
        self.wait_for(lambda: len(self.children) == 2)

    @property
    def children(self) -> list[int]:
        """Every child that was ever started, oldest first."""
        return [int(line.split()[0]) for line in self._log.read_text().splitlines()]

    @property
    def descriptors(self) -> set[str]:
        return {line.split()[1] for line in self._log.read_text().splitlines()}

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    def end(self) -> int:
        self.parent.send_signal(signal.SIGTERM)
        return self.parent.wait(60)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    it = Family(tmp_path)
    try:
        yield it
    finally:
        if it.parent.poll() is None:
            it.end()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_dies_is_replaced_and_the_other_left_alone(family: Family) -> None:
    first, second = family.children

    os.kill(first, signal.SIGKILL)
    family.wait_for(lambda: len(family.children) == 3)

    assert alive(second)
    assert alive(family.children[2])


def test_the_parents_end_is_its_childrens(family: Family) -> None:
    os.kill(family.children[0], signal.SIGKILL)
    family.wait_for(lambda: len(family.children) == 3)

    code = family.end()

    assert code == signal.SIGTERM
    assert not any(alive(pid) for pid in family.children)


def test_all_children_accept_on_the_parents_socket(family: Family) -> None:
    (descriptor,) = family.descriptors

    assert int(descriptor) > 2


def test_the_socket_is_bound_and_listening_before_any_child_runs() -> None:
    settings = Settings(_env_file=None, host="127.0.0.1", port=0)  # type: ignore[call-arg]

    with supervisor.bind(settings) as listening, socket.create_connection(listening.getsockname(), timeout=5):
        pass


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_either_kind_of_address_can_be_bound(host: str, family: socket.AddressFamily) -> None:
    settings = Settings(_env_file=None, host=host, port=0)  # type: ignore[call-arg]

    with supervisor.bind(settings) as listening:
        assert listening.family == family


def test_a_child_finds_the_socket_and_others_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(supervisor.SOCKET_VARIABLE, raising=False)
    assert supervisor.inherited() is None

    with supervisor.bind(Settings(_env_file=None, host="127.0.0.1", port=0)) as listening:  # type: ignore[call-arg]
        monkeypatch.setenv(supervisor.SOCKET_VARIABLE, str(os.dup(listening.fileno())))
        with supervisor.inherited() as same:  # type: ignore[union-attr]
            assert same.getsockname() == listening.getsockname()
