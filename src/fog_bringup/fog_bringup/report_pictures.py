"""Pictures of the report: recorded frames, imagined beside real ones, driven paths from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Polygon, Rectangle

from fog_bringup.report_theme import DPI, WIDTH_IN, Theme
from fog_world_model.evaluation.open_loop import OpenLoop

Image = npt.NDArray[np.uint8]
"""``[height, width, 3]``"""

COLUMNS = 10
"""Frames side by side."""
EPISODES = 4
"""Recorded episodes, or imagined windows, one below the other."""
PATHS = 12
"""Small maps of the policy, :data:`MAPS_PER_ROW` in a row; random commands get one row."""
MAPS_PER_ROW = 6


def contact_sheet(
    episodes: Sequence[npt.NDArray[np.uint8]], control_hz: float, theme: Theme
) -> Figure:
    """A row of frames of each episode, evenly spread over it.

    Args:
        episodes: ``[time, height, width, 3]`` each.
        control_hz: Frames per second.
        theme: Colours.
    """
    sheet = Sheet(theme, rows=len(episodes), columns=COLUMNS, size=episodes[0].shape[1:3])
    for row, frames in enumerate(episodes):
        sheet.label(row, f"episode {row + 1}")
        picked = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
        for column, index in enumerate(picked):
            sheet.place(row, column, frames[index], f"{index / control_hz:.1f} s")
    return sheet.figure


def strips(result: OpenLoop, theme: Theme) -> Figure:
    """Real frames above imagined ones, by horizon."""
    shown = shown_horizons(result)
    windows = min(EPISODES, len(result.real))
    sheet = Sheet(
        theme, rows=2 * windows, columns=len(shown), size=result.real.shape[2:4], in_group=2
    )
    for window in range(windows):
        pictures = {"real": result.real[window], "imagined": result.imagined[window]}
        for offset, (name, frames) in enumerate(pictures.items()):
            row = 2 * window + offset
            sheet.label(row, name)
            for column, horizon in enumerate(shown):
                text = f"{horizon} step{'s' * (horizon > 1)}" if offset == 0 else ""
                sheet.place(row, column, frames[horizon - 1], text, above=True)
    return sheet.figure


def shown_horizons(result: OpenLoop) -> list[int]:
    """Horizons of which there is a picture: the measured ones, and evenly spread ones between."""
    last = min(result.real.shape[1], result.imagined.shape[1])
    every = math.ceil(last / (COLUMNS - 2))
    wanted = {1, *range(every, last + 1, every), *result.horizon}
    return sorted(h for h in wanted if h <= last)


class Sheet:
    """Pictures in rows, each pixel of them a square of whole pixels, with room for words."""

    _LABEL, _GAP, _TEXT = 170, 8, 36  # pixels

    def __init__(
        self, theme: Theme, *, rows: int, columns: int, size: Sequence[int], in_group: int = 1
    ) -> None:
        """Make room.

        Args:
            theme: Colours.
            rows: Number of rows.
            columns: Largest number of pictures in a row.
            size: Height and width of the pictures.
            in_group: Rows that belong together; words are beside each group only.
        """
        self._theme, self._in_group = theme, in_group
        width = round(WIDTH_IN * DPI)
        cell = (width - self._LABEL) // columns - self._GAP
        self._scale = max(1, cell // int(size[1]))
        self._stride = max(1, math.ceil(int(size[1]) / cell))
        self._cell = (
            math.ceil(int(size[0]) / self._stride) * self._scale,
            math.ceil(int(size[1]) / self._stride) * self._scale,
        )
        self._pitch = (width - self._LABEL) // columns
        groups = math.ceil(rows / in_group)
        self._height = groups * self._group_height() + self._GAP
        self.figure = Figure(figsize=(width / DPI, self._height / DPI))

    def _group_height(self) -> int:
        return self._in_group * (self._cell[0] + self._GAP) + self._TEXT + 2 * self._GAP

    def _top(self, row: int) -> int:
        """Upper edge of a row's pictures, pixels from the top."""
        group, inside = divmod(row, self._in_group)
        return group * self._group_height() + self._TEXT + inside * (self._cell[0] + self._GAP)

    def label(self, row: int, text: str) -> None:
        """Words to the left of a row."""
        middle = self._top(row) + self._cell[0] / 2
        self._write(0, middle, text, ha="left", va="center")

    def place(self, row: int, column: int, image: Image, text: str, *, above: bool = False) -> None:
        """A picture, and words above it."""
        pixels = image[:: self._stride, :: self._stride]
        pixels = pixels.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        left, top = self._LABEL + column * self._pitch, self._top(row)
        self.figure.figimage(
            np.ascontiguousarray(pixels), left, self._height - top - len(pixels), origin="upper"
        )
        if text:
            self._write(left + pixels.shape[1] / 2, top - 6, text, ha="center", va="bottom")

    def _write(self, x: float, y: float, text: str, **options: Any) -> None:
        width = WIDTH_IN * DPI
        self.figure.text(
            x / width, 1 - y / self._height, text, fontsize=8, color=self._theme.muted, **options
        )


