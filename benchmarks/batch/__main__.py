"""`python -m benchmarks.batch`: a batch on Headrace beside what a user would write instead.

    python -m benchmarks.batch
    python -m benchmarks.batch --quick --systems headrace,script

Four questions, on loopback, with RabbitMQ, Redis and PostgreSQL of the run's own:

    rate    10,000 lines over an upstream that takes 50 ms: Headrace (one api, one worker, ledger on), Celery with the
            `openai` client (RabbitMQ and Redis, gevent and threads), an asyncio script with the `openai` client
    start   background jobs at 50 a second: milliseconds from the client's call to the worker's start, and to the
            request's arrival upstream
    memory  one batch of 50,000 lines: how every process grows from the first 1,000 lines to the last
    quiet   a tenant that asks ten times a second: how long its requests wait for a worker and a key, alone and beside
            another tenant's batch of 10,000 lines and bursts of 500 requests
"""

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks import isolation, peers
from benchmarks.batch import quiet, report
from benchmarks.batch.contenders import Celery, Contender, Headrace, Script
from benchmarks.systems import ROOT, Stage, System

CONTENDERS = ("headrace", "script", "celery-threads", "celery-gevent")
QUESTIONS = ("rate", "start", "memory", "quiet")
_PROGRAM = "benchmarks.batch"


def main() -> None:
    options = _options()
    arguments = sys.argv[1:] if not options.stage else sys.argv[1:-2]
    if not options.stage:
        peers.install(["celery"])
        isolation.enter([*arguments, "--stage", "servers"], _PROGRAM)
    if options.stage == "servers":
        isolation.raise_loopback()
        isolation.start_servers([*arguments, "--stage", "measure"], _PROGRAM)
    results = uvloop.run(_measure(options))
    print(f"\n{report.markdown(results)}\nwritten to {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Batches on Headrace and its alternatives.")
    parser.add_argument("--quick", action="store_true", help="200 lines: does it work? measures nothing")
    parser.add_argument("--runs", type=int, help="interleaved runs of `rate`; the results are medians (3)")
    parser.add_argument("--lines", type=int, help="of a batch in `rate` (10,000)")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(QUESTIONS))
    parser.add_argument("--out", type=Path, help="folder of the results; only a complete run replaces the committed")
    parser.add_argument("--stage", choices=("servers", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for given, known in ((options.systems, CONTENDERS), (options.only, QUESTIONS)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    complete = not options.quick and set(options.systems) == set(CONTENDERS) and set(options.only) == set(QUESTIONS)
    complete = complete and options.runs is None and options.lines is None
    options.out = options.out or (ROOT / "benchmarks" / "results" if complete else peers.FOLDER / "results")
    options.runs = options.runs or (1 if options.quick else 3)
    options.lines = options.lines or (200 if options.quick else 10_000)
    return options


async def _measure(options: argparse.Namespace) -> report.Results:
    """All runs. The files are written after each, so that an interrupted benchmark leaves what it has found."""
    results = report.Results(lines=options.lines, celery=peers.version("celery") or "")
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        for number in range(options.runs if set(options.only) != {"quiet"} else 0):
            async with AsyncExitStack() as stack:
                (system,) = await Stage(stack, Path(folder) / f"run{number}", number).start(["distributed"])
                if "rate" in options.only:
                    contenders = await _contenders(stack, system, Path(folder), options.systems, number)
                    await _rates(contenders, options.lines, results)
                if number == options.runs - 1:
                    headrace = Headrace(system, Path(folder))
                    if "start" in options.only:
                        results.start = await headrace.starts(seconds=2 if options.quick else 20)
                    if "memory" in options.only:
                        results.memory = await headrace.memory(2_000 if options.quick else 50_000)
                report.write(results, options.out)
        if "quiet" in options.only:
            await _quiet(options, Path(folder), results)
    return results


async def _quiet(options: argparse.Namespace, folder: Path, results: report.Results) -> None:
    flood = quiet.Flood(lines=1_000, burst=50) if options.quick else quiet.Flood(lines=10_000, burst=500)
    for setting in quiet.SETTINGS:
        seconds = 2.0 if options.quick else 20.0
        numbers = await quiet.measure(setting, flood, seconds, folder / f"quiet-{setting.latency_ms}")
        results.quiet[setting.name] = numbers
        print(f"quiet {setting.name}: {json.dumps(numbers)}", flush=True)
        report.write(results, options.out)


async def _contenders(
    stack: AsyncExitStack, system: System, folder: Path, names: list[str], number: int
) -> list[Contender]:
    upstream = f"http://127.0.0.1:{system.upstream}/v1"
    everybody: dict[str, Contender] = {
        "headrace": Headrace(system, folder),
        "celery-gevent": Celery("gevent", 100, upstream, folder, number),
        "celery-threads": Celery("threads", 64, upstream, folder, number),
        "script": Script(upstream, folder),
    }
    chosen = [everybody[name] for name in names]
    for each in chosen:
        stack.push_async_callback(each.stop)
        await each.start()
    return chosen if number % 2 == 0 else chosen[::-1]


async def _rates(contenders: list[Contender], lines: int, results: report.Results) -> None:
    for each in contenders:
        await asyncio.sleep(1.0)  # what the one before left to write is written
        numbers = await each.run(lines)
        results.rates.setdefault(each.name, []).append(numbers)
        print(f"rate  {each.name:15} {json.dumps(numbers)}", flush=True)


if __name__ == "__main__":
    main()
