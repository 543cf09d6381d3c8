"""A robot without physics: it moves exactly as it is told, in front of a drawn picture.

For measuring what drives a robot, where the simulated one would take the processor time that the
measurement needs. It has the topics, rates and units of the walking one, and its joints swing while
it moves, but nothing can be learned from it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fog_bringup.robots.robot import Observation, Robot, camera_period_ns, camera_size
from fog_world_model.task import TaskConfig

_STEP_NS = 20_000_000
_FIRST_STAMP_NS = 1_000_000_000
_PAUSE_NS = 1_000_000_000
_PLANAR = ("linear.x", "linear.y", "angular.z")
_PANORAMA = 8
"""The drawn surroundings are so many pictures wide."""
_NOISE = 3
_SWING_RAD, _SWING_HZ = 0.3, 2.0
_GRAVITY = 9.81


class SyntheticRobot(Robot):
    """Integrates a velocity command ``linear.x``, ``linear.y``, ``angular.z``.

    Commands of other fields move nothing. A reward is never given, and no episode ends.

    Args:
        task: Its JointState streams name the joints.
        camera_hz: Rate of the camera; 50 Hz divided by a whole number.
        image_height: Rows of the picture; None: as for the simulated robots.
        image_width: Columns of the picture; None: as for the simulated robots.

    Raises:
        FogError: The camera's rate does not fit.
    """

    has_inertial = True
    fovy_deg = 90.0
    step_ns = _STEP_NS

    def __init__(
        self,
        task: TaskConfig,
        *,
        camera_hz: float = 10.0,
        image_height: int | None = None,
        image_width: int | None = None,
    ) -> None:
        self.camera_ns = camera_period_ns(camera_hz, self.step_ns)
        self.image_height, self.image_width = camera_size(task, image_height, image_width)
        self._fields = task.action.fields
        names = [
            field.partition(".")[2]
            for stream in task.proprioception
            if stream.type == "sensor_msgs/msg/JointState"
            for field in stream.fields
        ]
        self._joints = tuple(dict.fromkeys(names))
        self._panorama = _panorama(self.image_height, self.image_width * _PANORAMA)
        self._random = np.random.default_rng(0)
        self._stamp_ns, self._episode = _FIRST_STAMP_NS, -1
        self._pose = np.zeros(3)
        self._velocity = np.zeros(3)

    def reset(self, seed: int) -> None:
        """Start somewhere within a metre of the origin."""
        self._random = np.random.default_rng(seed)
        self._pose = self._random.uniform([-1, -1, -math.pi], [1, 1, math.pi])
        self._velocity = np.zeros(3)
        if self._episode >= 0:
            self._stamp_ns += _PAUSE_NS
        self._episode += 1

    def step(self, command: npt.ArrayLike) -> None:
        """Move for 20 ms, with the command's velocity at once."""
        told = dict(zip(self._fields, np.asarray(command, np.float64).tolist(), strict=True))
        self._velocity = np.array([told.get(name, 0.0) for name in _PLANAR])
        forward, left, turn = self._velocity
        yaw, seconds = self._pose[2], self.step_ns * 1e-9
        c, s = math.cos(yaw), math.sin(yaw)
        self._pose += seconds * np.array([c * forward - s * left, s * forward + c * left, turn])
        self._stamp_ns += self.step_ns

    def observe(self, *, image: bool = True) -> Observation:
        """Read the sensors, which are exact but for the picture's noise."""
        x, y, yaw = self._pose
        phase = 2 * math.pi * _SWING_HZ * self._stamp_ns * 1e-9
        swing = _SWING_RAD if self._velocity.any() else 0.0
        count = len(self._joints)
        phases = phase + np.arange(count)
        return Observation(
            stamp_ns=self._stamp_ns,
            image=self._draw() if image else None,
            position=np.array([x, y, 0.3]),
            orientation=np.array([0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]),
            linear_velocity=np.array([self._velocity[0], self._velocity[1], 0.0]),
            angular_velocity=np.array([0.0, 0.0, self._velocity[2]]),
            linear_acceleration=np.array([0.0, 0.0, _GRAVITY]),
            reward=0.0,
            end=False,
            episode=max(self._episode, 0),
            joint_names=self._joints,
            joint_position=swing * np.sin(phases),
            joint_velocity=swing * 2 * math.pi * _SWING_HZ * np.cos(phases),
            joint_effort=np.zeros(count),
        )

    def _draw(self) -> npt.NDArray[np.uint8]:
        """The part of the surroundings that lies ahead, with a camera's noise."""
        width = self._panorama.shape[1]
        first = round((0.5 - self._pose[2] / (2 * math.pi)) * width)
        columns = (first + np.arange(self.image_width)) % width
        noise = self._random.integers(
            0, _NOISE + 1, (self.image_height, self.image_width, 3), dtype=np.uint8
        )
        return np.asarray(self._panorama[:, columns] + noise)

    def close(self) -> None:
        """Nothing to release."""


def _panorama(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Hills under a sky with some posts, ``[height, width, 3]``; it closes in a circle."""
    angle = 2 * np.pi * np.arange(width) / width
    horizon = height * (0.45 + 0.08 * np.sin(3 * angle) + 0.05 * np.sin(7 * angle + 1.0))
    rows = np.arange(height)[:, None]
    ground = rows > horizon[None]
    sky = np.stack([120 + 0 * ground, 160 + 0 * ground, 220 - rows + 0 * ground], axis=2)
    floor = np.stack([90 + rows // 2 + 0 * ground, 120 + 0 * ground, 60 + 0 * ground], axis=2)
    picture = np.where(ground[..., None], floor, sky)
    for k in range(12):
        at, wide = k * width // 12, max(1, width // 200)
        picture[height // 4 : 3 * height // 4, at : at + wide] = [200, 40 + 15 * k, 40]
    return np.clip(picture, 0, 255 - _NOISE).astype(np.uint8)
