"""Charts and pictures of the page about a global model's errors."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from fog_bringup.report_pictures import Sheet
from fog_bringup.report_theme import Theme, axes
from fog_world_model.evaluation.examples import RECORDED, Example
from fog_world_model.evaluation.horizon_errors import COPY, LOCAL

Figures = Mapping[str, Any]
"""Content of ``evaluation.json``."""

COLUMNS = 9
"""Frames side by side: so that each is drawn at one and a half times its size at least."""
_GAP = 2
"""Pixels between the pictures of a film."""
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), "-.")
_LABEL = 20
"""Letters of a name beside pictures."""


def strips(examples: Sequence[Example], theme: Theme) -> Figure:
    """Recorded frames above those of every model and baseline, by steps ahead."""
    names = list(examples[0].rows)
    sheet = Sheet(
        theme,
        rows=len(examples) * len(names),
        columns=max(COLUMNS, *(len(_shown(e)) for e in examples)),
        size=examples[0].rows[RECORDED].shape[1:3],
        in_group=len(names),
    )
    for i, example in enumerate(examples):
        for j, name in enumerate(names):
            row = i * len(names) + j
            sheet.label(row, short(name, _LABEL))
            for column, place in enumerate(_shown(example)):
                horizon = example.horizons[place]
                text = f"{horizon} step{'s' * (horizon > 1)}" if j == 0 else ""
                sheet.place(row, column, example.rows[name][horizon - 1], text, above=True)
    return sheet.figure


def _shown(example: Example) -> list[int]:
    """Places of the horizons for which there is room: the last, and the first ones."""
    places = list(range(len(example.horizons)))
    return places if len(places) <= COLUMNS else [*places[: COLUMNS - 1], places[-1]]


def film(example: Example, control_hz: float) -> str:
    """All frames of a window in motion, what was recorded at the left, beside all predictions.

    Args:
        example: The window.
        control_hz: Frames per second.

    Returns:
        An element of HTML: an animated picture without loss (WebP), enlarged by the browser.
    """
    gap = np.full((*example.rows[RECORDED].shape[:2], _GAP, 3), 128, np.uint8)
    courses = [part for frames in example.rows.values() for part in (gap, frames)][1:]
    first, *others = (Image.fromarray(frame) for frame in np.concatenate(courses, axis=2))
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / control_hz),
        loop=0,
        lossless=True,
    )
    data = base64.b64encode(buffer.getvalue()).decode()
    names = ", ".join(short(name, 28) for name in example.rows)
    return (
        f"<details><summary>In motion, at {control_hz:g} frames per second</summary>"
        f'<figure><img class="film" src="data:image/webp;base64,{data}" width="{first.width}" '
        f'height="{first.height}" alt="Film of the window.">'
        f"<figcaption>From left to right: {escape(names)}.</figcaption></figure></details>"
    )


def curves(
    figures: Figures,
    wanted: Sequence[tuple[str, str, str]],
    theme: Theme,
    *,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Figures by steps ahead, side by side, with their intervals.

    Args:
        figures: Content of ``evaluation.json``.
        wanted: Name of a figure, title and label of the vertical axis of each chart.
        theme: Colours.
        levels: Name of a figure -> value that is marked.
    """
    figure, places = axes(3.1, len(wanted))
    for place, (key, title, label) in zip(places, wanted, strict=True):
        if key in (levels or {}):
            place.axhline((levels or {})[key], color=theme.muted, linewidth=1, linestyle=":")
        for name, color, dashes in _styles(figures, theme):
            _line(place, figures, name, key, color, dashes)
        place.set(title=title, ylabel=label, xlabel="steps ahead")
        _limit(place, [c[key]["value"] for c in _all(figures).values() if key in c])
        last = _reach(figures, key)
        place.set_xscale("log", base=2)
        place.set_xticks([h for h in (1, 2, 4, 8, 16, 32, 64, 128, 256) if h <= last])
        place.xaxis.set_major_formatter("{x:g}")
        place.minorticks_off()
        place.set_xlim(1 / 1.06, max(2, last) * 1.06)
    # One legend for all charts.
    known = {label: handle for p in places for handle, label in zip(*_handles(p), strict=True)}
    if known:
        handles, labels = list(known.values())[::-1], list(known)[::-1]
        figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False)
    return figure


