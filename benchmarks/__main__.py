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
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks import isolation, peers, profiles, report, targets
from benchmarks.scenarios import QUICK, Bench, Numbers, Plan, by_name
from benchmarks.systems import ROOT, Stage, System
from tests.server_process import Server
from tests.servers import ALL

SYSTEMS = ("direct", "embedded", "distributed", "litellm", "portkey", "tensorzero")
SCENARIOS = ("memory", "chat", "latency", "streams", "paced", "limited")
_SETTLE = 3.0  # seconds after the start of the last system, before the first measurement

RunResults = dict[str, dict[str, Numbers]]


def main() -> None:
    options = _options()
    if not options.isolated:
        peers.install(options.systems)
        isolation.enter([*sys.argv[1:], "--isolated"])
    isolation.raise_loopback()
    results = uvloop.run(_measure(options))
    written = report.write(results, options.out)
    print(f"\n{report.markdown(results)}\nwritten: {', '.join(str(path) for path in written)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Headrace beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a second each: does it work?")
    parser.add_argument("--runs", type=int, help="interleaved runs; the results are medians (3; 1 with --quick)")
    parser.add_argument("--systems", type=_names(SYSTEMS), default=SYSTEMS, metavar="A,B", help=", ".join(SYSTEMS))
    parser.add_argument("--only", type=_names(SCENARIOS), default=SCENARIOS, metavar="A,B", help=", ".join(SCENARIOS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--profile", action="store_true", help="profile every scenario, not only missed targets")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.runs = options.runs or (1 if options.quick else 3)
    return options


def _names(known: Sequence[str]) -> "type[tuple[str, ...]]":
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse  # type: ignore[return-value]


async def _measure(options: argparse.Namespace) -> report.Results:
    started = time.time()
    bench = Bench(QUICK if options.quick else Plan())
    runs: list[RunResults] = []
    profiled: list[Path] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        servers = await _servers(stack) if "distributed" in options.systems else {}
        for number in range(options.runs):
            async with AsyncExitStack() as run_stack:
                systems = await Stage(run_stack, folder / f"run{number}", servers, number).start(options.systems)
                await asyncio.sleep(0.5 if options.quick else _SETTLE)
                runs.append(await _run(bench, systems, options.only, number))
                if number == options.runs - 1:
                    profiled = await _profile(bench, systems, runs, options)
    return report.Results(
        runs=runs, versions=peers.install(options.systems), seconds=time.time() - started, profiles=profiled,
        command=" ".join(["python -m benchmarks", *(each for each in sys.argv[1:] if each != "--isolated")]),
    )  # fmt: skip


async def _servers(stack: AsyncExitStack) -> dict[type[Server], Server]:
    servers: dict[type[Server], Server] = {kind: kind() for kind in ALL}
    for server in servers.values():
        await stack.enter_async_context(server)
    return servers


async def _run(bench: Bench, systems: Sequence[System], scenarios: Sequence[str], number: int) -> RunResults:
    """Every scenario on every system, each run beginning with another one."""
    results: RunResults = {}
    for scenario in scenarios:
        measure = by_name(bench)[scenario]
        into = results.setdefault(scenario, {})
        if scenario == "limited":
            # A minute each and hardly any load, so side by side; every system has an upstream of its own.
            limited = [system for system in systems if system.limited]
            numbers = await asyncio.gather(*(measure(system) for system in limited))
            into.update({system.name: each for system, each in zip(limited, numbers, strict=True)})
        else:
            start = number % len(systems)
            for system in (*systems[start:], *systems[:start]):
                if scenario != "memory" or system.own_roles:
                    into[system.name] = await measure(system)
                    _tell(number, scenario, system.name, into[system.name])
        if scenario == "limited":
            for name, each in into.items():
                _tell(number, scenario, name, each)
    return results


def _tell(number: int, scenario: str, system: str, numbers: Numbers) -> None:
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    print(f"run {number + 1}  {scenario:8} {system:12} {shown}", flush=True)


async def _profile(
    bench: Bench, systems: Sequence[System], runs: Sequence[RunResults], options: argparse.Namespace
) -> list[Path]:
    """For each target that was missed, say where the time goes."""
    missed = {(goal.scenario, goal.system) for goal in targets.missed(targets.medians(runs))}
    if options.profile:
        missed = {(scenario, system) for scenario in options.only for system in ("embedded", "distributed")}
    by_system = {system.name: system for system in systems}
    wanted = sorted((scenario, by_system[name]) for scenario, name in missed if name in by_system and scenario != "memory")
    if not wanted or not profiles.available():
        return []
    options.out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for scenario, system in wanted:
        written += await profiles.profile(bench, scenario, system, options.out)
    return written


if __name__ == "__main__":
    main()
