"""The kill matrix in full: `make chaos`."""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from tests.chaos import cell, table
from tests.chaos.cell import Phase, Result
from tests.chaos.fleet import Fleet, Victim, fleet


async def matrix(victims: list[Victim], phases: list[Phase], seed: int) -> list[Result]:
    """All cells, one after the other in one deployment; one with violations costs its deployment."""
    results: list[Result] = []
    rng = Random(seed)
    async with AsyncExitStack() as stack:
        running: Fleet | None = None
        for victim in victims:
            for phase in phases:
                if running is None:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-chaos-"))
                    running = await stack.enter_async_context(fleet(Path(folder), rng))
                started = time.monotonic()
                result = await cell.run(running, victim, phase)
                print(f"{len(results) + 1:2} {result} (the cell {time.monotonic() - started:.0f} s)", flush=True)
                if result.violations:
                    print("\n".join(f"   VIOLATED: {each[:2000]}" for each in result.violations))
                    print(running.tails(), flush=True)
                    await stack.aclose()
                    running = None
                results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Kill every part of a deployment in every phase.")
    parser.add_argument("--victim", action="append", type=Victim, choices=list(Victim), help="may be repeated")
    parser.add_argument("--phase", action="append", type=Phase, choices=list(Phase), help="may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of the small differences in timing")
    parser.add_argument("--write", type=Path, help="put the table between the marks in this file")
    options = parser.parse_args()
    results = asyncio.run(matrix(options.victim or list(Victim), options.phase or list(Phase), options.seed))
    print(f"\n{table.markdown(results)}")
    if options.write is not None:
        table.write(options.write, results)
    sys.exit(any(result.violations for result in results))


if __name__ == "__main__":
    main()
