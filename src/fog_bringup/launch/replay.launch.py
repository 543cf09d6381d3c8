"""A policy watches a bag, and its commands are compared with the recorded ones. Nothing moves.

    ros2 launch fog_bringup replay.launch.py bundle:=models/policy.bundle bag:=bags/push_cube_000

The recorded commands go to /recorded/cmd_vel and the policy's to /policy/cmd_vel, side by side for
a plot; at the bag's end a table compares them, and comparison:=FILE has the same as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare

from fog_bringup import launch_arguments
from fog_world_model.errors import FogError


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes depend on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bundle",
                default_value="",
                description="folder of the policy, or the name of one that ships",
            ),
            DeclareLaunchArgument("bag", default_value="", description="folder of the bag to play"),
            DeclareLaunchArgument(
                "task",
                default_value="",
                description="name of a task, or its file, that the bundle has to be of; empty: any",
            ),
            DeclareLaunchArgument(
                "speed",
                default_value="1.0",
                description="recorded seconds per second of wall time",
            ),
            DeclareLaunchArgument(
                "comparison",
                default_value="",
                description="JSON file for the comparison; empty: only the log",
            ),
            DeclareLaunchArgument(
                "report",
                default_value="",
                description="JSON file for rates, latencies and stops; empty: only the log",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of the nodes and their topics"
            ),
            DeclareLaunchArgument(
                "parameters",
                default_value=PathJoinSubstitution(
                    [FindPackageShare("fog_bringup"), "config", "quadruped.yaml"]
                ),
                description="YAML file with the nodes' parameters",
            ),
            OpaqueFunction(function=_start),
        ]
    )


def _start(context: LaunchContext) -> list[Action]:
    names = ("bundle", "bag", "task", "speed", "comparison", "namespace", "parameters")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    bundle = launch_arguments.check_bundle(given["bundle"], given["task"])
    task = launch_arguments.bundle_task(given["bundle"])
    if not given["bag"] or not Path(given["bag"]).exists():
        raise FogError(
            f"a replay needs bag:=FOLDER of a rosbag2 bag; {given['bag'] or 'an empty path'} is "
            "not there"
        )
    prefix = "/".join(["", *filter(None, [given["namespace"].strip("/"), "policy"])])
    player = Node(
        package="fog_bringup",
        executable="replay_node",
        name="replay_node",
        namespace=given["namespace"],
        output="screen",
        remappings=[
            # The recording's own commands must not reach a robot that listens by chance.
            (f"/policy{task.action.topic}", f"{prefix}{task.action.topic}"),
            *launch_arguments.topic_remappings(task, given["namespace"]),
        ],
        parameters=[
            {
                **launch_arguments.node_parameters(given["parameters"], "replay_node"),
                "bag": str(Path(given["bag"]).resolve()),
                "bundle": str(bundle),
                "speed": launch_arguments.positive("speed", given["speed"]),
                "output": str(Path(given["comparison"]).resolve()) if given["comparison"] else "",
            }
        ],
        on_exit=_end_with("the bag's replay"),
    )
    deploy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/deploy.launch.py"]),
        launch_arguments={
            "command_topic": f"{prefix}{task.action.topic}",
            "use_sim_time": "true",
            "activate": "true",
            "respawn": "false",
            # The bag has the task's topics, whatever the robot's driver calls them.
            "remappings": "",
        }.items(),
    )
    return [
        # What is played before the policy is active would be lost to it.
        RegisterEventHandler(
            OnStateTransition(
                start_state="activating",
                goal_state="active",
                entities=[player],
                handle_once=True,
            )
        ),
        deploy,
    ]


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit
