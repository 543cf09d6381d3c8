"""Charts of the report: errors by horizon, training curves, returns, latency, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fog_bringup.report_theme import Theme, axes, legend
from fog_bringup.report_verdict import is_finite
from fog_world_model.evaluation.open_loop import OpenLoop

Curve = Sequence[Mapping[str, float]]
"""What a training run logs, entry by entry."""
Record = Mapping[str, Any]
"""What ``fog_bringup.closed_loop`` writes."""

CONTROLLERS = ("policy", "random", "standing")
_PARTS = {
    "denoise": "frame",
    "own": "frame after own frames",
    "image": "frame",
    "reward": "reward",
    "end": "end",
    "continue": "end",
    "proprioception": "joints and motion",
    "kl": "surprise (KL)",
}
"""Parts of the world models' losses, in words."""


def open_loop_curves(result: OpenLoop, theme: Theme) -> Figure:
    """Peak signal-to-noise ratio and reward correlation by horizon."""
    figure, (left, right) = axes(3.1, 2)
    lines = (
        (left, result.copy_last_psnr, theme.orange, "--", "repeating the last frame"),
        (left, result.local_psnr, theme.green, "-", "local model"),
        (left, result.model_psnr, theme.blue, "-", "global model"),
        (right, result.local_reward_correlation, theme.green, "-", "local model"),
        (right, result.model_reward_correlation, theme.blue, "-", "global model"),
    )
    for place, values, color, style, label in lines:
        if values:
            place.plot(
                result.horizon, values, style, color=color, marker="o", markersize=5, label=label
            )
    left.set(title="Likeness of the frames", ylabel="PSNR, dB (higher is better)")
    right.set(title="Foresight of the reward", ylabel="correlation with the recorded reward")
    right.set_ylim(min(0.0, *_limits(right)), 1.02)
    for place in (left, right):
        place.set_xlabel("steps ahead")
        place.set_xticks(result.horizon)
        legend(place)
    return figure


def world_model_curves(curves: Mapping[str, Curve], theme: Theme) -> Figure:
    """Losses of both world models over the time of their training."""
    figure, places = axes(3.5, 2)
    names = {"global": "Global world model", "local": "Local world model"}
    for place, (key, title), color in zip(
        places, names.items(), (theme.blue, theme.green), strict=True
    ):
        curve = curves.get(key, ())
        seconds = _column(curve, "seconds")
        parts = [p for p in _PARTS if any(p in entry for entry in curve)]
        for i, part in enumerate(parts):
            place.plot(
                seconds,
                _column(curve, part),
                color=theme.muted,
                linewidth=1.1,
                linestyle=("-", "--", "-.", ":", (0, (1, 3)))[i % 5],
                label=_PARTS[part],
            )
        if curve:
            total = _column(curve, "total")
            place.plot(seconds, total, color=color, marker="." * (len(curve) < 2), label="total")
            if np.nanmin(total) > 0:
                place.set_yscale("log")
                lowest = [
                    c[c > 0].min() for c in (_column(curve, p) for p in parts) if (c > 0).any()
                ]
                # What has become negligible must not squeeze the rest.
                place.set_ylim(bottom=max(min(lowest, default=0.0), 2e-3 * float(np.nanmax(total))))
        else:
            _nothing(place, "no point: training was shorter than the logging interval", theme)
        place.set(title=title, xlabel="training time, s", ylabel="loss (lower is better)")
        # Below: on a logarithmic scale there is hardly a free corner.
        legend(place, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.19))
    return figure


