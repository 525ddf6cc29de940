"""CPU time and resident memory of processes and all they started, from /proc."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; 10 ms on Linux
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


def cpu_seconds(root: int) -> float:
    """User and system time of a process and its descendants, those that ended and were waited for included."""
    return sum(_times(pid) for pid in _tree(root))


def resident_mib(root: int) -> list[float]:
    """Resident memory of a process and of each descendant, the largest first."""
    return sorted((_resident(pid) for pid in _tree(root)), reverse=True)


def child(parent: int, word: str) -> int:
    """The child of a process with `word` in its command line. Raises `LookupError` when there is none."""
    for pid in _children()[parent]:
        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise LookupError(f"process {parent} has no child {word}")


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    return children


def _tree(root: int) -> Iterator[int]:
    children = _children()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        yield pid


def _times(pid: int) -> float:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) * _TICK if fields else 0.0


def _resident(pid: int) -> float:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE / 2**20 if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s `stat` from the third on: the name before them may contain anything. None: it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
