"""Push-T (gym-pusht) as a robot: a disc on a table, steered by a velocity, seen from above."""

from __future__ import annotations

import math
from typing import Any, cast

import cv2
import gym_pusht  # its import registers the environment with gymnasium
import gymnasium
import numpy as np
import numpy.typing as npt

from fog_bringup.robots import rewards
from fog_bringup.robots.pusht_frame import PIXEL_M, TABLE_PX, to_world
from fog_bringup.robots.robot import Observation, Robot, camera_period_ns, camera_size
from fog_world_model.data.labellers import tee
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

_FIRST_STAMP_NS = 1_000_000_000
_RESET_NS = 1_000_000_000
_LEAD_S = 0.25
"""How far ahead of the pusher its target is set, as a time at the commanded velocity. The pusher is
drawn to its target like a critically damped spring of 10 rad/s, and the target holds for 0.1 s:
with this lead its mean velocity is the commanded one (worked out in the tests)."""
_RADIUS_PX = tee.PUSHER_RADIUS_PX
_START_PX = (50, 450)
"""Between these gym-pusht puts the pusher, along either axis; so do the starts near the goal."""

_BEHIND_PX = (90.0, 150.0)
"""From the centre of the block, whose furthest corner is 81 px away, to a pusher behind it."""


class PushTRobot(Robot):
    """A pusher that is steered by (vx, vy) in m/s; x points right, y up, 1 px is 1 mm.

    Args:
        task: Two action fields. Of its options, ``approach_weight`` is the share of the reward
            that is for being near the block; ``solved_coverage`` (0.95 unless given) is the
            coverage at which an episode ends, and above 1 none does (what is counted as a success
            is ``scored_coverage``, which concerns the evaluation alone);
            ``start_distance_px`` lets the block start near the goal: the centre of its area lies
            half to one times as far from the goal's, in any direction, and it is turned by up to
            ``start_angle_deg`` to either side (0 unless given). Without it the block starts
            wherever gym-pusht puts it. ``start_behind_deg`` (180 unless given: anywhere) lets the
            pusher start behind the block as seen from the goal, at most that far to either side
            of straight behind, and near it.
        camera_hz: Rate of the camera; 10 Hz divided by a whole number.
        image_height: Rows of the picture; None: ``image_height_px`` of the task's options.
        image_width: Columns of the picture; None: ``image_width_px`` of the task's options.

    Raises:
        FogError: The task or the camera does not fit.
    """

    has_inertial = False

    def __init__(
        self,
        task: TaskConfig,
        *,
        camera_hz: float = 10.0,
        image_height: int | None = None,
        image_width: int | None = None,
    ) -> None:
        if task.action_size != 2:
            raise FogError(
                f"task '{task.name}': action.fields must be linear.x, linear.y for pusht, not "
                f"{', '.join(task.action.fields)}"
            )
        self._approach_weight = _option(task, "approach_weight", 0.0, 0.0, 1.0, "a share")
        self._solved = _option(task, "solved_coverage", tee.SOLVED, 0.05, 2.0, "a coverage")
        near = "start_distance_px" in task.options
        self._start_px = _option(task, "start_distance_px", 0.0, 0.0, 150.0, "px") if near else None
        self._start_deg = _option(task, "start_angle_deg", 0.0, 0.0, 180.0, "degrees")
        if self._start_px is None and self._start_deg:
            raise FogError(
                f"task '{task.name}': options.start_angle_deg is given without start_distance_px; "
                "give both, or neither for starts all over the table"
            )
        self._behind_deg = _option(task, "start_behind_deg", 180.0, 0.0, 180.0, "degrees")
        if self._start_px is None and self._behind_deg < 180.0:
            raise FogError(
                f"task '{task.name}': options.start_behind_deg is given without start_distance_px; "
                "give both, or neither for starts all over the table"
            )
        made: Any = gymnasium.make(
            f"{gym_pusht.__name__}/PushT-v0",
            obs_type="state",
            observation_height=TABLE_PX,
            observation_width=TABLE_PX,
            disable_env_checker=True,
        )
        self._env = made.unwrapped
        self.step_ns = round(1e9 / self._env.control_hz)
        self.camera_ns = camera_period_ns(camera_hz, self.step_ns)
        self.image_height, self.image_width = camera_size(task, image_height, image_width)
        self.fovy_deg = math.degrees(2 * math.atan(TABLE_PX * PIXEL_M / 2))  # from 1 m above
        self._grid_ns = self.camera_ns if task.period_ns % self.step_ns else task.period_ns
        self._stamp_ns, self._episode, self._ended = _FIRST_STAMP_NS, -1, False
        self.coverage = 0.0
        """Share of the goal's area that the block covers, in [0, 1]: the benchmark's score."""
        self._velocity = np.zeros(2)
        self._env.reset(seed=0)

    def reset(self, seed: int) -> None:
        """Put pusher and block somewhere at random; the block near its goal where the task says."""
        self._env.reset(seed=seed)
        if self._start_px is not None:
            self._start_near_the_goal(self._start_px)
        self._velocity = np.zeros(2)
        self._stamp_ns = -(-(self._stamp_ns + _RESET_NS) // self._grid_ns) * self._grid_ns
        self._episode += 1
        self._ended = False
        self._judge(float(self._env._get_coverage()))

    def _start_near_the_goal(self, distance_px: float) -> None:
        random = self._env.np_random  # seeded by the reset
        angle = math.radians(random.uniform(-self._start_deg, self._start_deg))
        away, way = random.uniform(0.5, 1.0) * distance_px, random.uniform(-math.pi, math.pi)
        goal = tuple(self._env.goal_pose)
        x, y = _centre_px(goal)
        angle += goal[2]
        # Turned about the centre of its area: else a turn would be a shift as well.
        off_x, off_y = _centre_px((0.0, 0.0, angle))
        block = (
            x + away * math.cos(way) - off_x,
            y + away * math.sin(way) - off_y,
            angle,
        )
        centre = (x + away * math.cos(way), y + away * math.sin(way))

        def draw() -> npt.NDArray[np.float64]:
            if self._behind_deg == 180.0:
                return np.asarray(random.uniform(*_START_PX, size=2))
            turn = way + math.radians(random.uniform(-self._behind_deg, self._behind_deg))
            distance = random.uniform(*_BEHIND_PX)
            x_px, y_px = (
                centre[0] + distance * math.cos(turn),
                centre[1] + distance * math.sin(turn),
            )
            return np.array([x_px, y_px])

        pusher = draw()
        while float(tee.gap(pusher, block)) <= 1.0:  # touching, it would shove the block away
            pusher = draw()
        body = self._env.block
        self._env.agent.position = tuple(pusher)
        body.angle, body.position = block[2], block[:2]
        body.velocity, body.angular_velocity = (0.0, 0.0), 0.0
        self._env.space.step(self._env.dt)  # the shapes follow their bodies in a step only

    def step(self, command: npt.ArrayLike) -> None:
        """Push for 0.1 s.

        Args:
            command: ``[vx, vy]``, m/s.
        """
        vx, vy = np.asarray(command, np.float64) / PIXEL_M
        before = np.array(self._env.agent.position)
        target = before + _LEAD_S * np.array([vx, -vy])
        target = np.clip(target, _RADIUS_PX, TABLE_PX - _RADIUS_PX)
        *_, info = self._env.step(target)
        moved = (np.array(self._env.agent.position) - before) * PIXEL_M / (self.step_ns * 1e-9)
        self._velocity = moved * (1.0, -1.0)
        self._stamp_ns += self.step_ns
        self._judge(float(info["coverage"]))

    def _judge(self, coverage: float) -> None:
        # gym-pusht adds up the parts of the block in the order of a set, so that the last bits vary
        # from one robot to the next.
        self.coverage = round(coverage, 12)
        self._ended = self._ended or coverage >= self._solved

    def observe(self, *, image: bool = True) -> Observation:
        """Read position and picture."""
        env = self._env
        x, y, _ = to_world(*env.agent.position)
        block_px = (*env.block.position, env.block.angle)
        return Observation(
            stamp_ns=self._stamp_ns,
            image=self._draw() if image else None,
            position=np.array([x, y, 0.0]),
            orientation=np.array([0.0, 0.0, 0.0, 1.0]),
            linear_velocity=np.array([*self._velocity, 0.0]),
            angular_velocity=np.zeros(3),
            linear_acceleration=np.zeros(3),
            reward=rewards.pusht(
                block_px,
                tuple(env.goal_pose),
                self.coverage,
                gap=float(tee.gap(np.array(env.agent.position), block_px)),
                approach_weight=self._approach_weight,
            ),
            end=self._ended,
            episode=max(self._episode, 0),
            objects={"block": to_world(*block_px), "goal": to_world(*env.goal_pose)},
        )

    def _draw(self) -> npt.NDArray[np.uint8]:
        table = self._env._render()
        # The package's own reduction takes single pixels; averaging keeps thin outlines.
        size = (self.image_width, self.image_height)
        return cast("npt.NDArray[np.uint8]", cv2.resize(table, size, interpolation=cv2.INTER_AREA))

    def close(self) -> None:
        """Release the environment."""
        self._env.close()


def _option(
    task: TaskConfig, name: str, default: float, low: float, high: float, what: str
) -> float:
    value = float(task.options.get(name, default))
    if not low <= value <= high:
        raise FogError(
            f"task '{task.name}': options.{name} is {value:g}; "
            f"expected {what} from {low:g} to {high:g}"
        )
    return value


def _centre_px(pose: tuple[float, ...]) -> tuple[float, float]:
    """Centre of the area of a T at ``(x, y, angle)``, px."""
    length = tee.CENTRE * tee.UNIT_PX
    return pose[0] - length * math.sin(pose[2]), pose[1] + length * math.cos(pose[2])