def paths(
    policy: Mapping[str, Any], random: Mapping[str, Any], arena_m: float, theme: Theme
) -> Figure:
    """Driven paths from above: the policy's first episodes, and a row of random commands.

    Args:
        policy: Record of the policy.
        random: Record of random commands.
        arena_m: Side of the walled floor, m.
        theme: Colours.
    """
    shown = [("policy", e) for e in policy["episodes"][:PATHS]]
    shown += [("", {})] * (-len(shown) % MAPS_PER_ROW)
    shown += [("random", e) for e in random["episodes"][:MAPS_PER_ROW]]
    rows = math.ceil(len(shown) / MAPS_PER_ROW)
    cell = (WIDTH_IN - 0.75) / MAPS_PER_ROW
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
    figure = Figure(figsize=(WIDTH_IN, rows * (cell + 0.22) + 0.05), layout=layout)
    places = figure.subplots(rows, MAPS_PER_ROW, squeeze=False)
    rewards = [r for _, e in shown for r in e.get("rewards", ())]
    scale = Normalize(min([0.0, *rewards]), max([*rewards, 1e-6]))
    for place, (name, episode) in zip(places.flat, [*shown, *[("", {})] * 99], strict=False):
        if not name:
            place.set_axis_off()
            continue
        draw_map(place, episode, arena_m, scale, theme.colormap, theme)
        # What a path earned, with the controller's name where its row begins.
        prefix = f"{name}: " if place.get_subplotspec().is_first_col() else ""
        place.set_title(f"{prefix}{episode['return']:.1f}", fontsize=8.5, pad=3, loc="left")
    bar = figure.colorbar(
        ScalarMappable(scale, theme.colormap), ax=places, fraction=0.025, pad=0.012, aspect=40
    )
    bar.set_label("reward of the step")
    bar.outline.set_visible(False)
    return figure


def draw_map(
    place: Axes,
    episode: Mapping[str, Any],
    arena_m: float,
    scale: Normalize,
    colors: Colormap,
    theme: Theme,
) -> None:
    """Draw the paths of an episode on the floor, seen from above.

    Args:
        place: Where to.
        episode: What :func:`fog_bringup.closed_loop.episode_record` gives.
        arena_m: Side of the square floor, m.
        scale: Of the rewards.
        colors: Of the path, by the reward of the step.
        theme: Colours of the rest.
    """
    half = arena_m / 2
    place.add_patch(
        Rectangle((-half, -half), arena_m, arena_m, facecolor=theme.fill, edgecolor=theme.muted)
    )
    base = np.asarray(episode["base"], np.float64)
    points = base[:, None, :2]
    lines = LineCollection(
        list(np.concatenate([points[:-1], points[1:]], axis=1)),
        cmap=colors,
        norm=scale,
        linewidths=2.2,
    )
    lines.set_array(np.asarray(episode["rewards"][: len(base) - 1], np.float64))
    lines.set_capstyle("round")
    place.add_collection(lines)
    cube = np.asarray(episode.get("cube") or np.zeros((0, 3)), np.float64)
    if len(cube):
        place.plot(cube[:, 0], cube[:, 1], color=theme.orange, linewidth=1, alpha=0.8)
        _square(place, cube[0], 0.05 * arena_m, facecolor="none", edgecolor=theme.orange)
        _square(place, cube[-1], 0.05 * arena_m, facecolor=theme.orange, edgecolor=theme.orange)
    if episode.get("goal"):
        place.plot(*episode["goal"][:2], marker="+", color=theme.muted, markersize=6)
    _arrow(place, base[0], arena_m, facecolor="none", edgecolor=theme.ink)
    _arrow(place, base[-1], arena_m, facecolor=theme.ink, edgecolor=theme.ink)
    # Whoever leaves the arena is still seen.
    reach = max(half, float(np.abs(base[:, :2]).max())) * 1.03
    place.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    place.grid(visible=False)
    for spine in place.spines.values():
        spine.set_visible(False)


def _square(place: Axes, pose: npt.NDArray[np.float64], side: float, **colors: Any) -> None:
    """A cube, about its middle."""
    x, y, yaw = pose
    place.add_patch(
        Rectangle(
            (x - side / 2, y - side / 2),
            side,
            side,
            angle=math.degrees(yaw),
            rotation_point="center",
            linewidth=1.2,
            zorder=3,
            **colors,
        )
    )


def _arrow(place: Axes, pose: npt.NDArray[np.float64], arena_m: float, **colors: Any) -> None:
    """Where the robot is and where it looks."""
    x, y, yaw = pose
    length = 0.045 * arena_m
    corners = [
        (x + r * length * math.cos(yaw + a), y + r * length * math.sin(yaw + a))
        for r, a in ((1.3, 0.0), (1.0, 2.5), (0.45, math.pi), (1.0, -2.5))
    ]
    place.add_patch(Polygon(corners, linewidth=1.1, zorder=4, **colors))
