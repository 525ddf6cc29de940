"""What Headrace is to reach, relative to peers in the same run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Scenario, system, number."""
Run = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Goal:
    """`system`'s number over `peer`'s, or by itself, is at least or at most `bound`."""

    scenario: str
    system: str
    number: str
    bound: float
    peer: str = ""
    at_most: bool = False
    peer_number: str = ""

    def reached(self, medians: Medians) -> float | None:
        """The ratio or number to hold against the bound; none when it was not measured."""
        measured = medians.get(self.scenario, {})
        own = measured.get(self.system, {}).get(self.number)
        if own is None or not self.peer:
            return own
        other = measured.get(self.peer, {}).get(self.peer_number or self.number)
        return own / other if other else None

    def met(self, reached: float) -> bool:
        return reached <= self.bound if self.at_most else reached >= self.bound


GOALS = (
    Goal("chat", "embedded", "rate", 25, "litellm"),
    Goal("chat", "embedded", "rate", 1.5, "portkey"),
    Goal("chat", "distributed", "rate", 12, "litellm"),
    Goal("chat", "distributed", "rate", 0.8, "portkey"),
    Goal("chat", "distributed", "cpu_api", 0.6, at_most=True),
    Goal("chat", "distributed", "cpu_worker", 0.7, at_most=True),
    Goal("chat", "distributed", "cpu_rabbitmq", 0.25, at_most=True),
    Goal("chat", "distributed", "cpu_redis", 0.1, at_most=True),
    Goal("latency", "embedded", "added_p50", 1 / 5, "litellm", at_most=True),
    Goal("latency", "embedded", "added_p99", 1 / 5, "litellm", at_most=True),
    Goal("latency", "distributed", "added_p50", 1 / 3, "litellm", at_most=True),
    Goal("latency", "distributed", "added_p99", 1 / 3, "litellm", at_most=True),
    Goal("streams", "embedded", "events", 15, "litellm"),
    Goal("streams", "distributed", "events", 10, "litellm"),
    Goal("paced", "embedded", "streams", 200),
    Goal("paced", "distributed", "streams", 150),
    Goal("memory", "embedded", "embedded", 1 / 3, "litellm", at_most=True, peer_number="litellm"),
    Goal("memory", "distributed", "api", 1 / 3, "litellm", at_most=True, peer_number="litellm"),
    Goal("memory", "distributed", "worker", 1 / 3, "litellm", at_most=True, peer_number="litellm"),
    Goal("limited", "embedded", "share", 97),
    Goal("limited", "embedded", "refused", 0.5, at_most=True),
    Goal("limited", "distributed", "share", 97),
    Goal("limited", "distributed", "refused", 0.5, at_most=True),
)


def medians(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """The median of each number over the runs; latencies get what a system adds to going direct in the same run."""
    collected: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        for scenario, systems in run.items():
            for system, numbers in systems.items():
                into = collected.setdefault(scenario, {}).setdefault(system, {})
                for name, value in {**numbers, **_added(scenario, numbers, systems)}.items():
                    into.setdefault(name, []).append(value)
    return {
        scenario: {
            system: {name: median(values) for name, values in numbers.items()} for system, numbers in systems.items()
        }
        for scenario, systems in collected.items()
    }


def missed(of: Medians) -> list[Goal]:
    return [goal for goal in GOALS if (reached := goal.reached(of)) is not None and not goal.met(reached)]


def _added(scenario: str, numbers: Mapping[str, float], systems: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    direct = systems.get("direct")
    if scenario != "latency" or direct is None or numbers is direct:
        return {}
    return {f"added_{name}": numbers[name] - direct[name] for name in ("p50", "p99")}
