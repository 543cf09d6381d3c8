"""The simulated robot alone, on the topics that the real one has.

    ros2 launch fog_bringup sim.launch.py task:=push_cube

Every node that lives in its time needs use_sim_time:=true.
"""

from __future__ import annotations

from collections.abc import Callable

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
    """Declare the arguments; the node depends on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "task", default_value="reach_cube", description="name of a task, or its file"
            ),
            DeclareLaunchArgument(
                "speed", default_value="1.0", description="robot seconds per second of wall time"
            ),
            DeclareLaunchArgument(
                "auto_reset",
                default_value="false",
                choices=("true", "false"),
                description="start the next episode after an end",
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
    names = ("task", "speed", "auto_reset", "namespace", "remappings", "respawn", "parameters")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    task = find_task(given["task"])
    respawn = launch_arguments.yes("respawn", given["respawn"])
    return [
        Node(
            package="fog_bringup",
            executable="robot_node",
            name="robot_node",
            namespace=given["namespace"],
            output="screen",
            remappings=launch_arguments.remappings(given["remappings"], task, given["namespace"]),
            parameters=[
                {
                    **launch_arguments.node_parameters(given["parameters"], "robot_node"),
                    "task": given["task"],
                    "speed": launch_arguments.positive("speed", given["speed"]),
                    "auto_reset": launch_arguments.yes("auto_reset", given["auto_reset"]),
                    "use_sim_time": True,
                }
            ],
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=None if respawn else _end_with("robot_node"),
        )
    ]


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit
