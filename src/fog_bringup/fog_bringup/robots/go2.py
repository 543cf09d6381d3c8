"""The Unitree Go2, simulated with MuJoCo, in an arena with a cube and a goal post."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup.robots import rewards
from fog_bringup.robots.go2_gait import COMMAND_LIMIT, PERIOD_S, STANCE, Gait, VelocityTrim
from fog_bringup.robots.go2_scene import JOINTS, Scene, build_model, wheel_file
from fog_bringup.robots.go2_variations import SceneVariation
from fog_bringup.robots.mujoco_gl import mujoco, open_renderer
from fog_bringup.robots.robot import Observation, Robot, camera_period_ns, camera_size
from fog_bringup.robots.variations import draw_conditions
from fog_bringup.tasks import VARIANTS
from fog_world_model.data.labellers.marker_layout import marker_layout
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

_PURPOSES = ("reach_cube", "push_cube")
TASKS = (*_PURPOSES, *(name for name, same in VARIANTS.items() if same in _PURPOSES))
"""Names of the tasks whose reward this robot knows."""
_FIRST_STAMP_NS = 1_000_000_000  # zero would read as "no stamp" in a message header
_SETTLE_NS = 200_000_000
_PAUSE_NS = 1_000_000_000
"""How far the clock jumps over a reset: a gap that cuts a recording even where no marker does."""
_FALLEN_HEIGHT_M, _FALLEN_TILT_RAD = 0.18, 0.9
_DONE_DISTANCE_M = 0.4
_UNSTABLE = tuple(
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
)


class Go2Robot(Robot):
    """A walking quadruped with an ego camera, steered by a velocity command (vx, vy, wz).

    Args:
        task: Names the reward; its ``options`` set the scene (see :class:`Scene`) and
            ``start_margin_m`` and ``cube_margin_m`` (how far from the walls the robot and the cube
            start), ``cube_distance_m`` (how far from each other at most),
            ``start_bearing_deg`` (how far from straight ahead the cube is), ``done_distance_m``
            (push_cube: from cube to post) and ``markers`` (1: cube and post carry those of the
            task's labeller).
        camera_hz: Rate of the camera; 50 Hz divided by a whole number.
        image_height: Rows of the picture; None: ``image_height_px`` of the task's options.
        image_width: Columns of the picture; None: ``image_width_px`` of the task's options.
        vary: Variations of the scene that every episode draws its ``conditions`` for.

    Raises:
        FogError: The task, the camera or the machine does not fit.
    """

    has_inertial = True

    def __init__(
        self,
        task: TaskConfig,
        *,
        camera_hz: float = 10.0,
        image_height: int | None = None,
        image_width: int | None = None,
        vary: tuple[str, ...] = (),
    ) -> None:
        if task.name not in TASKS:
            raise FogError(
                f"task '{task.name}': the simulated go2 has no reward of that name; "
                f"it knows {', '.join(TASKS)}"
            )
        if task.action_size != 3:
            raise FogError(
                f"task '{task.name}': action.fields must be linear.x, linear.y, angular.z for the "
                f"go2, not {', '.join(task.action.fields)}"
            )
        self.step_ns = round(PERIOD_S * 1e9)
        self.camera_ns = camera_period_ns(camera_hz, self.step_ns)
        self.image_height, self.image_width = camera_size(task, image_height, image_width)
        scene = Scene.from_options(task.options)
        self.fovy_deg = scene.camera_fovy_deg
        self._task, self._scene = task, scene
        self._substeps = max(1, round(PERIOD_S / scene.physics_step_s))
        self._grid_ns = self.camera_ns if task.period_ns % self.step_ns else task.period_ns
        markers = marker_layout(task.labeller) if task.options.get("markers") else None
        self._model = build_model(scene, markers)
        self._vary = vary
        self._variation = SceneVariation(self._model) if vary else None
        self._data = mujoco.MjData(self._model)
        self._index_model()
        self._gait = Gait(wheel_file("data/policy/policy.onnx"))
        self._trim = VelocityTrim()
        self._renderer: Any = None
        self._stamp_ns, self._episode = _FIRST_STAMP_NS, -1
        self._ended = self._done = False
        self._potentials: deque[float] = deque([0.0], maxlen=1 + task.period_ns // self.step_ns)
        self._stand_up()

    def _index_model(self) -> None:
        model = self._model
        joints = [model.joint(name).id for name in JOINTS]
        of_joint = {int(model.actuator_trnid[a, 0]): a for a in range(model.nu)}
        self._q, self._v = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self._actuators = np.array([of_joint[joint] for joint in joints])
        self._base = model.body("base").id
        self._cube = int(model.joint("cube").qposadr[0])
        self._acceleration = int(model.sensor("acceleration").adr[0])

    def _stand_up(self) -> None:
        """Settle once on the spot and remember that stance for every reset."""
        data = self._data
        data.qpos[:3] = 0.0, 0.0, 0.32
        data.qpos[self._q] = STANCE
        data.qpos[self._cube : self._cube + 2] = -1.5, -1.5
        mujoco.mj_forward(self._model, data)
        for _ in range(75):
            self._advance(np.zeros(3))
        self._standing = data.qpos.copy()
        self._standing_gait = self._gait.last_action.copy(), self._trim.copy()

    def reset(self, seed: int) -> None:
        """Stand at a random place and look in a random direction; the cube lies somewhere else."""
        base, cube = self._draw_start(np.random.default_rng(seed))
        if self._variation is not None:
            self.conditions = draw_conditions(self._vary, seed)
            self._variation.apply(self.conditions)
        data = self._data
        mujoco.mj_resetData(self._model, data)
        data.qpos[:] = self._standing
        data.qpos[:2] = base[:2]
        turn = np.array([math.cos(base[2] / 2), 0.0, 0.0, math.sin(base[2] / 2)])
        heading = _yaw(self._standing[3:7])
        back = np.array([math.cos(heading / 2), 0.0, 0.0, -math.sin(heading / 2)])
        upright = np.empty(4)
        mujoco.mju_mulQuat(upright, back, self._standing[3:7])
        mujoco.mju_mulQuat(data.qpos[3:7], turn, upright)
        c = self._cube
        data.qpos[c : c + 7] = (
            *(cube[0], cube[1], self._scene.cube_size_m / 2),
            *(math.cos(cube[2] / 2), 0.0, 0.0, math.sin(cube[2] / 2)),
        )
        mujoco.mj_forward(self._model, data)
        self._gait.last_action = self._standing_gait[0].copy()
        self._trim = self._standing_gait[1].copy()
        # The clock goes on; the first observation lies on the control grid again.
        for _ in range(_SETTLE_NS // self.step_ns):
            self._advance(np.zeros(3))
        self._stamp_ns = -(-(self._stamp_ns + _PAUSE_NS) // self._grid_ns) * self._grid_ns
        self._episode += 1
        self._ended = self._done = False
        self._potentials.clear()
        self._judge()

    def _draw_start(self, random: np.random.Generator) -> tuple[rewards.Pose, rewards.Pose]:
        scene, options = self._scene, self._task.options
        goal = scene.goal_x_m, scene.goal_y_m
        base_range = scene.arena_m / 2 - options.get("start_margin_m", 0.8)
        cube_range = scene.arena_m / 2 - options.get("cube_margin_m", 0.7)
        farthest = options.get("cube_distance_m", 2.5)
        while True:
            bx, by = random.uniform(-base_range, base_range, 2)
            cx, cy = random.uniform(-cube_range, cube_range, 2)
            apart = 0.8 < math.dist((bx, by), (cx, cy)) < farthest
            if apart and math.dist((bx, by), goal) > 0.6 and math.dist((cx, cy), goal) > 0.8:
                break
        # Where the cube lies as the robot sees it at the start, 0 is straight ahead.
        widest = math.radians(options.get("start_bearing_deg", 180.0))
        yaw = math.atan2(cy - by, cx - bx) - random.uniform(-widest, widest)
        cube_yaw = random.uniform(-math.pi, math.pi)
        return (bx, by, yaw), (cx, cy, cube_yaw)

    def step(self, command: npt.ArrayLike) -> None:
        """Walk for 20 ms.

        Args:
            command: ``[vx, vy, wz]``, m/s and rad/s, base frame; clipped to what the walking
                policy can do.
        """
        self._advance(np.clip(np.asarray(command, np.float64), -COMMAND_LIMIT, COMMAND_LIMIT))
        self._stamp_ns += self.step_ns
        self._judge()

    def _advance(self, command: npt.NDArray[np.float64]) -> None:
        data = self._data
        w, x, y, z = data.qpos[3:7].tolist()
        vx, vy, _, wx, wy, wz = data.qvel[:6].tolist()
        up = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
        c, s = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z)
        c, s = c / math.hypot(c, s), s / math.hypot(c, s)  # of the heading
        turning = up[0] * wx + up[1] * wy + up[2] * wz
        trimmed = self._trim.apply(command, (c * vx + s * vy, c * vy - s * vx, turning))
        data.ctrl[self._actuators] = self._gait.targets(
            data.qvel[3:6],
            (-up[0], -up[1], -up[2]),
            trimmed,
            data.qpos[self._q],
            data.qvel[self._v],
        )
        mujoco.mj_step(self._model, data, self._substeps)
        if any(data.warning[kind].number for kind in _UNSTABLE):
            # MuJoCo has put everything back to the model's start pose; the episode is over.
            self._ended = True

    def _judge(self) -> None:
        """Keep what rewards need from earlier steps, and whether the episode is over."""
        data, goal = self._data, (self._scene.goal_x_m, self._scene.goal_y_m)
        height, _, x, y, _ = data.qpos[2:7].tolist()
        cosine = 1 - 2 * (x * x + y * y)  # of the angle between the body's up and the world's
        fallen = height < _FALLEN_HEIGHT_M or cosine < math.cos(_FALLEN_TILT_RAD)
        cube = float(data.qpos[self._cube]), float(data.qpos[self._cube + 1])
        if self._task.name != "reach_cube":
            limit = self._task.options.get("done_distance_m", _DONE_DISTANCE_M)
            # Between two control steps the cube may come near and leave again: it was there.
            self._done = self._done or math.dist(cube, goal) < limit
            self._potentials.append(
                rewards.push_cube_potential((data.qpos[0], data.qpos[1]), cube, goal)
            )
        self._ended = self._ended or fallen or self._done

    def _reward(self, base: rewards.Pose, cube: tuple[float, float]) -> float:
        if self._task.name == "reach_cube":
            return rewards.reach_cube(base, cube)
        return rewards.push_cube(self._potentials[0], self._potentials[-1], self._done)

    def observe(self, *, image: bool = True) -> Observation:
        """Read the sensors; the picture is drawn only when asked for (0.5 ms)."""
        data = self._data
        w, x, y, z = data.qpos[3:7]
        rotation = _rotation(data.qpos[3:7])
        base = float(data.qpos[0]), float(data.qpos[1]), _yaw(data.qpos[3:7])
        c = self._cube
        cube = float(data.qpos[c]), float(data.qpos[c + 1]), _yaw(data.qpos[c + 3 : c + 7])
        a = self._acceleration
        return Observation(
            stamp_ns=self._stamp_ns,
            image=self._draw() if image else None,
            position=data.qpos[:3].copy(),
            orientation=np.array([x, y, z, w]),
            linear_velocity=rotation.T @ data.qvel[:3],
            angular_velocity=data.qvel[3:6].copy(),
            linear_acceleration=data.sensordata[a : a + 3].copy(),
            reward=self._reward(base, cube[:2]),
            end=self._ended,
            episode=max(self._episode, 0),
            joint_names=JOINTS,
            joint_position=data.qpos[self._q].copy(),
            joint_velocity=data.qvel[self._v].copy(),
            joint_effort=data.actuator_force[self._actuators].copy(),
            objects={"cube": cube, "goal": (self._scene.goal_x_m, self._scene.goal_y_m, 0.0)},
        )

    def _draw(self) -> npt.NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = open_renderer(self._model, self.image_height, self.image_width)
        self._renderer.update_scene(self._data, "ego")
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Release the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _rotation(quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation matrix ``[3, 3]``, base to world, of a quaternion w, x, y, z."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _yaw(quaternion: npt.NDArray[np.float64]) -> float:
    w, x, y, z = quaternion
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
