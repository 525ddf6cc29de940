"""`python -m benchmarks.keys`: what a key's limits and budgets cost the api.

    python -m benchmarks.keys
    python -m benchmarks.keys --seconds 2 --runs 1

One api and one worker with RabbitMQ, Redis and PostgreSQL of the run's own, an upstream without latency, and the same
chat with one key after another: the master key, a key that nothing limits, one with limits, and one with limits and a
budget whose team and user have budgets too. Beside them LiteLLM with its master key: it keeps keys in a database only,
which it reaches through an engine that Prisma's own server has and no package registry. The kinds are interleaved; the
results are medians, and of what a kind adds the median of the rounds' differences.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import uvloop
import yaml

from benchmarks import isolation, peers, processes
from benchmarks.load import ClosedLoop, Target, percentile
from benchmarks.peers import FOLDER
from benchmarks.report import machine
from benchmarks.systems import ROOT, Stage
from tests.e2e.deployment import MASTER_KEY, Headrace, Process, Servers
from tests.server_process import free_port
from tests.servers import Postgres, RabbitMQ, Redis

_PROGRAM = "benchmarks.keys"
_CLIENTS = 16
_MODEL = "bench"
_MOST = 1_000_000  # of every limit: it is counted, and never reached
_TARGET = 0.15  # ms of the api's CPU that admission may add

_BASE = "nothing"
_LIMITS: Mapping[str, object] = {"rpm_limit": _MOST, "tpm_limit": 1000 * _MOST, "max_parallel_requests": 1000}
_BUDGET: Mapping[str, object] = {"max_budget": _MOST, "budget_duration": "30d"}


@dataclass(frozen=True, slots=True)
class Numbers:
    rate: float
    p50: float
    """Milliseconds."""
    cpu: Mapping[str, float]
    """Milliseconds a request, by process."""


def main() -> None:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="What a key's limits cost the api.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (5)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved; the results are medians (5)")
    parser.add_argument("--stage", choices=("servers", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    arguments = sys.argv[1:] if not options.stage else sys.argv[1:-2]
    if not options.stage:
        peers.install(["litellm"])
        isolation.enter([*arguments, "--stage", "servers"], _PROGRAM)
    if options.stage == "servers":
        isolation.raise_loopback()
        isolation.start_servers([*arguments, "--stage", "measure"], _PROGRAM)
    page = uvloop.run(_measure(options.seconds, options.runs))
    complete = (options.seconds, options.runs) == (5.0, 5)
    out = (ROOT / "benchmarks" if complete else FOLDER) / "results" / "keys.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    print(f"\n{page}\nwritten to {out}")


@dataclass(frozen=True, slots=True)
class _Caller:
    target: Target
    processes: Mapping[str, int]
    """Their ids, by role."""


async def _measure(seconds: float, runs: int) -> str:
    load_average = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-keys-")))
        callers = await _headrace(stack, folder)
        for system in await Stage(stack, folder / "peers", 0).start(["litellm"]):
            callers[f"LiteLLM {peers.version('litellm')}, its master key"] = _Caller(
                system.target, {"api": system.processes["litellm"]}
            )
        found: dict[str, list[Numbers]] = {kind: [] for kind in callers}
        for _ in range(runs):
            for kind, caller in callers.items():
                found[kind].append(await _run(caller, seconds))
                print(kind, found[kind][-1], flush=True)
    return _page(found, load_average)


async def _headrace(stack: AsyncExitStack, folder: Path) -> dict[str, _Caller]:
    """By the kind of their key."""
    port = free_port()
    upstream = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.upstream", "--port", str(port))
    stack.push_async_callback(upstream.wait)
    stack.callback(upstream.terminate)
    urls = [os.environ[each.variable] for each in (RabbitMQ, Redis, Postgres)]
    headrace = Headrace(_config(folder, port), Servers(*urls, namespace="keys"), folder, _QUIET)
    stack.push_async_callback(headrace.stop)
    await headrace.start_api()
    await headrace.start_worker()
    roles = {"api": _pid(headrace.apis[0]), "worker": _pid(headrace.workers[0])}
    return {
        kind: _Caller(Target(headrace.ports[0], headers={"Authorization": f"Bearer {key}"}), roles)
        for kind, key in (await _keys(headrace)).items()
    }


_QUIET = {"HEADRACE_DISABLE_LOGGING": "true", "HEADRACE_LOG_LEVEL": "warning"}


def _config(folder: Path, port: int) -> Path:
    params = {
        "model": f"openai/{_MODEL}",
        "api_base": f"http://127.0.0.1:{port}/v1",
        "api_key": "sk-bench",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"model_list": [{"model_name": _MODEL, "litellm_params": params}]}))
    return config


async def _keys(headrace: Headrace) -> dict[str, str]:
    """A key of each kind."""
    async with aiohttp.ClientSession(headrace.url, headers={"Authorization": f"Bearer {MASTER_KEY}"}) as session:

        async def made(path: str, body: Mapping[str, object]) -> str:
            async with session.post(path, json=body) as response:
                answer = await response.json()
                assert response.status == 200, answer
                return str(answer.get("key", ""))

        await made("/team/new", {"team_id": "team", **_LIMITS, **_BUDGET})
        await made("/user/new", {"user_id": "user", "auto_create_key": False, **_BUDGET})
        await made("/team/member_add", {"team_id": "team", "member": {"role": "user", "user_id": "user"}})
        return {
            "the master key": MASTER_KEY,
            _BASE: await made("/key/generate", {}),
            "requests, tokens, parallel": await made("/key/generate", _LIMITS),
            "the same, and budgets of key, team and user": await made(
                "/key/generate", {"team_id": "team", "user_id": "user", **_LIMITS, **_BUDGET}
            ),
        }


async def _run(caller: _Caller, seconds: float) -> Numbers:
    target = caller.target
    await ClosedLoop(target, target.request(_MODEL), _CLIENTS).run(0.5, warmup=0.5)
    before = {role: processes.cpu_seconds(pid) for role, pid in caller.processes.items()}
    sample = await ClosedLoop(target, target.request(_MODEL), _CLIENTS).run(seconds, warmup=0.0)
    after = {role: processes.cpu_seconds(pid) for role, pid in caller.processes.items()}
    answers = sample.good
    assert answers, "no request was answered"
    return Numbers(
        rate=sample.rate,
        p50=percentile([(each.ended - each.started) * 1000 for each in answers], 0.5),
        cpu={role: (after[role] - before[role]) * 1000 / len(answers) for role in caller.processes},
    )


def _pid(process: Process) -> int:
    assert process.process is not None
    return process.process.pid


def _page(found: Mapping[str, list[Numbers]], load_average: float) -> str:
    def cpu(kind: str, role: str) -> float:
        return median(each.cpu[role] for each in found[kind])

    def row(kind: str) -> str:
        rate, p50 = median(each.rate for each in found[kind]), median(each.p50 for each in found[kind])
        ours = "worker" in found[kind][0].cpu
        pairs = zip(
            found[kind], found[_BASE], strict=True
        )  # a round's: the machine's speed drifts from one to the next
        added = f"{median(each.cpu['api'] - base.cpu['api'] for each, base in pairs):+.3f}" if ours else ""
        worker = f"{cpu(kind, 'worker'):.3f}" if ours else ""
        return f"| {kind} | {rate:.0f} | {p50:.1f} | {cpu(kind, 'api'):.3f} | {added} | {worker} |"

    on = machine()
    lines = [
        "# What a key's limits cost",
        "",
        f"`python -m benchmarks.keys`: {on['cores']} cores, {on['cpu']}. Load average before: {load_average:.1f}. "
        f"{_CLIENTS} clients, medians. Admission may add {_TARGET} ms to the api, and one round trip to Redis.",
        "",
        "| what limits the key | requests/s | p50 ms | api, ms CPU a request | added | worker, ms CPU |",
        "|---|---:|---:|---:|---:|---:|",
        *map(row, found),
        "",
        "LiteLLM has no database here, and so no keys to check: the engine that it needs for one cannot be installed "
        "from a package registry.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
