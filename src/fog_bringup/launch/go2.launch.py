"""The real Go2 through Unitree's own ROS 2 interface, as the topics that tasks name.

    ros2 launch fog_bringup go2.launch.py

Needs the packages unitree_go and unitree_api; docs/go2.md says how to build them, how to wire the
robot, and what to check before it walks.
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
                "namespace", default_value="", description="namespace of the nodes and their topics"
            ),
            DeclareLaunchArgument(
                "remappings",
                default_value="",
                description="YAML file with lines TOPIC: OTHER_TOPIC; empty: the task's topics",
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
    names = ("task", "namespace", "remappings", "parameters")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    return [
        Node(
            package="fog_bringup",
            executable="go2_bridge_node",
            name="go2_bridge_node",
            namespace=given["namespace"],
            output="screen",
            remappings=launch_arguments.remappings(
                given["remappings"], find_task(given["task"]), given["namespace"]
            ),
            parameters=[launch_arguments.node_parameters(given["parameters"], "go2_bridge_node")],
            on_exit=_end_with("go2_bridge_node"),
        )
    ]


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit
