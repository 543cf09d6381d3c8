"""Charts of the page about an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fog_bringup.report_theme import Theme, axes, legend
from fog_bringup.zero_shot import coverage_figures

Figures = Mapping[str, Any]
"""Content of ``results.json``."""

_BASELINES = {"driver": "scripted driver", "random": "random", "standing": "standing"}
_DASHES = {"driver": (0, (5, 2)), "random": (0, (1, 1.5)), "standing": (0, (3, 1.5, 1, 1.5))}


def color_of(method: str, theme: Theme) -> str:
    """A method's colour in all charts."""
    known = {"fog": theme.blue, "ppo": theme.orange, "local": theme.green, "bc": theme.muted}
    return known.get(method, theme.ink)


def curves(results: Figures, key: str, label: str, theme: Theme) -> Figure:
    """A figure over imagined samples, and over wall-clock with the world models' cost before it.

    Args:
        results: Content of ``results.json``.
        key: ``mean_max_coverage`` or ``success_80``, say.
        label: Of the vertical axis.
        theme: Colours.
    """
    figure, (samples, clock) = axes(3.7, 2, sharey=True)
    scale = _scale(results)
    for place, measure in ((samples, "imagined_steps"), (clock, "seconds")):
        for name, method in reversed(results["methods"].items()):
            before = world_model_seconds(results, name) if measure == "seconds" else 0.0
            unit = scale if measure == "seconds" else 1.0
            if measure == "seconds" or _imagines(method):
                _method(place, method, measure, key, before, unit, color_of(name, theme))
        _baselines(place, results, key, theme)
    samples.set(title="Over imagined samples", xlabel="imagined samples", ylabel=label)
    if (knee := _knee(results)) > 0:
        samples.set_xscale("symlog", linthresh=knee, linscale=0.6)
    samples.xaxis.set_major_formatter(lambda x, _: _thousands(x))
    clock.set(
        title="Over wall-clock, world models included",
        xlabel=f"{'hours' if scale == 3600 else 'minutes' if scale == 60 else 's'} "
        "(training of the world models, then of the policy)",
    )
    cost = world_model_seconds(results, "fog") / scale
    if cost > 0:
        clock.axvspan(0, cost, color=theme.fill, zorder=0)
        clock.text(
            cost / 2, 0.97, "world models", color=theme.muted, ha="center", va="top", fontsize=8.5
        )
    for place in (samples, clock):
        place.set_xlim(left=0)
        place.set_ylim(0, 1)
    handles, labels = clock.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=7, frameon=False)
    return figure


def health(results: Figures, theme: Theme) -> Figure:
    """What the policies earned in imagination, and how right FoG's gradient was."""
    figure, (reward, cosine) = axes(3.0, 2)
    for name, method in reversed(results["methods"].items()):
        color = color_of(name, theme)
        for number, run in enumerate(method["seeds"]):
            label = method["title"] if number == 0 else None
            _log(reward, run["log"], "reward", color, label)
            if name == "fog":
                label = "decoupled" if number == 0 else None
                _log(cosine, run["log"], "gradient_cosine", color, label)
                label = "in the local model alone" if number == 0 else None
                _log(cosine, run["log"], "gradient_cosine_local", theme.green, label)
    reward.set(title="Reward per imagined step", xlabel="seconds of learning", ylabel="reward")
    cosine.set(title="FoG's gradient", xlabel="seconds of learning", ylabel="cosine to reference")
    cosine.axhline(0.0, color=theme.muted, linewidth=1)
    for place in (reward, cosine):
        legend(place, loc="best")
    return figure


def _log(place: Axes, log: Sequence[Figures], key: str, color: str, label: str | None) -> None:
    rows = [row for row in log if key in row]
    if rows:
        style = "o-" if key.startswith("gradient_cosine") else "-"
        place.plot(
            [row["seconds"] for row in rows], [row[key] for row in rows], style, color=color,
            linewidth=0.9, markersize=2.5, alpha=0.8, label=label,
        )  # fmt: skip


def world_model_seconds(results: Figures, method: str) -> float:
    """Seconds of training of the world models that a method needs."""
    kinds = ("local",) if method in ("local", "bc") else ("global", "local")
    return float(sum(results["world_models"][kind]["seconds"] or 0.0 for kind in kinds))


def _method(
    place: Axes,
    method: Figures,
    measure: str,
    key: str,
    before: float,
    unit: float,
    color: str,
) -> None:
    few = min((len(e["max_coverage"]) for r in method["seeds"] for e in r["curve"]), default=0)
    for run in method["seeds"] if len(method["seeds"]) > 1 else ():
        places = [(before + e[measure]) / unit for e in run["curve"]]
        values = [coverage_figures(e["max_coverage"][:few])[key] for e in run["curve"]]
        place.plot(places, values, color=color, linewidth=0.7, alpha=0.45)
    rows = method["curve"]
    if not rows:
        return
    ends = ("low", "high") if key == "mean_max_coverage" else (f"{key}_low", f"{key}_high")
    places = [(before + row[measure]) / unit for row in rows]
    place.fill_between(
        places, [r[ends[0]] for r in rows], [r[ends[1]] for r in rows], color=color, alpha=0.14,
        linewidth=0,
    )  # fmt: skip
    place.plot(
        places, [row[key] for row in rows], "o-", color=color, markersize=3.5, label=method["title"]
    )
    end = method["pooled"]
    place.errorbar(
        places[-1:], [end[key]], yerr=[[end[key] - end[ends[0]]], [end[ends[1]] - end[key]]],
        fmt="D", color=color, markersize=5, elinewidth=1.2, capsize=2.5,
    )  # fmt: skip


def _baselines(place: Axes, results: Figures, key: str, theme: Theme) -> None:
    for name, figures in results["baselines"].items():
        place.axhline(
            figures[key], color=theme.muted, linewidth=1, linestyle=_DASHES[name],
            label=_BASELINES[name],
        )  # fmt: skip


def _imagines(method: Figures) -> bool:
    return any(row["imagined_steps"] for row in method["curve"])


def _knee(results: Figures) -> float:
    """Samples from which on their axis is logarithmic; 0: nowhere.

    A method that imagines ten times as fast as another would squeeze its curve to a line.
    """
    ends = [m["curve"][-1]["imagined_steps"] for m in results["methods"].values() if _imagines(m)]
    firsts = [
        row["imagined_steps"]
        for method in results["methods"].values()
        for row in method["curve"]
        if row["imagined_steps"] > 0
    ]
    return float(min(firsts)) if ends and max(ends) > 5 * min(ends) else 0.0


def _scale(results: Figures) -> float:
    """Seconds in the unit of the axis of time."""
    longest = max(
        (
            world_model_seconds(results, name) + row["seconds"]
            for name, method in results["methods"].items()
            for row in method["curve"]
        ),
        default=0.0,
    )
    return 3600.0 if longest > 3 * 3600 else 60.0 if longest > 300 else 1.0


def _thousands(value: float) -> str:
    for scale, letter in ((1e6, " M"), (1e3, " k")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"
