"""What `benchmarks.batch` found, as a table and as JSON."""

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.report import machine

Numbers = dict[str, float]

_CELERY = ("celery-gevent", "celery-threads")
_START_P50, _START_P99 = 5.0, 50.0  # ms
_GROWTH = 30.0  # MiB
_QUIET = 2.0  # times the wait alone


@dataclass(slots=True)
class Results:
    lines: int
    celery: str
    rates: dict[str, list[Numbers]] = field(default_factory=dict)
    start: Numbers = field(default_factory=dict)
    memory: dict[str, Numbers] = field(default_factory=dict)
    quiet: dict[str, Numbers] = field(default_factory=dict)
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])

    def times(self, others: Collection[str]) -> float:
        """Headrace's rate by that of the fastest of the others, the median of the runs' ratios: a machine that others
        use, too, changes its speed from one minute to the next, and neighbours in a run have much the same. 0 when
        there is nothing to compare."""
        rivals = [self.rates[name] for name in others if name in self.rates]
        if not rivals or "headrace" not in self.rates:
            return 0.0
        fastest = [max(each["rate"] for each in run) for run in zip(*rivals, strict=True)]
        return median(ours["rate"] / rate for ours, rate in zip(self.rates["headrace"], fastest, strict=True))

    def medians(self) -> dict[str, Numbers]:
        return {name: {key: median(run[key] for run in runs) for key in runs[0]} for name, runs in self.rates.items()}


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batch.md").write_text(markdown(results))
    content = {"machine": machine(), **asdict(results), "medians": results.medians()}
    (folder / "batch.json").write_text(json.dumps(content, indent=1) + "\n")


def markdown(results: Results) -> str:
    found = machine()
    parts = [
        f"# Batches\n\n`python -m benchmarks.batch`: {found['cores']} cores, {found['cpu']}, Python {found['python']}, "
        f"Celery {results.celery}. Load average before the start: {results.load_average:.1f}.",
        _rates(results),
        _start(results),
        _memory(results),
        _quiet(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rates(results: Results) -> str:
    medians = results.medians()
    if not medians:
        return ""
    runs = max(len(each) for each in results.rates.values())
    rows = ["| | lines/s | right | CPU, ms a line |", "|---|---|---|---|"]
    for name, numbers in medians.items():
        cpu = ", ".join(f"{key[4:]} {value:.2f}" for key, value in numbers.items() if key.startswith("cpu_"))
        rows.append(f"| {name} | {numbers['rate']:,.0f} | {numbers['right']:,.0f} | {cpu} |")
    text = f"## {results.lines:,} lines, upstream 50 ms (median of {runs})\n\n" + "\n".join(rows)
    told = []
    if celery := results.times(_CELERY):
        told.append(f"{celery:.2f} x Celery at its best (target 4).")
    if script := results.times(["script"]):
        told.append(f"{script:.2f} x the script (target 2).")
    if told:
        text += f"\n\n{' '.join(told)} Each the median of the runs' ratios."
    return text


def _start(results: Results) -> str:
    if not results.start:
        return ""
    start = results.start
    return (
        "## From submit to start, ms\n\n"
        f"{start['jobs']:.0f} background jobs at 50 a second, {start['accepted']:.0f} accepted. "
        "From the client's call to the start of the worker's attempt: "
        f"p50 {start['start_p50']:.1f} (target {_START_P50:.0f}), "
        f"p99 {start['start_p99']:.1f} (target {_START_P99:.0f}). "
        f"To the request's arrival upstream: p50 {start['p50']:.1f}, p99 {start['p99']:.1f}."
    )


def _memory(results: Results) -> str:
    if not results.memory:
        return ""
    rows = ["| process | after 1,000 lines | at the most | at the end |", "|---|---|---|---|"]
    for role, sizes in results.memory.items():
        if role != "lines":
            rows.append(f"| {role} | {sizes['early']:.0f} | {sizes['peak']:.0f} | {sizes['end']:.0f} |")
    lines = results.memory["lines"]["right"]
    return f"## Memory, MiB, a batch of {lines:,.0f} lines (target: under {_GROWTH:.0f} growth)\n\n" + "\n".join(rows)


def _quiet(results: Results) -> str:
    if not results.quiet:
        return ""
    rows = [
        "| bottleneck | alone p50 | p99 | most | in a flood p50 | p99 | most | p99 x | its requests/s | its lines/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.quiet.items():
        waits = [f"{found[f'{when}_{what}']:.1f}" for when in ("alone", "beside") for what in ("p50", "p99", "most")]
        ratio = found["beside_p99"] / found["alone_p99"]
        flood = [f"{found[f'flood_{what}_per_second']:.0f}" for what in ("requests", "lines")]
        rows.append(f"| {' | '.join([name, *waits, f'{ratio:.1f}', *flood])} |")
    return (
        "## A quiet tenant's wait for a worker and a key, ms\n\n"
        "Ten requests a second, beside another tenant's batch and its bursts of requests, each sent when the last is "
        f"answered (target: p99 within {_QUIET:.0f} x).\n\n" + "\n".join(rows)
    )
