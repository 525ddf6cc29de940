"""`make bench`: Headrace and its peers under the same load, in one run, on loopback.

    python -m benchmarks
    python -m benchmarks --quick --systems direct,embedded --only chat

It judges nothing by the clock: the results are a table of ratios to peers that ran between the same two seconds.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks import isolation, peers, profiles, report, targets
from benchmarks.scenarios import QUICK, Bench, Numbers, Plan, by_name
from benchmarks.systems import ROOT, Stage, System

SYSTEMS = ("direct", "embedded", "distributed", "litellm", "portkey", "tensorzero")
SCENARIOS = ("memory", "chat", "latency", "streams", "paced", "limited")
_SETTLE = 3.0  # seconds after the start of the last system, before the first measurement

RunResults = dict[str, dict[str, Numbers]]


def main() -> None:
    options = _options()
    arguments = sys.argv[1:] if not options.stage else sys.argv[1:-2]
    if not options.stage:
        peers.install(options.systems)
        isolation.enter([*arguments, "--stage", "servers"])
    if options.stage == "servers":
        isolation.raise_loopback()
        if "distributed" in options.systems:
            isolation.start_servers([*arguments, "--stage", "measure"])
    results = uvloop.run(_measure(options, arguments))
    print(f"\n{report.markdown(results)}\nwritten to {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Headrace beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a second each: does it work?")
    parser.add_argument("--runs", type=int, help="interleaved runs; the results are medians (3; 1 with --quick)")
    parser.add_argument("--systems", type=_names(SYSTEMS), default=SYSTEMS, metavar="A,B", help=", ".join(SYSTEMS))
    parser.add_argument("--only", type=_names(SCENARIOS), default=SCENARIOS, metavar="A,B", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--out", type=Path, help="folder of the results; only a complete run replaces the committed ones"
    )
    parser.add_argument("--profile", action="store_true", help="profile every scenario, not only missed targets")
    parser.add_argument("--stage", choices=("servers", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 3)
    complete = not options.quick and options.runs >= 3 and options.systems == SYSTEMS and options.only == SCENARIOS
    options.out = options.out or (ROOT / "benchmarks" / "results" if complete else peers.FOLDER / "results")
    return options


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


async def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> report.Results:
    """All runs. The files are written after each, so that an interrupted benchmark leaves what it has found."""
    started = time.time()
    bench = Bench(QUICK if options.quick else Plan())
    results = report.Results(
        command=" ".join(["python -m benchmarks", *arguments]),
        versions={name: found for name in options.systems if (found := peers.version(name))},
    )
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        for number in range(options.runs):
            async with AsyncExitStack() as stack:
                systems = await Stage(stack, Path(folder) / f"run{number}", number).start(options.systems)
                await asyncio.sleep(0.5 if options.quick else _SETTLE)
                results.runs.append(await _run(bench, systems, options.only, number))
                if number == options.runs - 1:
                    results.profiles += await _profile(bench, systems, results.runs, options)
            results.seconds = time.time() - started
            report.write(results, options.out)
    return results


async def _run(bench: Bench, systems: Sequence[System], scenarios: Sequence[str], number: int) -> RunResults:
    """Every scenario on every system, each run beginning with another system."""
    results: RunResults = {}
    start = number % len(systems)
    order = [*systems[start:], *systems[:start]]
    if "memory" in scenarios:  # before there was anything to do
        results["memory"] = {system.name: await bench.memory(system) for system in order if system.own_roles}
    for system in order:
        await bench.warm(system)
    for scenario in scenarios:
        measure = by_name(bench)[scenario]
        if scenario == "limited":
            # A minute each and hardly any load, so side by side; every system has an upstream of its own.
            limited = [system for system in order if system.limited]
            numbers = await asyncio.gather(*(measure(system) for system in limited))
            results[scenario] = {system.name: each for system, each in zip(limited, numbers, strict=True)}
        elif scenario != "memory":
            results[scenario] = {}
            for system in order:
                results[scenario][system.name] = await measure(system)
        _tell(number, scenario, results[scenario])
    return results


def _tell(number: int, scenario: str, results: Mapping[str, Numbers]) -> None:
    for system, numbers in results.items():
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        print(f"run {number + 1}  {scenario:8} {system:12} {shown}", flush=True)


async def _profile(
    bench: Bench, systems: Sequence[System], runs: Sequence[targets.Run], options: argparse.Namespace
) -> list[Path]:
    """For each target that was missed, say where the time goes."""
    missed = {(goal.scenario, goal.system) for goal in targets.missed(targets.medians(runs)) if not options.quick}
    if options.profile:
        missed = {(scenario, system) for scenario in options.only for system in ("embedded", "distributed")}
    by_system = {system.name: system for system in systems}
    wanted = [
        (scenario, by_system[name]) for scenario, name in sorted(missed) if name in by_system and scenario != "memory"
    ]
    if not wanted or not profiles.available():
        return []
    options.out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for scenario, system in wanted:
        written += await profiles.profile(bench, scenario, system, options.out)
    return written


if __name__ == "__main__":
    main()
