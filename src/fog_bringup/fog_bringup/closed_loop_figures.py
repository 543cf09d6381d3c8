"""Charts and maps of the page about closed-loop episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fog_bringup.report_pictures import draw_map
from fog_bringup.report_theme import WIDTH_IN, Theme, axes

Figures = Mapping[str, Any]
"""Content of ``evaluation.json``."""

SHOWN = 10
"""Episodes of which the paths are drawn: the first ones, good or bad."""
_PER_ROW = 5


def color_of(kind: str, number: int, theme: Theme) -> str:
    """A contender's colour: by its kind, bundles by their order."""
    bundles = (theme.blue, theme.orange, theme.ink)
    unlearned = dict.fromkeys(("operator", "random", "standing"), theme.muted)
    return {"driver": theme.green, **unlearned}.get(kind, bundles[number % len(bundles)])


def success(figures: Figures, theme: Theme) -> Figure:
    """Share of successes of every row with its interval, rows of a variation together."""
    groups = ["nominal", *figures["variations"]]
    shown = [
        (group, name, found)
        for group in groups
        for name in figures["contenders"]
        for found in figures["rows"].values()
        if found["variation"] == group and found["contender"] == name and found["success"]
    ]
    figure, (place,) = axes(0.8 + 0.27 * len(shown) + 0.1 * len(groups))
    ticks, labels, row, before = [], [], 0.0, None
    for group, name, found in shown:
        if before not in (None, group):
            row += 0.4
            place.axhline(row - 0.7, color=theme.grid, linewidth=1)
        before = group
        contender = figures["contenders"][name]
        color = color_of(contender["kind"], list(figures["contenders"]).index(name), theme)
        share = found["success"]
        place.plot([share["low"], share["high"]], [row, row], color=color, linewidth=5, alpha=0.4)
        place.plot(share["share"], row, "o", color=color, markersize=7)
        title = "" if group == "nominal" else f"{figures['variations'][group]['title']}: "
        ticks.append(row)
        labels.append(f"{title}{name}")
        row += 1.0
    place.set_yticks(ticks, labels)
    place.tick_params(axis="y", labelcolor=theme.ink, length=0)
    place.set_ylim(row - 0.4, -0.6)
    place.set_xlim(-0.01, 1.01)
    place.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    place.grid(axis="y", visible=False)
    place.set_xlabel("share of episodes that succeed, with 95 % interval")
    return figure


def paths(
    episodes: Sequence[Mapping[str, Any]],
    titles: Sequence[str],
    arena_m: float | None,
    theme: Theme,
) -> Figure:
    """Paths of episodes, seen from above, coloured by reward.

    Args:
        episodes: What :func:`fog_bringup.closed_loop.episode_record` gives.
        titles: ``[episode]``.
        arena_m: Side of the floor, m; None: as large as the paths need.
        theme: Colours.
    """
    rows, cell = math.ceil(len(episodes) / _PER_ROW), WIDTH_IN / _PER_ROW
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
    figure = Figure(figsize=(WIDTH_IN, rows * (cell + 0.2)), layout=layout)
    places = figure.subplots(rows, _PER_ROW, squeeze=False)
    rewards = [r for e in episodes for r in e["rewards"][: len(e["base"]) - 1]]
    scale = Normalize(min([0.0, *rewards]), max([*rewards, 1e-6]))
    points = [abs(v) for e in episodes for p in [*e["base"], *e["cube"]] for v in p[:2]]
    arena = arena_m or 2.1 * max([*points, 0.1])
    for place, episode, title in zip(places.flat, episodes, titles, strict=False):
        draw_map(place, episode, arena, scale, theme.colormap, theme)
        place.set_title(title, fontsize=8.5, pad=3, loc="left")
    for place in list(places.flat)[len(episodes) :]:
        place.set_axis_off()
    return figure
