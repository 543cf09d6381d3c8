"""What every robot of this stack is: something to reset, to step and to observe."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fog_bringup.robots.variations import Conditions
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

CAMERA_PX = 96
"""Rows and columns of a simulated camera where neither the caller nor the task says otherwise."""


@dataclass(frozen=True)
class Observation:
    """What a robot's sensors show at one instant, in REP-103 units and axes."""

    stamp_ns: int
    """Robot time in nanoseconds; it never runs backwards, not even over a reset."""
    image: npt.NDArray[np.uint8] | None
    """``[height, width, 3]`` RGB, or None when no picture was asked for."""
    position: npt.NDArray[np.float64]
    """``[x, y, z]`` of the base in the world, m."""
    orientation: npt.NDArray[np.float64]
    """Unit quaternion ``[x, y, z, w]`` of the base in the world."""
    linear_velocity: npt.NDArray[np.float64]
    """``[x, y, z]`` of the base in its own frame, m/s."""
    angular_velocity: npt.NDArray[np.float64]
    """``[x, y, z]`` of the base in its own frame, rad/s."""
    linear_acceleration: npt.NDArray[np.float64]
    """``[x, y, z]`` felt by the IMU (gravity included) in the base frame, m/s^2."""
    reward: float
    """Reward of the state that the last step led to."""
    end: bool
    """True once the state is terminal (a fall, or the task is done)."""
    episode: int
    """Counts resets since the robot was made, from 0."""
    joint_names: tuple[str, ...] = ()
    joint_position: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """``[joint]``, rad."""
    joint_velocity: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """``[joint]``, rad/s."""
    joint_effort: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """``[joint]``, N m."""
    objects: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Ground truth ``(x, y, yaw)`` of the scene's objects: for drivers and pictures only."""


class Robot(ABC):
    """A robot behind one interface, simulated or real.

    The same object is wrapped in a ROS node in real time, or driven as fast as the machine allows
    to write a bag.
    """

    step_ns: int
    """Robot time that one :meth:`step` takes, ns."""
    camera_ns: int
    """Period of the camera, ns; a multiple of ``step_ns``."""
    image_height: int
    image_width: int
    fovy_deg: float
    """Vertical field of view of the camera, degrees."""
    has_inertial: bool
    """Whether joint states and IMU readings exist."""
    conditions: Conditions = MappingProxyType({})
    """What the present episode drew for the variations of the scene; empty where none is varied."""

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start an episode from a state drawn from ``seed`` (equal seeds, equal states)."""

    @abstractmethod
    def step(self, command: npt.ArrayLike) -> None:
        """Hold a command for one step.

        Args:
            command: ``[action]`` in physical units; what the robot cannot do is clipped.
        """

    @abstractmethod
    def observe(self, *, image: bool = True) -> Observation:
        """Read the sensors now; without ``image`` the camera is not rendered (cheaper)."""

    @abstractmethod
    def close(self) -> None:
        """Release what the robot holds (renderers, windows); it cannot be used afterwards."""


def camera_period_ns(camera_hz: float, step_ns: int) -> int:
    """Period of a simulated camera, ns: a whole number of the robot's steps.

    Args:
        camera_hz: Its rate.
        step_ns: The robot's step.

    Raises:
        FogError: The robot's rate divided by the camera's is no whole number.
    """
    period_ns = round(1e9 / camera_hz) if 0 < camera_hz < math.inf else 0
    if period_ns == 0 or period_ns % step_ns:
        raise FogError(
            f"camera_hz {camera_hz:g}: must be {1e9 / step_ns:g} divided by a whole number"
        )
    return period_ns


def camera_size(task: TaskConfig, height: int | None, width: int | None) -> tuple[int, int]:
    """Rows and columns of a simulated camera's picture.

    Args:
        task: ``image_height_px`` and ``image_width_px`` of its options count where the caller
            gives None.
        height: Rows that the caller wants.
        width: Columns that the caller wants.
    """
    options = task.options
    return (
        height or int(options.get("image_height_px", CAMERA_PX)),
        width or int(options.get("image_width_px", CAMERA_PX)),
    )
