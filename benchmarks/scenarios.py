"""What is measured. Each scenario asks one system and returns numbers by name."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks import processes
from benchmarks.load import ClosedLoop, OpenLoop, Sample, percentile
from benchmarks.systems import System
from benchmarks.upstream import GAP, PACED_EVENTS, RPM

Numbers = dict[str, float]
Measure = Callable[[System], Coroutine[None, None, Numbers]]

CHAT_CLIENTS = 32
STREAMS = 50
RATE = 20.0  # requests a second, below what the slowest system can do
LATENCY_MODEL = "bench-latency-50"
LIMITED_CLIENTS = 60
LIMITED_KEYS = 3
FIRST_TOKEN_LIMIT = 0.250  # seconds
_STREAM_SECONDS = PACED_EVENTS * GAP


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, in seconds."""

    warmup: float = 2.0
    """Before each measurement."""
    first_warmup: float = 4.0
    """Once after the start, for what a system does at its first requests."""
    chat: float = 6.0
    latency: float = 8.0
    streams: float = 6.0
    paced: float = 3.0
    limited: float = 61.0
    limited_warmup: float = 6.0
    rungs: tuple[int, ...] = (1, 5, 10, 25, 50, 100, 150, 200, 250, 300, 400)
    """Numbers of paced streams to try."""


QUICK = Plan(0.3, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 1.0, (1, 5, 25))


@dataclass(slots=True)
class Bench:
    """Measures one system after the other; remembers where the last search for a system's limit ended."""

    plan: Plan = field(default_factory=Plan)
    found: dict[str, int] = field(default_factory=dict)

    async def memory(self, system: System) -> Numbers:
        """MiB of each process that has nothing to do. A process's children count as its own."""
        own = {role: processes.resident_mib(pid) for role, pid in system.processes.items() if role in system.own_roles}
        return {role: sum(sizes) for role, sizes in own.items()} | {"largest": max(map(sum, own.values()), default=0.0)}

    async def warm(self, system: System) -> None:
        """Both kinds of requests, for nothing."""
        for stream in (False, True):
            load = ClosedLoop(system.target, system.target.request("bench", stream=stream), CHAT_CLIENTS)
            await load.run(0.0, warmup=self.plan.first_warmup / 2)

    async def chat(self, system: System) -> Numbers:
        """Short answers at once: requests a second, and CPU a request of every process that takes part."""
        before = system.cpu_seconds()
        load = ClosedLoop(system.target, system.target.request("bench"), CHAT_CLIENTS)
        sample = await load.run(self.plan.chat, warmup=self.plan.warmup)
        after = system.cpu_seconds()
        done = max(load.answered, 1)
        cpu = {f"cpu_{role}": (after[role] - before[role]) / done * 1000 for role in after}
        return {
            "rate": sample.rate,
            "failed": len(sample.answers) - len(sample.good),
            "p50": percentile([each.ended - each.started for each in sample.good], 0.50) * 1000,
            "p99": percentile([each.ended - each.started for each in sample.good], 0.99) * 1000,
            "cpu_load": sample.cpu / max(len(sample.answers), 1) * 1000,
            **cpu,
        }

    async def latency(self, system: System) -> Numbers:
        """Milliseconds of an answer that takes the upstream 50 ms, while little happens."""
        load = OpenLoop(system.target, system.target.request(LATENCY_MODEL))
        sample = await load.run(RATE, self.plan.latency, warmup=self.plan.warmup)
        times = [(each.ended - each.started) * 1000 for each in sample.good]
        failed = round(RATE * self.plan.latency) - len(times)
        return {"p50": percentile(times, 0.50), "p99": percentile(times, 0.99), "failed": max(failed, 0)}

    async def streams(self, system: System) -> Numbers:
        """Events a second of streams that the upstream writes at once."""
        before = system.cpu_seconds()
        load = ClosedLoop(system.target, system.target.request("bench", stream=True), STREAMS)
        sample = await load.run(self.plan.streams, warmup=self.plan.warmup)
        after = system.cpu_seconds()
        events = max(load.events, 1)
        return {
            "events": sample.events / sample.seconds,
            "broken": _broken(sample),
            **{f"cpu_{role}": (after[role] - before[role]) / events * 1e6 for role in after},
        }

    async def paced(self, system: System) -> Numbers:
        """The largest number of live streams at once of which none loses an event and nearly all start promptly."""
        rungs = self.plan.rungs
        low, high = -1, len(rungs)  # rungs[low] holds, rungs[high] does not
        best: Numbers = {"first_p99": float("inf")}
        probe = self.found.get(system.name, len(rungs) // 2)
        while high - low > 1:
            numbers = await self._rung(system, rungs[probe])
            if numbers["broken"] == 0 and numbers["first_p99"] < FIRST_TOKEN_LIMIT * 1000:
                low, best = probe, numbers
            else:
                high = probe
            # The second run begins where the first ended, and its neighbours decide.
            probe = (low + high) // 2 if system.name not in self.found else (probe + 1 if low == probe else probe - 1)
        self.found[system.name] = max(low, 0)
        return {"streams": float(rungs[low]) if low >= 0 else 0.0, "first_p99": best["first_p99"]}

    async def _rung(self, system: System, streams: int) -> Numbers:
        load = ClosedLoop(system.target, system.target.request("bench-paced", stream=True), streams)
        sample = await load.run(self.plan.paced, warmup=self.plan.warmup / 4, spread=_STREAM_SECONDS)
        first = [(each.first - each.started) * 1000 for each in sample.answers if each.first]
        missing = max(streams - len(sample.answers), 0)  # each should have ended at least once
        return {"broken": _broken(sample) + missing, "first_p99": percentile(first, 0.99)}

    async def limited(self, system: System) -> Numbers:
        """More clients than three limited keys can serve: how much of their rate is used, how often they say no.

        `share` leaves out the beginning, when full buckets may exceed the rate. `first_minute` begins with the first
        request: its greatest value is 100 %, as the upstream counts over any minute.
        """
        assert system.limited is not None
        load = ClosedLoop(system.limited, system.limited.request("bench-limit"), LIMITED_CLIENTS)
        started = perf_counter()
        sample = await load.run(self.plan.limited_warmup + self.plan.limited, warmup=0.0)
        stats = await system.limited_stats()
        ended = [each.ended - started for each in sample.good]
        late = sum(at > self.plan.limited_warmup for at in ended)
        rate = LIMITED_KEYS * RPM / 60  # requests a second
        return {
            "share": late / (rate * self.plan.limited) * 100,
            "first_minute": sum(at <= 60 for at in ended) / (rate * 60) * 100,
            "refused": stats["refused"] / max(stats["allowed"] + stats["refused"], 1) * 100,
            "failed": len(sample.answers) - len(sample.good),
            "p99": percentile([each.ended - each.started for each in sample.good], 0.99) * 1000,
        }


def _broken(sample: Sample) -> int:
    return sum(not each.is_whole_stream(PACED_EVENTS) for each in sample.answers)


def by_name(bench: Bench) -> dict[str, Measure]:
    return {
        "memory": bench.memory,
        "chat": bench.chat,
        "latency": bench.latency,
        "streams": bench.streams,
        "paced": bench.paced,
        "limited": bench.limited,
    }
