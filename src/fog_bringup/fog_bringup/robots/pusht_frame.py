"""The axes of Push-T: from pixels of its table, y down, to metres, x right and y up (REP 103).

One pixel stands for one millimetre, so the table of 512 px is 0.512 m wide. Angles grow
anticlockwise as seen from above.
"""

from __future__ import annotations

import math

PIXEL_M = 0.001
TABLE_PX = 512
GOAL_RADIUS_M = 0.13
"""Radius of a circle around the block's centre that the pusher can follow without touching it."""
_CENTRE_PX = 45.0  # from the origin of the T, the middle of its top edge, to its centre of gravity

Pose = tuple[float, float, float]


def to_world(x_px: float, y_px: float, angle: float = 0.0) -> Pose:
    """Pixels and a clockwise angle, as gym-pusht has them, to metres and radians."""
    yaw = math.atan2(math.sin(-angle), math.cos(-angle))
    return float(x_px) * PIXEL_M, (TABLE_PX - float(y_px)) * PIXEL_M, yaw


def to_pixels(x: float, y: float) -> tuple[float, float]:
    """Metres to pixels; the inverse of :func:`to_world`."""
    return x / PIXEL_M, TABLE_PX - y / PIXEL_M


def block_centre(pose: Pose) -> tuple[float, float]:
    """Centre of gravity of a T at ``(x, y, yaw)``, m: below its top edge when yaw is 0."""
    x, y, yaw = pose
    length = _CENTRE_PX * PIXEL_M
    return x + length * math.sin(yaw), y - length * math.cos(yaw)
