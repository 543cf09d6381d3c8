"""What all simulated robots have in common."""

from __future__ import annotations

import dataclasses

import pytest

from fog_bringup.robots import make_robot
from fog_bringup.robots.robot import camera_period_ns
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig


@pytest.fixture
def reach_cube() -> TaskConfig:
    return find_task("reach_cube")


@pytest.mark.parametrize(
    ("name", "robot", "camera_hz", "of"),
    [
        ("reach_cube", "go2", 7.0, 50),
        ("reach_cube", "go2", 20.0, 50),
        ("reach_cube", "synthetic", 20.0, 50),
        ("pusht", "pusht", 7.0, 10),
        ("pusht", "pusht", 20.0, 10),
    ],
)
def test_camera_rate_must_divide_the_robot_rate(
    name: str, robot: str, camera_hz: float, of: int
) -> None:
    task = dataclasses.replace(find_task(name), robot=robot)
    message = f"camera_hz {camera_hz:g}: must be {of} divided by a whole number"
    with pytest.raises(FogError, match=message):
        make_robot(task, camera_hz=camera_hz)


def test_periods_of_the_camera() -> None:
    assert camera_period_ns(25.0, 20_000_000) == 40_000_000
    assert camera_period_ns(50.0, 20_000_000) == 20_000_000
    for wrong in (0.0, -5.0, float("nan"), float("inf"), 51.0, 1e12):
        with pytest.raises(FogError, match="must be 50 divided by a whole number"):
            camera_period_ns(wrong, 20_000_000)


def test_unknown_robot_and_unknown_reward(reach_cube: TaskConfig) -> None:
    with pytest.raises(FogError, match="no simulated robot 'spot'; known are go2, pusht"):
        make_robot(dataclasses.replace(reach_cube, robot="spot"))
    with pytest.raises(FogError, match="it knows reach_cube, push_cube"):
        make_robot(dataclasses.replace(reach_cube, name="dance"))
