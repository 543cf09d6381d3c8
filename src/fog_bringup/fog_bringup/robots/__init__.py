"""Robots, simulated and real, behind one interface."""

from __future__ import annotations

from typing import Any

from fog_bringup.robots.robot import Observation, Robot
from fog_bringup.robots.variations import STREAM
from fog_world_model.errors import FogError
from fog_world_model.task import TaskConfig

__all__ = ["Observation", "Robot", "make_robot"]

ROBOTS = ("go2", "pusht", "synthetic")


def make_robot(task: TaskConfig, **overrides: Any) -> Robot:
    """Make the simulated robot that a task names.

    Args:
        task: ``robot`` and ``options`` say which one and in which scene.
        **overrides: Arguments of the robot's class (``camera_hz``, ``image_height``,
            ``image_width``; of the go2 also ``vary``).

    Raises:
        FogError: No such robot, or what it needs is not installed, or its scene cannot be varied.
    """
    if overrides.get("vary") and task.robot != "go2":
        raise FogError(
            f"task '{task.name}': the scene of the simulated {task.robot} cannot be varied "
            f"({', '.join(overrides['vary'])}); what can be is {', '.join(STREAM)}"
        )
    # Imported on demand: a machine with only one of the simulators can still run that one.
    if task.robot == "go2":
        from fog_bringup.robots.go2 import Go2Robot

        return Go2Robot(task, **overrides)
    if task.robot == "pusht":
        from fog_bringup.robots.pusht import PushTRobot

        return PushTRobot(task, **overrides)
    if task.robot == "synthetic":
        from fog_bringup.robots.synthetic import SyntheticRobot

        return SyntheticRobot(task, **overrides)
    raise FogError(
        f"task '{task.name}': no simulated robot '{task.robot}'; known are {', '.join(ROBOTS)}"
    )
