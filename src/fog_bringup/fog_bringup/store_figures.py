"""Small charts of an episode store: how values are distributed, and their course in an episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fog_bringup.report_theme import Theme

WIDTH_IN, HEIGHT_IN = 3.2, 1.45
DASHES: tuple[str, ...] = ("-", "--", ":", "-.")
MAX_POINTS = 2000
"""Longer courses are thinned, each stretch to its lowest and its highest value."""

Values = npt.NDArray[np.float64]


def line_style(field: int, theme: Theme) -> tuple[str, str]:
    """Colour and dashes of a field, the same in every chart; they repeat after 12 fields."""
    colors = (theme.blue, theme.orange, theme.green)
    return colors[field % len(colors)], DASHES[field // len(colors) % len(DASHES)]


def course(
    values: Values,
    theme: Theme,
    *,
    limits: tuple[float, float] | None = None,
    ticks: Sequence[float] = (),
    held: bool = False,
    level: float | None = None,
    ends: Sequence[int] = (),
) -> Figure:
    """Values in the course of an episode.

    Args:
        values: ``[step, field]``.
        theme: Colours.
        limits: Of the vertical axis; those of the values by default.
        ticks: Numbers on it, if not even ones.
        held: A value holds until the next one.
        level: Value that is marked, as what is to be expected.
        ends: Steps whose transition ended the episode.
    """
    figure, place = _axes()
    if level is not None:
        place.axhline(level, color=theme.muted, linestyle="--", linewidth=1)
    for field in range(values.shape[1]):
        color, dashes = line_style(field, theme)
        steps, thinned = _thinned(values[:, field])
        place.plot(
            steps,
            thinned,
            color=color,
            linestyle=dashes,
            linewidth=1.3,
            marker="." if len(values) == 1 else "",
            drawstyle="steps-post" if held and len(thinned) == len(values) else "default",
        )
    for end in ends:
        place.axvline(end, color=theme.orange, linewidth=1.3)
    if limits is not None:
        place.set_ylim(*limits)
    if ticks:
        place.set_yticks(ticks)
    place.set_xlim(0, max(1, len(values)))
    place.set_xlabel("step", labelpad=1)
    return figure


def histogram(training: Values, validation: Values, theme: Theme, *, whole: bool = False) -> Figure:
    """Share of values in each of a number of intervals, of both splits.

    Args:
        training: ``[value]``.
        validation: ``[value]``; may be empty.
        theme: Colours.
        whole: They are whole numbers.
    """
    figure, place = _axes()
    everything = np.concatenate([training, validation])
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    count = min(30, round(high - low) + 1) if whole else 30
    edges = np.linspace(low, high, count + 1)
    for values, color, fill in (
        (training, theme.blue, True),
        (validation, theme.orange, False),
    ):
        if len(values):
            share = 100 * np.histogram(values, edges)[0] / len(values)
            place.stairs(
                share, edges, color=color, fill=fill, alpha=0.45 if fill else 1.0, linewidth=1.6
            )
    place.set_ylabel("% of all", labelpad=2)
    place.set_ylim(bottom=0)
    return figure


def by_episode(values: Values, held_out: npt.NDArray[np.bool_], theme: Theme) -> Figure:
    """A value of each episode, in the order of the store.

    Args:
        values: ``[episode]``.
        held_out: ``[episode]``: whether it belongs to the validation split.
        theme: Colours.
    """
    figure, place = _axes()
    numbers = np.arange(len(values))
    for rows, color in ((~held_out, theme.blue), (held_out, theme.orange)):
        place.scatter(numbers[rows], values[rows], s=9, color=color, alpha=0.8, linewidths=0)
    place.set_xlabel("episode", labelpad=1)
    place.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _axes() -> tuple[Figure, Axes]:
    """One chart; the margins are fixed, since measuring text takes longer than all the rest."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
    place = figure.add_axes((0.145, 0.235, 0.835, 0.725))
    place.tick_params(labelsize=7.5, pad=2, length=0)
    place.xaxis.label.set_fontsize(7.5)
    place.yaxis.label.set_fontsize(7.5)
    place.xaxis.set_major_locator(MaxNLocator(6, integer=False))
    place.yaxis.set_major_locator(MaxNLocator(4))
    place.margins(y=0.08)
    return figure, place


def _thinned(values: Values) -> tuple[Values, Values]:
    """Places and values of a course that is drawn the same; extremes are kept."""
    if len(values) <= MAX_POINTS:
        return np.arange(len(values), dtype=np.float64), values
    pieces = np.array_split(np.arange(len(values)), MAX_POINTS // 2)
    kept = sorted({int(p[f(values[p])]) for p in pieces for f in (np.argmin, np.argmax)})
    return np.asarray(kept, np.float64), values[kept]
