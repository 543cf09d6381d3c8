"""The simulated Go2: does it move as told, repeat itself, and see what is there?"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from fog_bringup.robots import Observation, make_robot
from fog_bringup.robots.ego_camera import CAMERA_POSITION
from fog_bringup.robots.go2 import Go2Robot
from fog_bringup.robots.go2_scene import JOINTS
from fog_bringup.robots.rewards import distance_and_bearing, push_cube_potential
from fog_bringup.seek_drivers import base_pose
from fog_bringup.tasks import find_task
from fog_world_model.task import TaskConfig


@pytest.fixture(scope="module")
def reach_cube() -> TaskConfig:
    """The demo's task, with starts that look anywhere: the tests need a cube behind too."""
    task = find_task("reach_cube")
    return dataclasses.replace(task, options={**task.options, "start_bearing_deg": 180.0})


@pytest.fixture(scope="module")
def go2(reach_cube: TaskConfig) -> Iterator[Go2Robot]:
    robot = make_robot(reach_cube)
    assert isinstance(robot, Go2Robot)
    yield robot
    robot.close()


def find_start(robot: Go2Robot, low: float, high: float) -> Observation:
    """Reset to the first start whose cube lies at a bearing with an absolute value in a range."""
    for seed in range(100):
        robot.reset(seed)
        observation = robot.observe(image=False)
        base = base_pose(observation)
        _, bearing = distance_and_bearing(base, observation.objects["cube"][:2])
        # two metres free ahead
        x, y = base[0] + 2.4 * math.cos(base[2]), base[1] + 2.4 * math.sin(base[2])
        if low <= abs(bearing) <= high and max(abs(x), abs(y)) < 2.7:
            return robot.observe()
    raise AssertionError("no such start in 100 seeds")


def drive(robot: Go2Robot, command: tuple[float, ...], seconds: float) -> tuple[float, ...]:
    """Way forward and to the left in the frame of the start, m, and the angle turned, rad."""
    start = base_pose(robot.observe(image=False))
    turned, before = 0.0, start[2]
    for _ in range(round(seconds * 1e9 / robot.step_ns)):
        robot.step(command)
        yaw = base_pose(robot.observe(image=False))[2]
        turned += math.remainder(yaw - before, 2 * math.pi)
        before = yaw
    end = base_pose(robot.observe(image=False))
    dx, dy = end[0] - start[0], end[1] - start[1]
    c, s = math.cos(start[2]), math.sin(start[2])
    return c * dx + s * dy, c * dy - s * dx, turned


def red(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    r, g, b = (image[..., i].astype(int) for i in range(3))
    return (r > 100) & (r > 3 * g) & (r > 3 * b)


def test_walks_forward(go2: Go2Robot) -> None:
    find_start(go2, 2.0, math.pi)
    ahead, left, turned = drive(go2, (0.5, 0.0, 0.0), 4.0)
    assert ahead == pytest.approx(2.0, abs=0.3)
    assert abs(left) < 0.4
    assert abs(turned) < 0.3
    assert not go2.observe(image=False).end


def test_turns_to_the_left(go2: Go2Robot) -> None:
    find_start(go2, 2.0, math.pi)
    ahead, left, turned = drive(go2, (0.0, 0.0, 1.0), 3.0)
    assert turned == pytest.approx(3.0, abs=0.4)
    assert math.hypot(ahead, left) < 0.3


def test_steps_to_the_left(go2: Go2Robot) -> None:
    find_start(go2, 2.5, math.pi)
    ahead, left, _ = drive(go2, (0.0, 0.3, 0.0), 2.0)
    assert left == pytest.approx(0.6, abs=0.2)
    assert abs(ahead) < 0.25


def test_stands_still_from_the_first_observation(go2: Go2Robot) -> None:
    go2.reset(5)
    observation = go2.observe(image=False)
    assert 0.25 < observation.position[2] < 0.35
    assert np.abs(observation.linear_velocity).max() < 0.05
    # An accelerometer at rest feels the ground's push, upwards.
    np.testing.assert_allclose(observation.linear_acceleration, [0, 0, 9.81], atol=0.7)
    ahead, left, turned = drive(go2, (0.0, 0.0, 0.0), 3.0)
    assert max(abs(ahead), abs(left), abs(turned)) < 0.1


def test_body_velocity_is_what_the_position_shows(go2: Go2Robot) -> None:
    find_start(go2, 2.0, math.pi)
    drive(go2, (0.6, 0.0, 0.5), 1.0)
    before = go2.observe(image=False)
    mean = np.zeros(2)
    for _ in range(25):
        go2.step((0.6, 0.0, 0.5))
        now = go2.observe(image=False)
        yaw = base_pose(now)[2]
        c, s = math.cos(yaw), math.sin(yaw)
        vx, vy = now.linear_velocity[:2]
        mean += np.array([c * vx - s * vy, s * vx + c * vy]) / 25
    moved = (now.position - before.position)[:2] / 0.5
    np.testing.assert_allclose(mean, moved, atol=0.06)


def test_same_seed_same_start_whatever_came_before(go2: Go2Robot, reach_cube: TaskConfig) -> None:
    go2.reset(11)
    drive(go2, (0.8, 0.2, -1.0), 1.0)
    go2.reset(7)
    other = make_robot(reach_cube)
    other.reset(7)
    for _ in range(10):
        go2.step((0.5, 0.0, 0.3))
        other.step((0.5, 0.0, 0.3))
    a, b = go2.observe(), other.observe()
    other.close()
    assert a.image is not None
    assert b.image is not None
    np.testing.assert_array_equal(a.image, b.image)
    for name in ("position", "orientation", "joint_position", "joint_velocity", "joint_effort"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.objects, a.reward, a.end) == (b.objects, b.reward, b.end)
    other_start = dataclasses.replace(a)
    go2.reset(8)
    assert not np.array_equal(go2.observe(image=False).position, other_start.position)


def test_clock_and_episode_run_on_over_resets(go2: Go2Robot, reach_cube: TaskConfig) -> None:
    go2.reset(1)
    first = go2.observe(image=False)
    for _ in range(7):
        go2.step((0.0, 0.0, 0.0))
    before = go2.observe(image=False).stamp_ns
    assert before == first.stamp_ns + 7 * go2.step_ns
    go2.reset(1)
    second = go2.observe(image=False)
    assert second.stamp_ns > before
    assert second.stamp_ns % reach_cube.period_ns == 0
    assert second.episode == first.episode + 1


def test_cube_is_seen_where_it_is(go2: Go2Robot) -> None:
    observation = find_start(go2, 0.0, 0.4)
    assert observation.image is not None
    rows, columns = np.nonzero(red(observation.image))
    assert len(rows) > 10
    # Project the cube's centre by hand: world -> base -> camera -> pixel.
    x, y, z, w = observation.orientation
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    cube = np.array([*observation.objects["cube"][:2], 0.15])
    in_base = rotation.T @ (cube - observation.position) - np.array(CAMERA_POSITION)
    pitch = math.radians(18.0)
    depth = math.cos(pitch) * in_base[0] - math.sin(pitch) * in_base[2]
    right, down = -in_base[1], -math.sin(pitch) * in_base[0] - math.cos(pitch) * in_base[2]
    focal = 48.0 / math.tan(math.radians(95.0) / 2)
    assert columns.mean() == pytest.approx(47.5 + focal * right / depth, abs=2.5)
    assert rows.mean() == pytest.approx(47.5 + focal * down / depth, abs=2.5)


def test_cube_behind_is_not_seen(go2: Go2Robot) -> None:
    observation = find_start(go2, 2.0, math.pi)
    assert observation.image is not None
    assert observation.image.shape == (96, 96, 3)
    assert not red(observation.image).any()


def test_starts_are_clear_of_walls_and_of_each_other(go2: Go2Robot) -> None:
    bases, cubes = [], []
    for seed in range(25):
        go2.reset(seed)
        objects = go2.observe(image=False).objects
        bases.append(base_pose(go2.observe(image=False)))
        cubes.append(objects["cube"])
        assert 0.7 < math.dist(bases[-1][:2], cubes[-1][:2]) < 2.6
        assert math.dist(cubes[-1][:2], objects["goal"][:2]) > 0.7
    assert np.abs(np.array(bases)[:, :2]).max() < 2.3
    assert np.abs(np.array(cubes)[:, :2]).max() < 2.4
    assert np.array(bases)[:, :2].std() > 0.8  # all over the floor, not around one spot


def test_a_fall_ends_the_episode_for_good(go2: Go2Robot) -> None:
    go2.reset(0)
    assert not go2.observe(image=False).end
    go2._data.qpos[3:7] = 0.0, 1.0, 0.0, 0.0  # on its back
    go2.step((0.0, 0.0, 0.0))
    assert go2.observe(image=False).end
    go2._data.qpos[:7] = go2._standing[:7]
    go2.step((0.0, 0.0, 0.0))
    assert go2.observe(image=False).end
    go2.reset(0)
    assert not go2.observe(image=False).end


def test_an_unstable_simulation_ends_the_episode(go2: Go2Robot) -> None:
    go2.reset(0)
    go2._data.qvel[0] = 1e30
    go2.step((0.0, 0.0, 0.0))
    assert go2.observe(image=False).end


def test_push_cube_rewards_progress_and_ends_at_the_post() -> None:
    robot = make_robot(find_task("push_cube"))
    assert isinstance(robot, Go2Robot)
    robot.reset(3)
    start = robot.observe(image=False)
    assert start.reward == 0.0
    total, n = 0.0, find_task("push_cube").period_ns // robot.step_ns
    for _ in range(4):
        for _ in range(n):
            robot.step((0.6, 0.0, 0.0))
        total += robot.observe(image=False).reward
    end = robot.observe(image=False)

    def potential(o: Observation) -> float:
        return push_cube_potential(
            (o.position[0], o.position[1]), o.objects["cube"][:2], o.objects["goal"][:2]
        )

    assert total == pytest.approx(5.0 * (potential(end) - potential(start)), abs=1e-9)
    robot._data.qpos[robot._cube : robot._cube + 2] = 1.7, 0.0  # 0.3 m from the post
    robot.step((0.0, 0.0, 0.0))
    assert robot.observe(image=False).end
    assert robot.observe(image=False).reward > 4.0
    # Having left again before anybody looked does not take back that it was there.
    robot._data.qpos[robot._cube : robot._cube + 2] = 1.4, 0.0
    robot.step((0.0, 0.0, 0.0))
    assert robot.observe(image=False).end
    assert robot.observe(image=False).reward == pytest.approx(
        5.0 + 5.0 * (robot._potentials[-1] - robot._potentials[0])
    )
    robot.reset(3)
    assert not robot.observe(image=False).end
    assert robot.observe(image=False).reward == 0.0
    robot.close()


def test_joints_are_named_in_the_order_of_the_policy(go2: Go2Robot) -> None:
    go2.reset(0)
    observation = go2.observe(image=False)
    assert observation.joint_names == JOINTS
    legs = observation.joint_position.reshape(4, 3)
    # hips near 0, thighs near 0.8, calves near -1.5 rad: a wrong map would mix them up
    np.testing.assert_allclose(legs, np.tile([0.0, 0.8, -1.5], (4, 1)), atol=0.35)


def test_no_gl_library_says_what_to_install() -> None:
    code = (
        "from fog_world_model.errors import FogError\n"
        "try:\n"
        "    from fog_bringup.robots.mujoco_gl import mujoco, open_renderer\n"
        "    open_renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 16, 16)\n"
        "except FogError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "nonsense", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "apt install libegl1 libgl1-mesa-dri" in result.stdout


def test_start_bearing_is_within_the_tasks_bound_and_uses_it() -> None:
    task = find_task("reach_cube")
    widest = math.radians(task.options["start_bearing_deg"])
    robot = make_robot(task)
    bearings = []
    for seed in range(24):
        robot.reset(seed)
        seen = robot.observe(image=False)
        x, y, z, w = seen.orientation
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        cube = seen.objects["cube"]
        bearing = math.atan2(cube[1] - seen.position[1], cube[0] - seen.position[0]) - yaw
        bearings.append(math.atan2(math.sin(bearing), math.cos(bearing)))
    robot.close()
    # The robot settles for a moment, so a little more than drawn is possible.
    assert max(map(abs, bearings)) < widest + 0.1
    assert max(bearings) > 0.5 * widest
    assert min(bearings) < -0.5 * widest
