"""What a worker reports of its lanes with each heartbeat, and the sum over all workers.

On the wire: `{"lanes": {"openai.interactive": {"in_flight": 3, "drain_rate": 12.5, "drained": 940}}}`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import orjson

from shared.jobs import Lane


@dataclass(frozen=True, slots=True)
class LaneReport:
    in_flight: int
    """Jobs in hand."""
    drain_rate: float
    """Jobs per second that left it, a moving average."""
    drained: int = 0
    """Jobs that left it since the worker started."""


def lane_id(provider: str, lane: Lane) -> str:
    return f"{provider}.{lane.value}"


def to_wire(lanes: Mapping[str, LaneReport]) -> bytes:
    """A report; the keys are lane ids."""
    return orjson.dumps({"lanes": {lane: asdict(report) for lane, report in lanes.items()}})


def from_wire(wire: bytes) -> dict[str, LaneReport]:
    """Raises `ValueError` for what `to_wire` did not make."""
    try:
        lanes = orjson.loads(wire)["lanes"]
        return {
            lane: LaneReport(int(report["in_flight"]), float(report["drain_rate"]), int(report.get("drained", 0)))
            for lane, report in lanes.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a worker's report: {exc!r}") from exc


def total(wires: Iterable[bytes]) -> dict[str, LaneReport]:
    """The sum by lane. A report that cannot be read is left out: during an upgrade versions mix."""
    totals: dict[str, LaneReport] = {}
    for wire in wires:
        try:
            lanes = from_wire(wire)
        except ValueError:
            continue
        for lane, report in lanes.items():
            before = totals.get(lane, LaneReport(0, 0.0))
            totals[lane] = LaneReport(
                before.in_flight + report.in_flight,
                before.drain_rate + report.drain_rate,
                before.drained + report.drained,
            )
    return totals
