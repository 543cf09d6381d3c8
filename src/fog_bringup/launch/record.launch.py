"""Drive a robot that runs already and record what its task names.

ros2 launch fog_bringup record.launch.py task:=push_cube bag:=bags driver:=joy
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from fog_bringup import launch_arguments
from fog_bringup.tasks import find_task

# Ctrl-C, then SIGTERM after one second, then SIGKILL: everything has ended within two.
SIGTERM_AFTER_S = "1.0"
SIGKILL_AFTER_S = "0.8"


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes depend on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "task", default_value="reach_cube", description="name of a task, or its file"
            ),
            DeclareLaunchArgument(
                "bag", default_value="bags", description="folder that the bags are written into"
            ),
            DeclareLaunchArgument(
                "driver",
                default_value="joy",
                choices=("explore", "joy", "none"),
                description="who drives: by itself, a joystick on /joy, or somebody else",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=("true", "false"),
                description="whether the robot is simulated and publishes /clock",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of the nodes and their topics"
            ),
            DeclareLaunchArgument(
                "remappings",
                default_value="",
                description="YAML file with lines TOPIC: OTHER_TOPIC; empty: the task's topics",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                choices=("true", "false"),
                description="start a node that has ended again, instead of ending the launch",
            ),
            DeclareLaunchArgument(
                "parameters",
                default_value=PathJoinSubstitution(
                    [FindPackageShare("fog_bringup"), "config", "quadruped.yaml"]
                ),
                description="YAML file with the nodes' parameters",
            ),
            SetLaunchConfiguration("sigterm_timeout", SIGTERM_AFTER_S),
            SetLaunchConfiguration("sigkill_timeout", SIGKILL_AFTER_S),
            *(SetEnvironmentVariable(*v) for v in launch_arguments.process_environment().items()),
            OpaqueFunction(function=_start),
        ]
    )


def _start(context: LaunchContext) -> list[Action]:
    names = (
        *("task", "bag", "driver", "use_sim_time"),
        *("namespace", "remappings", "respawn", "parameters"),
    )
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    task = find_task(given["task"])
    respawn = launch_arguments.yes("respawn", given["respawn"])

    def node(name: str, values: dict[str, Any]) -> Node:
        return Node(
            package="fog_bringup",
            executable=name,
            name=name,
            namespace=given["namespace"],
            output="screen",
            remappings=launch_arguments.remappings(given["remappings"], task, given["namespace"]),
            parameters=[
                {
                    **launch_arguments.node_parameters(given["parameters"], name),
                    **values,
                    "task": given["task"],
                    "use_sim_time": launch_arguments.yes("use_sim_time", given["use_sim_time"]),
                }
            ],
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=None if respawn else _end_with(name),
        )

    recorder = node("recorder_node", {"output": given["bag"] or "bags"})
    if given["driver"] == "none":
        return [recorder]
    return [node("driver_node", {"mode": given["driver"]}), recorder]


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit
