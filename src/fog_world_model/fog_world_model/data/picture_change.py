"""How much the picture changes from step to step, and windows drawn in proportion to it.

What a world model finds hard is rare: in recordings of Push-T the block moves in one transition of
six, and a model that sees windows as often as they were recorded spends its time on a pusher that
crosses an empty table. Drawing part of the windows by how much happens in them is the plain form of
prioritised replay (Schaul et al. 2016, arXiv 1511.05952); it needs no bookkeeping while training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fog_world_model.data.image_sources import ImageSource, Rows
from fog_world_model.errors import FogError

_BLOCK_ROWS = 2048
"""Rows read at once."""


def picture_change(
    images: ImageSource, starts: Rows, lengths: Rows, rows: int
) -> npt.NDArray[np.float32]:
    """Mean absolute difference of the pixels from each row to the next one.

    Args:
        images: Of the episodes.
        starts: ``[episode]``: first row of each; rows of other episodes stay 0.
        lengths: ``[episode]``: rows of each.
        rows: Of the whole store.

    Returns:
        ``[row]`` of the whole store, 0 to 255; 0 at the last row of an episode.

    Raises:
        FogError: The store is damaged.
    """
    change = np.zeros(rows, np.float32)
    for index in np.argsort(starts):  # as they lie on the disk
        first, stop = int(starts[index]), int(starts[index] + lengths[index])
        for begin in range(first, stop - 1, _BLOCK_ROWS):
            length = min(_BLOCK_ROWS + 1, stop - begin)
            (block,) = images.windows(np.array([begin]), length)
            later, earlier = block[1:].astype(np.int16), block[:-1].astype(np.int16)
            found = np.abs(later - earlier).mean((1, 2, 3))
            change[begin : begin + len(found)] = found
    return change


def chances_by_change(
    change: npt.NDArray[np.float32], first_rows: npt.NDArray[np.int64], length: int
) -> npt.NDArray[np.float64]:
    """Cumulative chances of windows, by how much more changes in them than in the median one.

    Args:
        change: ``[row]``, see :func:`picture_change`.
        first_rows: ``[window]``.
        length: Observations in a window.

    Returns:
        ``[window]``, ascending to 1.

    Raises:
        FogError: The picture changes equally in all of them.
    """
    total = np.concatenate([[0.0], np.cumsum(change, dtype=np.float64)])
    within = total[first_rows + length - 1] - total[first_rows]
    excess = np.clip(within - np.median(within), 0.0, None)
    if excess.sum() <= 0:
        raise FogError(
            "moving windows: in no window does the picture change more than in the median one; "
            "draw all of them evenly (--moving-windows 0)"
        )
    chances = np.cumsum(excess) / excess.sum()
    chances[-1] = 1.0  # whatever the rounding: a number below 1 falls on a window
    return np.asarray(chances)
