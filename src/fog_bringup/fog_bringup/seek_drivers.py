"""Scripted drivers with a purpose: they seek the object, touch it and push it, more or less well.

They know where things are from the simulator. How exactly they drive differs from episode to
episode, because a world model learns contacts and near misses only from recordings that hold them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fog_bringup.driver_base import Driver, Noise
from fog_bringup.robots.pusht_frame import GOAL_RADIUS_M, block_centre
from fog_bringup.robots.rewards import PUSH_DISTANCE_M, Pose, distance_and_bearing
from fog_bringup.robots.robot import Observation
from fog_bringup.tasks import VARIANTS, purpose_of
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

Array = npt.NDArray[np.float64]


def base_pose(observation: Observation) -> tuple[float, float, float]:
    """``(x, y, yaw)`` of the base in the world, m and rad."""
    x, y, z, w = observation.orientation
    yaw = math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return float(observation.position[0]), float(observation.position[1]), yaw


VISIBLE_RAD = 0.7
"""Bearings within which the ego camera shows the cube; its half width is about 0.8 rad."""


class SeekCubeDriver(Driver):
    """Walks up to the cube; there it stays, pushes, retreats or swerves, and comes back.

    It acts on the cube only while the camera shows it, and wanders otherwise. If it turned towards
    a cube that no picture shows, its commands would tell a world model where the cube is: the model
    would learn that commands make cubes appear, and a policy would learn to command one. For the
    same reason it now and then walks up to a cube that is not there.
    """

    def reset(self, seed: int) -> None:
        """Begin an episode: draw the noise, the gains and the distance at which to stop."""
        super().reset(seed)
        random = self._random
        self._level = float(random.uniform(0.0, 0.7))
        self._noise = Noise((self._high - self._low) / 2, self._dt)
        self._turn_gain = float(random.uniform(1.0, 3.0))
        self._speed = float(random.uniform(0.5, 1.0)) * float(self._high[0])
        self._stop_m = float(random.uniform(0.4, 0.8))
        self._phase, self._left = "approach", 0
        self._swerve, self._turn = np.zeros(3), np.zeros(3)
        self._phantom = 0.0

    def drive(self, observation: Observation) -> Array:
        """Wish for the coming step."""
        distance, bearing = distance_and_bearing(
            base_pose(observation), observation.objects["cube"][:2]
        )
        self._left -= 1
        if self._left <= 0 and (abs(bearing) > VISIBLE_RAD or self._random.random() < 0.02):
            self._begin("swerve", "turn", "phantom", shares=(0.2, 0.4, 0.4))
        elif abs(bearing) > VISIBLE_RAD and self._phase not in ("swerve", "turn"):
            self._begin("swerve", "turn", "phantom", shares=(0.1, 0.55, 0.35))
        elif self._phase == "approach":
            if distance < self._stop_m:
                self._begin("stay", "push", "retreat", "swerve", shares=(0.45, 0.2, 0.15, 0.2))
        elif self._left <= 0:
            self._phase = "approach"
        turn = self._turn_gain * bearing
        phantom_turn = self._turn_gain * self._phantom
        self._phantom -= phantom_turn * self._dt
        wish = {
            "approach": np.array([self._speed * max(0.0, math.cos(bearing)) ** 2, 0.0, turn]),
            "phantom": np.array([self._speed * math.cos(self._phantom) ** 2, 0.0, phantom_turn]),
            "stay": np.array([0.0, 0.0, turn]),
            "push": np.array([self._speed, 0.0, 0.5 * turn]),
            "retreat": np.array([-self._speed, 0.0, 0.5 * turn]),
            "swerve": self._swerve,
            "turn": self._swerve * (0.3, 0.3, 0.0) + self._turn,
        }[self._phase]
        return wish + self._noise.draw(self._random, self._level)

    def _begin(self, *phases: str, shares: tuple[float, ...]) -> None:
        self._phase = phases[self._random.choice(len(phases), p=shares)]
        self._left = self._steps(0.6, 3.0)
        self._swerve = self._random.uniform(self._low, self._high)
        rate = self._random.choice((-1.0, 1.0)) * self._random.uniform(0.5, 1.0)
        self._turn = np.array([0.0, 0.0, rate * self._high[2]])
        self._phantom = float(self._random.uniform(-VISIBLE_RAD, VISIBLE_RAD))


def push_wish(
    base: Pose, cube_at: tuple[float, float], goal: tuple[float, float], speed: float
) -> Array:
    """The velocity that gets the robot behind the cube, seen from the goal, and pushes it there.

    Args:
        base: ``(x, y, yaw)`` of the base, m and rad.
        cube_at: The cube's centre, m.
        goal: Where the cube shall be, m.
        speed: Of the push, m/s.

    Returns:
        ``[vx, vy, wz]`` in the base frame, m/s and rad/s; it may leave the task's bounds.
    """
    x, y, yaw = base
    cube = np.array(cube_at)
    way = np.array(goal) - cube
    ahead = way / max(float(np.hypot(*way)), 1e-6)
    left = np.array([-ahead[1], ahead[0]])
    offset = np.array([x, y]) - cube
    along, lateral = float(offset @ ahead), float(offset @ left)
    if along > -0.4:
        # On the wrong side: round the cube at arm's length.
        side = math.copysign(1.0, lateral)
        target = cube + (0.85 * side) * left + (-0.3 if abs(lateral) > 0.6 else 0.2) * ahead
        if abs(lateral) > 0.6:
            target = target - 0.5 * ahead
        velocity = 1.5 * (target - np.array([x, y]))
    elif abs(lateral) > 0.12 and along > -0.9:
        # Behind, but not in line: step sideways at a distance that leaves the cube alone.
        velocity = -2.0 * lateral * left + 1.5 * (-PUSH_DISTANCE_M - 0.2 - along) * ahead
    else:
        velocity = speed * ahead - 1.5 * lateral * left
    _, bearing = distance_and_bearing((x, y, yaw), (cube[0], cube[1]))
    if along < -0.3:  # close to the cube its bearing swings; the pushing direction does not
        turn = math.atan2(ahead[1], ahead[0]) - yaw
        bearing = math.atan2(math.sin(turn), math.cos(turn))
    c, s = math.cos(yaw), math.sin(yaw)
    body = np.array([c * velocity[0] + s * velocity[1], c * velocity[1] - s * velocity[0]])
    return np.array([*body, 2.0 * bearing])


class PushCubeDriver(Driver):
    """Gets behind the cube, seen from the goal, and pushes it there."""

    noise = 1.0
    """Scales the unsteadiness; 0 drives without any."""

    def reset(self, seed: int) -> None:
        """Begin an episode: draw the noise and the speed."""
        super().reset(seed)
        self._level = self.noise * float(self._random.uniform(0.0, 0.5))
        self._noise = Noise((self._high - self._low) / 2, self._dt)
        self._speed = float(self._random.uniform(0.6, 1.0)) * float(self._high[0])

    def drive(self, observation: Observation) -> Array:
        """Wish for the coming step."""
        objects = observation.objects
        wish = push_wish(
            base_pose(observation), objects["cube"][:2], objects["goal"][:2], self._speed
        )
        return wish + self._noise.draw(self._random, self._level)


class PushTDriver(Driver):
    """Goes round the block to the side away from the goal and pushes, off-centre to turn it."""

    noise = 1.0
    """Scales the unsteadiness of the hand; 0 drives without any."""

    def reset(self, seed: int) -> None:
        """Begin an episode: draw the noise and the speed."""
        super().reset(seed)
        self._level = self.noise * float(self._random.uniform(0.0, 0.4))
        self._noise = Noise((self._high - self._low) / 2, self._dt)
        self._speed = float(self._random.uniform(0.4, 1.0)) * float(self._high[0])
        self._side = 1.0

    def drive(self, observation: Observation) -> Array:
        """Wish for the coming step."""
        pusher = observation.position[:2]
        block, goal = observation.objects["block"], observation.objects["goal"]
        centre = np.array(block_centre(block))
        way = np.array(block_centre(goal)) - centre
        turn = math.atan2(math.sin(goal[2] - block[2]), math.cos(goal[2] - block[2]))
        distance = float(np.hypot(*way))
        if distance < 0.01:  # in place: push against the long end to turn the block
            way = np.array([-math.sin(block[2]), math.cos(block[2])])
        ahead = way / float(np.hypot(*way))
        left = np.array([-ahead[1], ahead[0]])
        # A push at an offset to the right of the centre turns the block to the left.
        lever = -float(np.clip(0.05 * turn, -0.04, 0.04))
        offset = pusher - centre
        along, lateral = float(offset @ ahead), float(offset @ left)
        if along > -0.03:
            side = math.copysign(1.0, lateral)
            target = centre + side * GOAL_RADIUS_M * left
            if abs(lateral) > 0.8 * GOAL_RADIUS_M:
                target = target - 0.12 * ahead
            velocity = 4.0 * (target - pusher)
        elif abs(lateral - lever) > 0.015 and along > -0.14:
            velocity = 4.0 * ((lever - lateral) * left + (-0.11 - along) * ahead)
        else:
            speed = min(self._speed, 0.05 + 2.0 * distance)
            velocity = speed * ahead + 3.0 * (lever - lateral) * left
        return velocity + self._noise.draw(self._random, self._level)


_DRIVERS: dict[str, type[Driver]] = {
    "reach_cube": SeekCubeDriver,
    "push_cube": PushCubeDriver,
    "pusht": PushTDriver,
}


def make_seek_driver(task: TaskConfig) -> Driver:
    """Make the purposeful driver of a task.

    Raises:
        FogError: There is none for a task of that name.
    """
    return driver_of(task, _DRIVERS, " Drive it by hand, or with random commands only.")


def driver_of(task: TaskConfig, drivers: Mapping[str, type[Driver]], advice: str = "") -> Driver:
    """The driver that a table has for a task.

    Args:
        task: Gives the purpose, see :func:`fog_bringup.tasks.purpose_of`.
        drivers: Purpose -> kind of driver.
        advice: Ends the message where there is none.

    Raises:
        FogError: There is none for a task of that name.
    """
    purpose = purpose_of(task)
    if purpose not in drivers:
        known = (*drivers, *(name for name, same in VARIANTS.items() if same in drivers))
        raise FogError(
            f"task '{task.name}': no scripted driver knows its purpose; known are "
            f"{', '.join(known)}" + (f".{advice}" if advice else "")
        )
    return drivers[purpose](task)
