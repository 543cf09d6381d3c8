"""Films of closed-loop episodes: what the policy saw, beside the path from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fog_bringup.closed_loop_takes import Take
from fog_bringup.film import film_of
from fog_bringup.report_theme import LIGHT

LARGEST_FILM = 100_000
"""Bytes that a film does not exceed."""

_MOST_FRAMES = 80
"""Longer episodes are shown in larger steps, at the same speed."""
_QUALITIES = (50, 30, 10)
_SIDE = 128
"""Smallest side of a picture; a pixel becomes a square."""
_BAR, _SPACE = 5, 2
"""Height of a bar and the space around it, pixels."""
_DARK, _GREY = (24, 24, 24), (120, 120, 120)
_COMMAND = (242, 153, 74)
_BITS = 4
"""Fractions of a pixel in which OpenCV is told places: sixteenths."""


def film(
    episode: Mapping[str, Any],
    take: Take,
    hz: float,
    *,
    arena_m: float | None = None,
    success: bool | None = None,
) -> bytes:
    """Draw an episode: the picture with the command as bars below it, and the path from above.

    A bar reaches from the middle of the bounds to the command, one for each field. Below the path
    runs the time, green or red by how the episode ended.

    Args:
        episode: What :func:`fog_bringup.closed_loop.episode_record` gives.
        take: Its pictures.
        hz: Control rate.
        arena_m: Side of the floor, m; None: as large as the path needs.
        success: How it ended; None: nobody knows.

    Returns:
        An animated WebP of at most :data:`LARGEST_FILM` bytes, at the speed of the episode.
    """
    steps = len(take.frames)
    scale = max(1, math.ceil(_SIDE / min(take.frames.shape[1:3])))
    height, width = (n * scale for n in take.frames.shape[1:3])
    strip = _SPACE + take.commands.shape[1] * (_BAR + _SPACE)
    floor = _Floor(episode, arena_m, height, width)
    stride = math.ceil(steps / _MOST_FRAMES)
    while True:
        shown = [*range(0, steps - 1, stride), steps - 1]
        left, right = (np.zeros((len(shown), height + strip, width, 3), np.uint8) for _ in range(2))
        for place, step in enumerate(shown):
            left[place, :height] = take.frames[step].repeat(scale, 0).repeat(scale, 1)
            left[place, height:] = _bars(take.commands[step], strip, width)
            right[place, :height] = floor.at(step)
            right[place, height:] = _time(step / max(1, steps - 1), strip, width, success)
        for quality in _QUALITIES:
            data = film_of([left, right], hz / stride, columns=2, quality=quality)
            if len(data) <= LARGEST_FILM or len(shown) <= 2:
                return data
        stride *= 2


def _bars(command: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.uint8]:
    """``[height, width, channel]``: a bar for each field, and the middle of its bounds."""
    sheet = np.full((height, width, 3), _DARK, np.uint8)
    middle = width // 2
    for field, value in enumerate(command):
        top = _SPACE + field * (_BAR + _SPACE)
        rows = slice(top, top + _BAR)
        if np.isfinite(value):
            end = middle + round(float(value) * (middle - 1))
            sheet[rows, min(middle, end) : max(middle, end) + 1] = _COMMAND
        sheet[rows, middle] = _GREY
    return sheet


def _time(share: float, height: int, width: int, success: bool | None) -> npt.NDArray[np.uint8]:
    """``[height, width, channel]``: how much of the episode is over, and how it ends."""
    sheet = np.full((height, width, 3), _DARK, np.uint8)
    colour = {True: (76, 195, 138), False: (217, 45, 32), None: _GREY}[success]
    sheet[_SPACE : _SPACE + _BAR, : max(1, round(share * width))] = colour
    return sheet


class _Floor:
    """The floor seen from above, x to the right and y up, as in the drawing of the paths."""

    def __init__(
        self, episode: Mapping[str, Any], arena_m: float | None, height: int, width: int
    ) -> None:
        self._base = np.asarray(episode["base"], np.float64)
        self._cube = np.asarray(episode.get("cube") or np.zeros((0, 3)), np.float64)
        self._goal = episode.get("goal")
        points = [self._base[:, :2], self._cube[:, :2]]
        farthest = max(float(np.abs(p).max()) for p in points if len(p))
        self._arena = arena_m or 2.1 * max(farthest, 0.1)
        self._size = height, width
        self._unit = min(height, width) / (2.06 * max(self._arena / 2, farthest))
        """Pixels per metre."""
        self._sheet = np.full((height, width, 3), 255, np.uint8)
        half = self._arena / 2
        corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
        self._fill(self._sheet, corners, LIGHT.fill)
        self._line(self._sheet, [*corners, corners[0]], LIGHT.muted)
        if self._goal is not None:
            x, y = self._goal[:2]
            reach = 0.03 * self._arena
            self._line(self._sheet, [(x - reach, y), (x + reach, y)], LIGHT.ink)
            self._line(self._sheet, [(x, y - reach), (x, y + reach)], LIGHT.ink)

    def at(self, step: int) -> npt.NDArray[np.uint8]:
        """``[height, width, channel]`` with the path up to a step."""
        sheet = self._sheet.copy()
        if len(self._cube):
            cube = self._cube[: step + 1]
            self._line(sheet, cube[:, :2], LIGHT.orange)
            self._fill(sheet, _corners(cube[-1], 0.035 * self._arena, _SQUARE), LIGHT.orange)
        base = self._base[: step + 1]
        self._line(sheet, base[:, :2], LIGHT.blue, 2)
        self._fill(sheet, _corners(base[-1], 0.05 * self._arena, _ARROW), LIGHT.ink)
        return sheet

    def _line(
        self, sheet: npt.NDArray[np.uint8], points: Any, colour: str, thickness: int = 1
    ) -> None:
        cv2.polylines(sheet, [self._pixels(points)], False, _rgb(colour), thickness, cv2.LINE_AA,
                      _BITS)  # fmt: skip

    def _fill(self, sheet: npt.NDArray[np.uint8], points: Any, colour: str) -> None:
        cv2.fillPoly(sheet, [self._pixels(points)], _rgb(colour), cv2.LINE_AA, _BITS)

    def _pixels(self, points: Any) -> npt.NDArray[np.int32]:
        height, width = self._size
        x, y = np.asarray(points, np.float64).T
        places = np.stack([width / 2 + x * self._unit, height / 2 - y * self._unit], axis=1)
        return np.asarray(np.rint(places * 2**_BITS), np.int32)


_SQUARE = tuple((1.0, math.pi * (0.25 + 0.5 * k)) for k in range(4))
_ARROW = ((1.3, 0.0), (1.0, 2.5), (0.45, math.pi), (1.0, -2.5))
"""Distance and bearing of corners."""


def _corners(
    pose: npt.NDArray[np.float64], size: float, shape: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    x, y, yaw = pose
    return [(x + r * size * math.cos(yaw + a), y + r * size * math.sin(yaw + a)) for r, a in shape]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
