"""Scripted drivers that only want to succeed: what a policy is measured against.

They see the simulation's ground truth. Those that record (:mod:`fog_bringup.seek_drivers`) explore
besides, and are more or less unsteady.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fog_bringup.driver_base import Driver, Noise
from fog_bringup.robots.rewards import Pose, distance_and_bearing
from fog_bringup.robots.robot import Observation
from fog_bringup.seek_drivers import PushCubeDriver, PushTDriver, base_pose, driver_of
from fog_world_model.task import TaskConfig

NOISE = 0.2
"""Of the unsteadiness with which the drivers for recordings push. Without any the robot is caught
in front of an edge of the cube for longer."""
_STOP_M = 0.6
_LEVEL = 0.05


def reach_wish(base: Pose, cube: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The velocity that turns the robot to the cube, and takes it to a short distance from it.

    Args:
        base: ``(x, y, yaw)`` of the base, m and rad.
        cube: The cube's centre, m.

    Returns:
        ``[vx, vy, wz]`` in the base frame, m/s and rad/s; it may leave the task's bounds.
    """
    distance, bearing = distance_and_bearing(base, cube)
    ahead = 1.5 * (distance - _STOP_M) * max(0.0, math.cos(bearing)) ** 2
    return np.array([ahead, 0.0, 2.0 * bearing])


class ReachCubeDriver(Driver):
    """Turns to the cube wherever it is, walks up to it, and stays in front of it."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        super().reset(seed)
        self._noise = Noise((self._high - self._low) / 2, self._dt)

    def drive(self, observation: Observation) -> npt.NDArray[np.float64]:
        """Wish for the coming step."""
        wish = reach_wish(base_pose(observation), observation.objects["cube"][:2])
        return wish + self._noise.draw(self._random, _LEVEL)


class _SteadyPushCube(PushCubeDriver):
    noise = NOISE


class _SteadyPushT(PushTDriver):
    noise = 0.0


_DRIVERS: dict[str, type[Driver]] = {
    "reach_cube": ReachCubeDriver,
    "push_cube": _SteadyPushCube,
    "pusht": _SteadyPushT,
}


def make_reference_driver(task: TaskConfig) -> Driver:
    """Make the reference driver of a task.

    Raises:
        FogError: There is none for a task of that name.
    """
    return driver_of(task, _DRIVERS)