def policy_curves(curve: Curve, theme: Theme) -> Figure:
    """Imagined reward by steps and by seconds, and the check of the gradient."""
    figure, (by_steps, by_seconds, gradient) = axes(3.1, 3)
    steps = _column(curve, "imagined_steps") + _column(curve, "local_steps", 0.0)
    reward = _column(curve, "reward")
    for place, x, label in (
        (by_steps, steps, "imagined steps, both models"),
        (by_seconds, _column(curve, "seconds"), "training time, s"),
    ):
        for name, rows, color in (
            ("in the local model alone", ~in_global(curve), theme.green),
            ("global model ahead", in_global(curve), theme.blue),
        ):
            if rows.any():
                place.plot(x[rows], reward[rows], color=color, linewidth=0.8, alpha=0.4)
                place.plot(x[rows], _smooth(reward[rows]), color=color, label=name)
        if not len(curve):
            _nothing(place, "no update", theme)
        place.set(xlabel=label)
        place.xaxis.set_major_locator(MaxNLocator(4))
        place.set_ylim(bottom=min(0.0, place.get_ylim()[0]))
    by_steps.set(title="Imagined reward per step", ylabel="reward (higher is better)")
    by_seconds.set_title("The same over time")
    legend(by_seconds, loc="lower left")
    rows = np.array([is_finite(e.get("gradient_cosine")) for e in curve], np.bool_)
    gradient.axhline(0, color=theme.muted, linewidth=1)
    if rows.any():
        cosine = _column(curve, "gradient_cosine")[rows]
        mean = float(cosine.mean())
        gradient.scatter(steps[rows], cosine, s=24, color=theme.blue, zorder=3)
        gradient.axhline(mean, color=theme.blue, linestyle="--", linewidth=1.2)
        gradient.set_title(f"Gradient check: mean {mean:.2f}")
    else:
        gradient.set_title("Gradient check")
        _nothing(gradient, "not checked", theme)
    gradient.set(xlabel="imagined steps, both models", ylabel="cosine", ylim=(-1.05, 1.05))
    gradient.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def in_global(curve: Curve) -> npt.NDArray[np.bool_]:
    """``[update]``: whether the global model took part; before, the local one may be alone."""
    steps = _column(curve, "imagined_steps")
    return np.diff(steps, prepend=0.0) > 0


def returns(
    summaries: Mapping[str, Mapping[str, Any]], records: Mapping[str, Record], theme: Theme
) -> Figure:
    """Returns with their intervals, and the reward in the course of an episode."""
    figure, (left, right) = axes(3.2, 2, width_ratios=(1.15, 1))
    steps = 1
    jitter = np.random.default_rng(0)
    for row, name in enumerate(CONTROLLERS):
        summary, color = summaries[name], _color(name, theme)
        values = [float(e["return"]) for e in records[name]["episodes"]]
        rewards = np.array([e["rewards"] for e in records[name]["episodes"]], np.float64)
        steps = max(steps, rewards.shape[1])
        left.scatter(
            values,
            row + 0.27 + jitter.uniform(-0.07, 0.07, len(values)),
            s=12,
            color=color,
            alpha=0.5,
            linewidths=0,
        )
        left.plot(
            [summary["low"], summary["high"]], [row, row], color=color, linewidth=5, alpha=0.45
        )
        left.plot(summary["mean"], row, "o", color=color, markersize=8)
        left.annotate(
            f"{summary['mean']:.1f}",
            (summary["mean"], row),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
            color=color,
        )
        middle = rewards.mean(axis=0)
        spread = 1.96 * rewards.std(axis=0) / np.sqrt(len(rewards))
        seconds = np.arange(1, len(middle) + 1) / float(records[name]["control_hz"])
        right.fill_between(
            seconds, middle - spread, middle + spread, color=color, alpha=0.15, linewidth=0
        )
        right.plot(seconds, middle, color=color, label=name)
    left.set_yticks(range(len(CONTROLLERS)), CONTROLLERS)
    left.tick_params(axis="y", labelcolor=theme.ink, labelsize=9.5, length=0)
    left.set_ylim(len(CONTROLLERS) - 0.45, -0.5)
    left.grid(axis="y", visible=False)
    left.set(title="Return of an episode", xlabel="return (sum of rewards)")
    per_step = left.secondary_xaxis(
        -0.26,
        functions=(lambda x: np.asarray(x) / steps, lambda x: np.asarray(x) * steps),
    )
    per_step.set_xlabel("mean reward per step")
    right.set(
        title="Reward in the course of an episode", xlabel="time, s", ylabel="mean over episodes"
    )
    legend(right)
    return figure