def reliability(calibration: Mapping[str, Any], theme: Theme) -> Figure:
    """What was predicted against what was observed, of rewards and of ends.

    Args:
        calibration: Model -> its ``calibration`` in ``evaluation.json``.
        theme: Colours.
    """
    figure, (reward, end) = axes(3.4, 2)
    for i, (name, found) in reversed(list(enumerate(calibration.items()))):
        color = (theme.blue, theme.ink, theme.muted)[i % 3]
        rewards = found["reward"]
        reward.errorbar(
            rewards["predicted"],
            rewards["observed"],
            yerr=rewards["deviation"],
            fmt="o",
            elinewidth=1,
            label=short(name, 28),
            color=color,
            markersize=4,
        )
        pairs = [
            (p, o)
            for p, o in zip(found["end"]["predicted"], found["end"]["observed"], strict=True)
            if p is not None and o is not None
        ]
        end.plot(*zip(*pairs, strict=True), "o-", linewidth=1, color=color, markersize=4)
    low, high = reward.get_xlim()
    reward.plot([low, high], [low, high], ":", color=theme.muted, linewidth=1)
    end.plot([0, 1], [0, 1], ":", color=theme.muted, linewidth=1)
    reward.set(title="Reward", xlabel="predicted, mean of a tenth", ylabel="recorded, mean")
    end.set(title="End", xlabel="predicted probability", ylabel="share that ended")
    figure.legend(*_handles(reward), loc="outside lower left", ncols=4, frameon=False)
    return figure


def _limit(place: Axes, courses: Sequence[Sequence[float | None]]) -> None:
    """Cut intervals that are so wide that nothing else could be seen."""
    values = [v for course in courses for v in course if v is not None]
    if not values:
        return
    low, high = min(values), max(values)
    span = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-6)
    bottom, top = place.get_ylim()
    place.set_ylim(max(bottom, low - span), min(top, high + span))


def _handles(place: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = place.get_legend_handles_labels()
    return handles, [str(label) for label in labels]


def _line(place: Axes, figures: Figures, name: str, key: str, color: str, dashes: Any) -> None:
    found = _all(figures)[name].get(key)
    if found is None:
        return
    value, low, high = (
        np.array([math.nan if v is None else v for v in found[part]], np.float64)
        for part in ("value", "low", "high")
    )
    rows = np.isfinite(value)
    x = np.asarray(figures["horizon"], np.float64)[rows]
    few = rows.sum() < len(rows) // 2 or rows.sum() < 12
    place.plot(
        x,
        value[rows],
        color=color,
        linestyle=dashes,
        marker="o" if few else "",
        markersize=3.5,
        linewidth=1.8,
        label=short(name, 28),
    )
    place.fill_between(x, low[rows], high[rows], color=color, alpha=0.16, linewidth=0)


def _reach(figures: Figures, key: str) -> int:
    """Largest horizon at which anything has a figure."""
    values = [content[key]["value"] for content in _all(figures).values() if key in content]
    return max((i + 1 for v in values for i, x in enumerate(v) if x is not None), default=1)


def _styles(figures: Figures, theme: Theme) -> list[tuple[str, str, Any]]:
    """Name, colour and dashes of all that is drawn; what matters most comes last, on top."""
    models = list(figures["models"])
    colors = (theme.blue, theme.ink, theme.muted)
    found: list[tuple[str, str, Any]] = [(COPY, theme.orange, (0, (4, 1.5)))]
    if LOCAL in figures["baselines"]:
        found.append((LOCAL, theme.green, "-"))
    found += [
        (name, colors[i % 3], _DASHES[i // 3 % len(_DASHES)])
        for i, name in reversed(list(enumerate(models)))
    ]
    return found


def _all(figures: Figures) -> dict[str, Mapping[str, Any]]:
    """Name of a model or baseline -> its figures."""
    everyone = {**figures["models"], **figures["baselines"]}
    return {name: content["figures"] for name, content in everyone.items()}


def short(name: str, letters: int) -> str:
    """The end of a name that is too long for where it stands."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"
