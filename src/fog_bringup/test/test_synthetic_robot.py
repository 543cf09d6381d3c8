"""The robot without physics: where it is follows from what it was told, by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fog_bringup.robots import make_robot
from fog_bringup.robots.synthetic import SyntheticRobot
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@pytest.fixture
def task() -> TaskConfig:
    return dataclasses.replace(find_task("reach_cube"), robot="synthetic")


def test_goes_round_in_a_circle(task: TaskConfig) -> None:
    robot = make_robot(task)
    robot.reset(3)
    start = robot.observe(image=False)
    speed, turn = 0.4, 0.5
    steps = round(math.pi / turn / 0.02)  # half a circle of radius 0.8 m
    for _ in range(steps):
        robot.step([speed, 0.0, turn])
    end = robot.observe(image=False)
    assert end.stamp_ns - start.stamp_ns == steps * 20_000_000
    across = np.linalg.norm(end.position - start.position)
    assert across == pytest.approx(2 * speed / turn, rel=1e-3)
    assert end.linear_velocity.tolist() == [speed, 0.0, 0.0]
    assert end.angular_velocity.tolist() == [0.0, 0.0, turn]
    # Half a turn is the quaternion's negative scalar product: cos of half the angle is zero.
    assert abs(float(np.dot(end.orientation, start.orientation))) == pytest.approx(0.0, abs=0.01)


def test_goes_left_in_its_own_frame(task: TaskConfig) -> None:
    robot = make_robot(task)
    robot.reset(0)
    start = robot.observe(image=False)
    robot.step([0.0, 0.5, 0.0])
    x, y, z, w = start.orientation
    yaw = 2 * math.atan2(z, w)
    moved = (robot.observe(image=False).position - start.position)[:2]
    assert moved == pytest.approx([-0.01 * math.sin(yaw), 0.01 * math.cos(yaw)])
    assert (x, y) == (0.0, 0.0)


def test_has_the_joints_that_the_task_reads_and_stands_still_without_a_command(
    task: TaskConfig,
) -> None:
    robot = make_robot(task)
    robot.reset(0)
    fields = [f"position.{name}" for name in robot.observe(image=False).joint_names]
    assert fields == list(task.proprioception[0].fields)
    robot.step([0.0, 0.0, 0.0])
    assert not robot.observe(image=False).joint_position.any()
    robot.step([0.3, 0.0, 0.0])
    assert robot.observe(image=False).joint_position.any()


def test_its_picture_turns_with_it_and_no_two_are_the_same(task: TaskConfig) -> None:
    robot = make_robot(task, image_height=48, image_width=64)
    robot.reset(0)
    first, second = robot.observe().image, robot.observe().image
    assert first is not None and second is not None and first.shape == (48, 64, 3)
    assert not np.array_equal(first, second), "a camera has noise"
    noise = np.abs(first.astype(int) - second).mean()
    for _ in range(50):
        robot.step([0.0, 0.0, 1.0])
    turned = robot.observe().image
    assert turned is not None
    assert np.abs(first.astype(int) - turned).mean() > 2 * noise


def test_the_camera_s_rate_has_to_divide_the_robot_s(task: TaskConfig) -> None:
    assert SyntheticRobot(task, camera_hz=25.0).camera_ns == 40_000_000
    with pytest.raises(FogError, match="50 divided by a whole number"):
        SyntheticRobot(task, camera_hz=20.0)
