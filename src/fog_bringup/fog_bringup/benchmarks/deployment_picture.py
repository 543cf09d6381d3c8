"""Runs of the control loop as a picture: latency, rhythm and memory over time, a row per rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fog_bringup.report_theme import WIDTH_IN, Theme, legend

_ROW_IN = 2.6
_BINS = 60
"""Percentiles over time are taken in so many parts of a run."""
_FEWEST = 20
"""Commands in a part at least: a percentile of fewer says nothing."""


def draw_runs(
    runs: Sequence[Mapping[str, Any]], series: Sequence[Mapping[str, Any]], theme: Theme
) -> Figure:
    """Draw runs.

    Args:
        runs: As ``fog benchmark deployment`` gives them.
        series: Of each: ``latency_ms`` and ``interval_ms`` of every command, ``memory_s`` and
            ``memory_mb``.
        theme: Colours.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.05)
    figure = Figure(figsize=(WIDTH_IN, _ROW_IN * len(runs)), layout=layout)
    grid = figure.subplots(len(runs), 3, squeeze=False, width_ratios=(2, 2, 1.1))
    for row, run, curves in zip(grid, runs, series, strict=True):
        _latency(row[0], run, curves, theme)
        _rhythm(row[1], run, curves, theme)
        _memory(row[2], run, curves, theme)
    return figure


def _latency(place: Axes, run: Mapping[str, Any], curves: Mapping[str, Any], theme: Theme) -> None:
    values = np.asarray(curves["latency_ms"], np.float64)
    place.set_title(f"{run['declared_hz']:g} Hz: image stamp to command", loc="left")
    place.set(xlabel="min of driving", ylabel="ms")
    if not len(values):
        return
    minutes = np.arange(len(values)) / run["declared_hz"] / 60.0
    place.plot(minutes, values, ".", color=theme.blue, markersize=2, alpha=0.35, linewidth=0)
    at, p50, p99 = percentiles_over_time(minutes, values)
    place.plot(at, p99, color=theme.orange, linewidth=1.4, label="p99")
    place.plot(at, p50, color=theme.blue, linewidth=1.4, label="p50")
    period = run["camera_period_ms"]
    place.axhline(period, color=theme.muted, linewidth=0.9, linestyle="--", label="camera period")
    if ages := curves.get("image_age_ms"):
        at, _, p99 = percentiles_over_time(minutes[: len(ages)], np.asarray(ages, np.float64))
        place.plot(at, p99, color=theme.green, linewidth=1.0, label="p99 at the tick")
    # Room for the legend above what is drawn.
    place.set_ylim(0, 1.35 * max(period, float(np.percentile(values, 99.9))))
    legend(place, loc="upper right", ncols=2)


def _rhythm(place: Axes, run: Mapping[str, Any], curves: Mapping[str, Any], theme: Theme) -> None:
    intervals = np.asarray(curves["interval_ms"], np.float64)
    place.set_title(
        f"{_number(run['achieved_hz'])} Hz, {run['missed']} missed; "
        f"jitter p99 {_number(run['jitter_ms']['p99'])} ms",
        loc="left",
    )
    place.set(xlabel="min", ylabel="decision off its time, ms")
    if not len(intervals):
        return
    minutes = np.cumsum(intervals) / 60_000.0
    off = intervals - 1e3 / run["declared_hz"]
    place.plot(minutes, off, ".", color=theme.blue, markersize=2, alpha=0.35, linewidth=0)
    at, p50, p99 = percentiles_over_time(minutes, np.abs(off))
    place.plot(at, p99, color=theme.orange, linewidth=1.4, label="p99 of its size")
    place.plot(at, p50, color=theme.blue, linewidth=1.4, label="p50")
    reach = max(2.0, 1.2 * float(np.percentile(np.abs(off), 99.9)))
    place.set_ylim(-reach, reach)
    legend(place, loc="upper right", ncols=2)


def _memory(place: Axes, run: Mapping[str, Any], curves: Mapping[str, Any], theme: Theme) -> None:
    minutes = np.asarray(curves["memory_s"], np.float64) / 60.0
    memory = np.asarray(curves["memory_mb"], np.float64)
    place.plot(minutes, memory, color=theme.green, linewidth=1.4)
    place.set_title(f"memory {run['rss_mb_end'] - run['rss_mb_start']:+.1f} MB", loc="left")
    place.set(xlabel="min", ylabel="MB", ylim=(0, 1.25 * memory.max()))


def percentiles_over_time(
    times: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Median and 99th percentile in consecutive parts.

    Args:
        times: ``[command]``, in order.
        values: ``[command]``.

    Returns:
        Middle of each part, p50 and p99, ``[part]`` each.
    """
    parts = max(1, min(_BINS, len(values) // _FEWEST))
    pieces = np.array_split(np.arange(len(values)), parts)
    at = np.array([times[p].mean() for p in pieces])
    p50, p99 = (np.array([np.percentile(values[p], q) for p in pieces]) for q in (50, 99))
    return at, p50, p99


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
