"""Where the quadruped's ego camera sits, and which points of the world its picture shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fog_bringup.robots.robot import Observation
from fog_world_model.task import TaskConfig

CAMERA_POSITION = (0.327, 0.0, 0.043)
"""Of the ego camera in the base frame, m (the nose of the Go2)."""
PITCH_DEG, FOVY_DEG = 18.0, 95.0
"""How far it looks down and its vertical field of view, where a task does not say otherwise."""


@dataclass(frozen=True)
class EgoCamera:
    """A pinhole camera on the base. Its picture counts as square, as policies see it."""

    pitch_deg: float = PITCH_DEG
    fovy_deg: float = FOVY_DEG

    @classmethod
    def of_task(cls, task: TaskConfig) -> EgoCamera:
        """Take ``camera_pitch_deg`` and ``camera_fovy_deg`` out of a task's options."""
        options = task.options
        return cls(
            options.get("camera_pitch_deg", PITCH_DEG), options.get("camera_fovy_deg", FOVY_DEG)
        )

    def project(
        self, observation: Observation, point: tuple[float, float, float]
    ) -> tuple[float, float] | None:
        """Where the picture shows a point, if nothing is in the way.

        Args:
            observation: Its base pose counts.
            point: ``(x, y, z)`` in the world, m.

        Returns:
            ``(right, up)`` from the picture's middle, in halves of its side: both within [-1, 1] in
            the picture. None behind the camera.
        """
        offset = _rotation(observation).T @ (np.array(point) - observation.position)
        ahead, left, above = offset - CAMERA_POSITION
        c, s = math.cos(math.radians(self.pitch_deg)), math.sin(math.radians(self.pitch_deg))
        depth = float(c * ahead - s * above) * math.tan(math.radians(self.fovy_deg) / 2)
        if depth <= 0.0:
            return None
        return float(-left) / depth, float(s * ahead + c * above) / depth

    def shows(
        self, observation: Observation, point: tuple[float, float, float], within: float = 1.0
    ) -> bool:
        """Whether a point is in the picture, ``within`` so many halves of a side of its middle."""
        at = self.project(observation, point)
        return at is not None and max(abs(at[0]), abs(at[1])) <= within


def _rotation(observation: Observation) -> np.ndarray:
    """Rotation matrix ``[3, 3]``, base to world."""
    x, y, z, w = observation.orientation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
