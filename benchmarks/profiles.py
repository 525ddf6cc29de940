"""Where the time of a process goes while a scenario runs, sampled from outside by py-spy."""

import asyncio
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

from benchmarks.scenarios import Bench, by_name
from benchmarks.systems import System

_RATE = 200  # samples a second
_LINES = 25
_START = 1.0  # seconds until the load runs
_GRACE = 20.0  # seconds for py-spy to write
_SERVERS = ("upstream", "rabbitmq", "redis", "postgres")
_WAITING = ("_worker (concurrent/futures/thread.py)", "_connection_worker_thread (aiosqlite/core.py)")
"""Functions of threads that wait for work, which looks like work from outside."""
_FRAMEWORK = re.compile(r"\((typer/|<frozen|uvloop/|asyncio/runners|threading|concurrent/|api/cli)|^<module>")
"""Callers of everything."""
_LINE_NUMBER = re.compile(r":\d+\)$")


def available() -> bool:
    return _program() is not None


async def profile(bench: Bench, scenario: str, system: System, folder: Path) -> list[Path]:
    """Run the scenario once more, outside the results, and write a list for each Python process of the system."""
    load = asyncio.create_task(by_name(bench)[scenario](system))
    try:
        await asyncio.sleep(_START)
        roles = {role: pid for role, pid in system.processes.items() if role not in _SERVERS}
        seconds = max(round(bench.plan.chat), 2)
        return await asyncio.gather(
            *(
                _record(pid, seconds, folder / f"profile-{scenario}-{system.name}-{role}.txt")
                for role, pid in roles.items()
            )
        )
    finally:
        await load


async def _record(pid: int, seconds: int, path: Path) -> Path:
    raw = path.with_suffix(".raw")
    process = await asyncio.create_subprocess_exec(
        str(_program()), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_RATE),
        "--format", "raw", "--output", str(raw),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, stderr = await asyncio.wait_for(process.communicate(), seconds + _GRACE)
    except TimeoutError:
        process.kill()
        _, stderr = await process.communicate()
    if raw.exists():
        path.write_text(_top(raw.read_text(), seconds))
        raw.unlink()
    else:
        path.write_text(f"py-spy could not sample the process:\n{stderr.decode()[-1000:]}\n")
    return path


def _top(stacks: str, seconds: int) -> str:
    """Two lists of functions: by their own time, and by that of everything they call."""
    own: Counter[str] = Counter()
    with_calls: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_LINE_NUMBER.sub(")", frame) for frame in stack.split(";")]
        if frames[-1] in _WAITING:
            continue
        samples = int(count)
        total += samples
        own[frames[-1]] += samples
        for frame in set(frames):
            if not _FRAMEWORK.search(frame):
                with_calls[frame] += samples
    busy = total / (_RATE * seconds) * 100
    text = [f"{total} samples in {seconds} s: its threads ran for {busy:.0f} % of the time."]
    for title, counter in (("its own time", own), ("with what it calls", with_calls)):
        text += ["", f"By {title}, % of the samples:"]
        text += [f"{samples / max(total, 1) * 100:6.1f}  {frame}" for frame, samples in counter.most_common(_LINES)]
    return "\n".join(text) + "\n"


def _program() -> str | None:
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")