def latency(control: Mapping[str, Any], theme: Theme) -> Figure:
    """How long a command takes, beside the time that there is for it."""
    figure, (place,) = axes(1.75)
    period_ms = 1000.0 / float(control["declared_hz"])
    kinds = (
        ("latency_ms", "image to command", theme.blue),
        ("inference_ms", "of this, the policy", theme.muted),
    )
    names = []
    for row, (key, label, color) in enumerate(kinds):
        figures = control.get(key) or {}
        names.append(label)
        values = [float(figures[k]) for k in ("p50", "p99", "max") if is_finite(figures.get(k))]
        if len(values) < 3:
            place.annotate("not measured", (0, row), va="center", color=theme.muted)
            continue
        place.plot([values[0], values[2]], [row, row], color=color, linewidth=4, alpha=0.3)
        place.scatter(values, [row] * 3, s=(80, 44, 20), color=color, zorder=3)
        text = "median {:.1f}, 99 % below {:.1f}, longest {:.1f} ms".format(*values)
        place.annotate(
            text, (values[2], row), xytext=(10, 0), textcoords="offset points", va="center",
            fontsize=8.5,
        )  # fmt: skip
    place.axvline(period_ms, color=theme.orange, linestyle="--")
    place.annotate(
        f"control period {period_ms:.0f} ms",
        (period_ms, -0.45),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="top",
        color=theme.orange,
        fontsize=8.5,
    )
    place.set_yticks(range(len(names)), names)
    place.tick_params(axis="y", labelcolor=theme.ink, length=0)
    place.set_ylim(len(names) - 0.5, -0.6)
    place.set_xlim(left=0, right=max(place.get_xlim()[1], 1.08 * period_ms))
    place.grid(axis="y", visible=False)
    place.set_xlabel("milliseconds")
    return figure


def costs(seconds: Mapping[str, float], steps: Mapping[str, int], theme: Theme) -> Figure:
    """Seconds of each stage, and real steps beside imagined ones.

    Args:
        seconds: Stage -> seconds; ``total`` is left out.
        steps: Kind, in words -> control steps; the real ones first.
        theme: Colours.
    """
    stages = {k.replace("_", " "): float(v) for k, v in seconds.items() if k != "total"}
    taken = {k: float(v) for k, v in steps.items()}
    rows = max(len(stages), len(taken))
    figure, (left, right) = axes(0.75 + 0.27 * rows, 2, width_ratios=(1.4, 1))
    everything = sum(stages.values()) or 1.0
    _bars(
        left,
        stages,
        [theme.blue] * len(stages),
        {k: f"{duration(v)}  ({v / everything:.0%})" for k, v in stages.items()},
        theme,
    )
    left.set(title=f"Time: {duration(everything)} in all", xlabel="seconds")
    colors = [theme.orange, theme.green, theme.blue][-len(taken) :]
    _bars(right, taken, colors, {k: f"{v:,.0f}" for k, v in taken.items()}, theme)
    right.set(title="Experience", xlabel="control steps")
    for place in (left, right):
        place.set_ylim(rows - 0.4, -0.6)  # bars of the same thickness
    return figure


def duration(seconds: float) -> str:
    """``7 min 05 s``, or ``4.2 s``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _bars(
    place: Axes,
    values: Mapping[str, float],
    colors: Sequence[str],
    labels: Mapping[str, str],
    theme: Theme,
) -> None:
    bars = place.barh(
        list(values), list(values.values()), color=list(colors)[: len(values)], height=0.62
    )
    place.bar_label(bars, [labels[k] for k in values], padding=5, fontsize=8.5, color=theme.ink)
    place.grid(axis="y", visible=False)
    place.tick_params(axis="y", labelcolor=theme.ink, length=0)
    place.xaxis.set_major_locator(MaxNLocator(4))
    place.set_xlim(right=1.35 * max([*values.values(), 1e-9]))


def _color(controller: str, theme: Theme) -> str:
    return {"policy": theme.blue, "random": theme.orange, "standing": theme.grey}[controller]


def _column(curve: Curve, key: str, missing: float = np.nan) -> npt.NDArray[np.float64]:
    """``[entry]``; NaN is not drawn."""
    values = [entry.get(key) for entry in curve]
    return np.array([v if is_finite(v) else missing for v in values], np.float64)


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a window of a tenth of the curve, shorter at its ends."""
    half = max(1, len(values) // 20)
    rows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array(
        [row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in rows]
    )


def _limits(place: Axes) -> tuple[float, ...]:
    """Lowest value drawn."""
    lows = [np.nanmin(line.get_ydata(), initial=0.0) for line in place.get_lines()]
    return tuple(1.1 * float(low) for low in lows) or (0.0,)


def _nothing(place: Axes, text: str, theme: Theme) -> None:
    place.text(
        0.5, 0.5, text, transform=place.transAxes, ha="center", va="center", wrap=True,
        color=theme.muted, fontsize=8.5,
    )  # fmt: skip
