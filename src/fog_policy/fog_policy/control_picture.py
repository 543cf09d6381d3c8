"""The control report as a picture: latencies, intervals, and what stopped the robot. No ROS here.

    python -m fog_policy.control_picture report.json report.png

A process of its own: drawing takes a second, and the node that asks for it may be driving.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _GREY, _RED = "#2a6fbb", "#8a8f98", "#c0392b"


def draw(report: Mapping[str, Any]) -> Figure:
    """Draw a report.

    Args:
        report: As policy_node writes it: :meth:`.control_report.ControlReport.to_dict` and, under
            ``series``, :meth:`.control_report.ControlReport.series`.
    """
    series = report.get("series", {})
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.subplots(2, 2)
    period_ms = 1000.0 / report["declared_hz"]
    name = report.get("task", "policy")
    achieved = report.get("achieved_hz")
    rate = "no rate measured" if achieved is None else f"{achieved:.3g} Hz"
    figure.suptitle(
        f"{name}: {rate} of {report['declared_hz']:g} Hz, "
        f"{report['missed_deadlines']} deadlines missed"
    )
    latency, inference = series.get("latency_ms", []), series.get("inference_ms", [])
    _lines(grid[0, 0], {"image to command": latency, "inference": inference}, "time, ms")
    _lines(grid[0, 1], {"between two commands": series.get("interval_ms", [])}, "interval, ms")
    grid[0, 1].axhline(period_ms, color=_GREY, linewidth=0.8, linestyle="--")
    if latency:
        grid[1, 0].hist(latency, bins=50, color=_BLUE)
    grid[1, 0].set(xlabel="image to command, ms", ylabel="commands")
    stops = report.get("stops", {})
    if stops:
        grid[1, 1].barh(list(stops), [s["events"] for s in stops.values()], color=_RED)
        grid[1, 1].set(xlabel="stops")
    else:
        grid[1, 1].text(0.5, 0.5, "no stops", ha="center", va="center", color=_GREY)
        grid[1, 1].set_axis_off()
    return figure


def _lines(axes: Axes, curves: Mapping[str, Sequence[float]], label: str) -> None:
    for (name, values), colour in zip(curves.items(), (_BLUE, _GREY), strict=False):
        axes.plot(values, color=colour, linewidth=0.8, label=name)
    axes.set(xlabel="command", ylabel=label, ylim=(0, None))
    axes.legend(loc="upper right", frameon=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the report in one file into another."""
    source, target = sys.argv[1:] if arguments is None else arguments
    part = Path(f"{target}.part")
    report = json.loads(Path(source).read_text(encoding="utf-8"))
    draw(report).savefig(part, format="png", dpi=110)
    part.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
