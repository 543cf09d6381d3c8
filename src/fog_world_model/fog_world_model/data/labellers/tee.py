"""The T-shaped block of Push-T: its shape, and how much of the goal it covers.

Lengths are in px of the table, which is 512 px wide and high whatever the picture's size; x points
right and y down, and angles grow clockwise as seen in the picture. This is how gym-pusht has them
(its ``add_tee`` with scale 30), and a T on a real table is described in the same units.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import shapely

from fog_world_model.data.labellers.labeller import PlanarPose

Array = npt.NDArray[np.float64]

TABLE_PX = 512.0
UNIT_PX = 30.0
"""Width of the T's bars; the top bar is four, the whole T four of these long."""
GOAL: PlanarPose = (256.0, 256.0, math.pi / 4)
"""Where gym-pusht wants the T."""
PUSHER_RADIUS_PX = 15.0
"""Radius of gym-pusht's pusher, a disc."""
SOLVED = 0.95
"""Coverage from which on gym-pusht counts the T as placed."""

# Of the two bars, in units: (left, top, right, bottom). The origin of the T, which its pose speaks
# of, is the middle of its top edge.
_BARS = ((-2.0, 0.0, 2.0, 1.0), (-0.5, 1.0, 0.5, 4.0))
_AREA = sum((right - left) * (bottom - top) for left, top, right, bottom in _BARS)
CENTRE = (
    sum((right - left) * (bottom - top) * (top + bottom) / 2 for left, top, right, bottom in _BARS)
    / _AREA
)
"""From the origin to the centre of the T's area, in units."""


def bars(pose: PlanarPose, unit: float = UNIT_PX) -> Array:
    """Corners of the two bars, ``[bar, corner, axis]`` in px, of a T at ``(x, y, angle)``."""
    x, y, angle = pose
    c, s = math.cos(angle), math.sin(angle)
    local = np.array([[(a, b), (e, b), (e, d), (a, d)] for a, b, e, d in _BARS]) * unit
    corners: Array = local @ np.array([[c, s], [-s, c]]) + (x, y)
    return corners


def coverage(block: PlanarPose, goal: PlanarPose, unit: float = UNIT_PX) -> float:
    """Share of the goal's area that the block covers, in [0, 1], as gym-pusht scores it."""
    # The bars of one T do not overlap, so the parts that pairs of bars share add up.
    goal_bars = [shapely.Polygon(corners) for corners in bars(goal, unit)]
    shared = sum(
        shapely.Polygon(corners).intersection(other).area
        for corners in bars(block, unit)
        for other in goal_bars
    )
    return min(1.0, float(shared) / (_AREA * unit * unit))


def signed_distance(points: Array, pose: PlanarPose, unit: float = UNIT_PX) -> Array:
    """Distance from the T's outline, px, negative inside.

    Args:
        points: ``[..., axis]`` in px.
        pose: ``(x, y, angle)`` of the T.
        unit: Width of a bar, px.

    Returns:
        ``[...]``; exact outside and near the outline, except inside next to the seam of the bars.
    """
    c, s = math.cos(pose[2]), math.sin(pose[2])
    offset = points - np.array(pose[:2])
    x = (offset[..., 0] * c + offset[..., 1] * s) / unit
    y = (offset[..., 1] * c - offset[..., 0] * s) / unit
    # The stem reaches up into the bar here, so that the seam is no outline.
    distances = []
    for left, _, right, bottom in _BARS:
        dx = np.abs(x - (left + right) / 2) - (right - left) / 2
        dy = np.abs(y - bottom / 2) - bottom / 2
        outside = np.hypot(np.maximum(dx, 0.0), np.maximum(dy, 0.0))
        distances.append(outside + np.minimum(np.maximum(dx, dy), 0.0))
    nearest: Array = np.minimum(*distances) * unit
    return nearest


def gap(pusher: Array, pose: PlanarPose, unit: float = UNIT_PX) -> Array:
    """Free space between the pusher and the T, px; 0 or less when they touch.

    Args:
        pusher: ``[..., axis]`` centre of the pusher, px.
        pose: ``(x, y, angle)`` of the T.
        unit: Width of a bar, px.
    """
    return signed_distance(pusher, pose, unit) - PUSHER_RADIUS_PX
