"""Frames and shape of a robot that runs already, for RViz and Foxglove.

    ros2 launch fog_bringup view.launch.py rviz:=true use_sim_time:=true

Needs robot_state_publisher and, for rviz:=true, rviz2.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from fog_bringup import launch_arguments
from fog_bringup.robot_description import robot_description
from fog_bringup.tasks import find_task


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes depend on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "task",
                default_value="push_cube",
                description="name of a task, or its file; its options.camera_pitch_deg tilts the "
                "camera",
            ),
            DeclareLaunchArgument(
                "camera_pitch_deg",
                default_value="",
                description="how far the camera looks down, degrees; empty: what the task says",
            ),
            DeclareLaunchArgument(
                "odometry_frame",
                default_value="true",
                choices=("true", "false"),
                description="publish /odom on /tf; false: the robot's driver does so itself",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=("true", "false"),
                description="open RViz with the configuration of this package",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                choices=("true", "false"),
                description="whether the robot is simulated and publishes /clock",
            ),
            *(SetEnvironmentVariable(*v) for v in launch_arguments.process_environment().items()),
            OpaqueFunction(function=_start),
        ]
    )


def _start(context: LaunchContext) -> list[Action]:
    names = ("task", "camera_pitch_deg", "odometry_frame", "rviz", "use_sim_time")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    pitch = given["camera_pitch_deg"] or find_task(given["task"]).options.get(
        "camera_pitch_deg", 0.0
    )
    time = {"use_sim_time": launch_arguments.yes("use_sim_time", given["use_sim_time"])}
    description = robot_description(launch_arguments.number("camera_pitch_deg", str(pitch)))
    actions: list[Action] = [
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            name="robot_state_publisher",
            output="screen",
            parameters=[{"robot_description": description, **time}],
        )
    ]
    if launch_arguments.yes("odometry_frame", given["odometry_frame"]):
        actions.append(
            Node(
                package="fog_bringup",
                executable="odometry_frame_node",
                name="odometry_frame_node",
                output="screen",
                parameters=[time],
            )
        )
    if launch_arguments.yes("rviz", given["rviz"]):
        config = PathJoinSubstitution([FindPackageShare("fog_bringup"), "config", "quadruped.rviz"])
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz2",
                arguments=["-d", config],
                parameters=[time],
            )
        )
    return actions
