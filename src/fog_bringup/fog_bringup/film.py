"""Episodes side by side in one animated picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

_GAP = 2
"""Pixels between pictures."""
_HOLD_S = 2.0
"""How long the last frame stays before the film begins again."""


def film_of(
    episodes: Sequence[npt.NDArray[np.uint8]], hz: float, *, columns: int = 5, quality: int = 80
) -> bytes:
    """Draw episodes in a grid, in the order in which one reads.

    Args:
        episodes: ``[step, height, width, 3]`` each; those that end early hold their last frame.
        hz: Frames per second.
        columns: Episodes in a row.
        quality: Of the compression, 0 to 100.

    Returns:
        An animated WebP.
    """
    height, width = episodes[0].shape[1:3]
    columns = min(columns, len(episodes))
    rows = math.ceil(len(episodes) / columns)
    length = max(map(len, episodes))
    pictures = []
    for step in range(length):
        sheet = np.full(
            (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 128, np.uint8
        )
        for place, frames in enumerate(episodes):
            row, column = divmod(place, columns)
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = frames[min(step, len(frames) - 1)]
        pictures.append(Image.fromarray(sheet))
    durations = [round(1000 / hz)] * length
    durations[-1] += round(1000 * _HOLD_S)
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        quality=quality,
    )
    return buffer.getvalue()
