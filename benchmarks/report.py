"""The results as a table for people, JSON for programs, and plots."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from benchmarks import targets
from benchmarks.scenarios import CHAT_CLIENTS, LIMITED_CLIENTS, LIMITED_KEYS, RATE, STREAMS, Numbers

_QUIET = 0.7  # load average above which something else must be running


@dataclass(slots=True)
class Results:
    """Everything that the benchmark has found so far."""

    command: str
    versions: Mapping[str, str]
    runs: list[Mapping[str, Mapping[str, Numbers]]] = field(default_factory=list)
    profiles: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    """Processes that wanted a core before the start."""


@dataclass(frozen=True, slots=True)
class Column:
    """A number of a scenario, as the table shows it."""

    scenario: str
    number: str
    title: str
    form: str = "{:,.0f}"


COLUMNS = (
    Column("chat", "rate", f"chat, {CHAT_CLIENTS} connections: requests/s"),
    Column("chat", "p99", "its p99, ms", "{:,.1f}"),
    Column("latency", "added_p50", f"added latency at {RATE:.0f}/s: p50, ms", "{:,.2f}"),
    Column("latency", "added_p99", "p99, ms", "{:,.2f}"),
    Column("streams", "events", f"streams, {STREAMS} at once: events/s"),
    Column("paced", "streams", "paced streams at once"),
    Column("memory", "largest", "idle memory, MiB"),
    Column("limited", "share", "limited: rate used, %", "{:.1f}"),
    Column("limited", "first_minute", "in the first minute, %", "{:.1f}"),
    Column("limited", "refused", "refused by the upstream, %", "{:.2f}"),
)


def write(results: Results, folder: Path) -> None:
    """Replace what the folder holds from an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in set(folder.glob("profile-*.txt")) - set(results.profiles):
        old.unlink()
    (folder / "results.md").write_text(markdown(results))
    content = {
        "command": results.command,
        "machine": machine(),
        "versions": dict(results.versions),
        "load_average": results.load_average,
        "seconds": round(results.seconds),
        "medians": targets.medians(results.runs),
        "runs": results.runs,
    }
    (folder / "results.json").write_text(json.dumps(_finite(content), indent=1) + "\n")
    try:
        from benchmarks import plots  # the only part that needs matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (dependency group `bench`)", file=sys.stderr)
    else:
        plots.draw(targets.medians(results.runs), folder / "results.svg")


def markdown(results: Results) -> str:
    medians = targets.medians(results.runs)
    parts = [_heading(results), _overview(medians), _cpu(medians), _goals(medians, results), _notes(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(results: Results) -> str:
    found = machine()
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return (
        f"# Benchmark results\n\n`{results.command}`: median of {len(results.runs)} interleaved runs, "
        f"{results.seconds / 60:.0f} min, {found['cores']} cores, {found['cpu']}, Python {found['python']}"
        + (f"; {versions}." if versions else ".")
    )


def _overview(medians: targets.Medians) -> str:
    columns = [column for column in COLUMNS if column.scenario in medians]
    systems = list(dict.fromkeys(system for each in medians.values() for system in each))
    rows = []
    for system in systems:
        cells = []
        for column in columns:
            value = medians[column.scenario].get(system, {}).get(column.number)
            cells.append("" if value is None else column.form.format(value) if isfinite(value) else "none answered")
        rows.append([system, *cells])
    return _table(["", *(column.title for column in columns)], rows)


def _cpu(medians: targets.Medians) -> str:
    """Milliseconds of CPU that one request of the chat scenario costs each process."""
    chat = medians.get("chat", {})
    rows = [
        [system, name.removeprefix("cpu_"), f"{value:.3f}"]
        for system, numbers in chat.items()
        for name, value in numbers.items()
        if name.startswith("cpu_")
    ]
    if not rows:
        return ""
    text = "CPU of a request in the chat scenario. `upstream` and `load` are the benchmark's own.\n\n"
    return text + _table(["system", "process", "ms a request"], rows)


def _goals(medians: targets.Medians, results: Results) -> str:
    if "--quick" in results.command.split():
        return "A quick run shows that everything works. It measures nothing: the systems are hardly warm."
    rows = []
    for goal in targets.GOALS:
        reached = goal.reached(medians)
        if reached is None:
            continue
        sign = "at most" if goal.at_most else "at least"
        unit = f" x {goal.peer}" if goal.peer else ""
        rows.append(
            [goal.scenario, goal.system, goal.number, f"{sign} {goal.bound:.3g}{unit}", f"{reached:.3g}{unit}",
             "met" if goal.met(reached) else "**missed**"]
        )  # fmt: skip
    if not rows:
        return ""
    text = "## Targets\n\n" + _table(["scenario", "system", "number", "target", "measured", ""], rows)
    if results.profiles:
        names = ", ".join(f"[{path.name}]({path.name})" for path in results.profiles)
        text += f"\n\nWhere the time goes: {names}."
    return text


def _notes(results: Results) -> str:
    chat = [run["chat"] for run in results.runs if "chat" in run]
    failures = {
        f"{scenario} of {system}: {sum(int(run[scenario][system].get(name, 0)) for run in results.runs)} {name}"
        for run in results.runs
        for scenario, systems in run.items()
        for system, numbers in systems.items()
        for name in ("failed", "broken")
        if any(each[scenario].get(system, {}).get(name) for each in results.runs)
    }
    notes = [
        f"A limited system is asked by {LIMITED_CLIENTS} clients in a closed loop for {LIMITED_KEYS} keys; "
        "a client that is refused waits for a second.",
        "Headrace checks a key, keeps its buckets and writes its ledger. LiteLLM checks a master key and has no "
        "database. Portkey's gateway and TensorZero's, which is started from its Python wheel with observability off, "
        "check no key and record nothing.",
    ]
    if chat and "direct" in chat[0]:
        direct = targets.medians(results.runs)["chat"]["direct"]
        upstream, load = direct["cpu_upstream"] * 1000, direct["cpu_load"] * 1000
        own = f"The upstream answers {direct['rate']:,.0f} requests/s and takes {upstream:.0f} us of CPU for each"
        notes.insert(0, f"{own}; the load generator takes {load:.0f} us.")
    if results.load_average > _QUIET:
        notes.append(
            f"**The machine was busy with something else: {results.load_average:.1f} processes wanted a core before "
            "the start. Compare the systems by their CPU, not by their rates.**"
        )
    if failures:
        notes.append("Requests and streams that went wrong, over all runs: " + "; ".join(sorted(failures)) + ".")
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in notes)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine() -> dict[str, str | int]:
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _finite(value: object) -> object:
    """JSON knows no infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
