"""The results as bars."""

from math import isfinite
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import targets
from benchmarks.report import COLUMNS

_SHOWN = (
    ("chat", "rate"), ("streams", "events"), ("paced", "streams"), ("latency", "added_p50"), ("latency", "added_p99"),
    ("memory", "largest"),
)  # fmt: skip
_OURS, _THEIRS = "#1f6feb", "#9aa4b2"


def draw(medians: targets.Medians, path: Path) -> Path:
    """One panel for each scenario. The scale is logarithmic, as the systems differ by orders of magnitude."""
    mpl.rcParams["svg.hashsalt"] = "headrace"  # the same results give the same file
    columns = [each for each in COLUMNS if (each.scenario, each.number) in _SHOWN and medians.get(each.scenario)]
    figure = Figure(figsize=(11, 2.4 * ((len(columns) + 1) // 2 or 1)), layout="constrained")
    for number, column in enumerate(columns):
        axes = figure.add_subplot((len(columns) + 1) // 2, 2, number + 1)
        values = {
            system: numbers[column.number]
            for system, numbers in medians[column.scenario].items()
            if isfinite(numbers.get(column.number, float("inf")))
        }
        names = list(values)[::-1]
        colours = [_OURS if name in ("embedded", "distributed") else _THEIRS for name in names]
        bars = axes.barh(names, [values[name] for name in names], color=colours)
        axes.bar_label(bars, [column.form.format(values[name]) for name in names], padding=3, fontsize=8)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_title(column.title, fontsize=10)
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    return path
