"""A policy drives a robot that runs already.

    ros2 launch fog_bringup deploy.launch.py bundle:=models/policy.bundle

The launch configures the policy's node when it starts and activates it once, when it has been
configured for the first time. Whoever deactivates it later means it: nothing here undoes that. A
node that has died and was respawned never drives off by itself: it configures itself, publishes
zero commands in the place of the one that died, says `restarted; activate to go on` on
/diagnostics, and waits for `ros2 lifecycle set /policy_node activate`. (The launch does not ask it
to be configured: for some seconds ROS takes the dead node for alive, and the request would go
there.) Who wants it to go on by itself gives it `restart: active` in the parameters' file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from fog_bringup import launch_arguments

# Ctrl-C, then SIGTERM after one second, then SIGKILL: everything has ended within two.
SIGTERM_AFTER_S = "1.0"
SIGKILL_AFTER_S = "0.8"


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the node depends on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bundle",
                default_value="",
                description="folder of the policy, or the name of one that ships",
            ),
            DeclareLaunchArgument(
                "task",
                default_value="",
                description="name of a task, or its file, that the bundle has to be of; empty: any",
            ),
            DeclareLaunchArgument(
                "activate",
                default_value="true",
                choices=("true", "false"),
                description="false: only configure; `ros2 lifecycle set /policy_node activate` "
                "starts the robot",
            ),
            DeclareLaunchArgument(
                "shadow",
                default_value="false",
                choices=("true", "false"),
                description="true: the policy computes and reports, and publishes no command",
            ),
            DeclareLaunchArgument(
                "speed_scale",
                default_value="",
                description="factor on the policy's commands, for a first run; empty: the node's",
            ),
            DeclareLaunchArgument(
                "command_topic",
                default_value="",
                description="where commands go; empty: to the task's action topic",
            ),
            DeclareLaunchArgument(
                "report",
                default_value="",
                description="JSON file for rates, latencies and stops; empty: only the log",
            ),
            DeclareLaunchArgument(
                "dashboard",
                default_value="false",
                choices=("true", "false"),
                description="true: the operator's page as well, on http://127.0.0.1:8720/; where "
                "it ends, the launch ends, and the robot stops",
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
                description="true: start the node again when it has ended; it waits, configured, "
                "to be activated",
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
        *("bundle", "task", "activate", "shadow", "speed_scale", "command_topic", "report"),
        *("dashboard", "use_sim_time", "namespace", "remappings", "respawn", "parameters"),
    )
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    bundle = launch_arguments.check_bundle(given["bundle"], given["task"])
    task = launch_arguments.bundle_task(given["bundle"])
    respawn = launch_arguments.yes("respawn", given["respawn"])
    values: dict[str, Any] = {
        **launch_arguments.node_parameters(given["parameters"], "policy_node"),
        "bundle": str(bundle),
        # Absolute: the node need not have this process's working directory.
        "report_path": str(Path(given["report"]).resolve()) if given["report"] else "",
        "use_sim_time": launch_arguments.yes("use_sim_time", given["use_sim_time"]),
    }
    # Given only where asked for: the node has its own defaults.
    if launch_arguments.yes("shadow", given["shadow"]):
        values["shadow"] = True
    if given["speed_scale"]:
        values["speed_scale"] = launch_arguments.positive("speed_scale", given["speed_scale"])
    # By this file, which lasts as long as this launch, a respawned node knows that it is one.
    runs = tempfile.TemporaryDirectory(prefix="fog_deploy_") if respawn else None
    if runs is not None:
        values["run_file"] = str(Path(runs.name) / "policy_node.json")
    ends = _Ends(runs)
    remappings = launch_arguments.remappings(given["remappings"], task, given["namespace"])
    if given["command_topic"]:
        # The first rule that matches holds.
        remappings.insert(0, (task.action.topic, given["command_topic"]))
    policy = LifecycleNode(
        package="fog_policy",
        executable="policy_node",
        name="policy_node",
        namespace=given["namespace"],
        output="screen",
        remappings=remappings,
        parameters=[values],
        respawn=respawn,
        respawn_delay=2.0,
        on_exit=ends.note if respawn else _end_with("policy_node"),
    )
    activate = launch_arguments.yes("activate", given["activate"])
    actions: list[Action] = [*_transitions(policy, ends, activate), policy]
    if launch_arguments.yes("dashboard", given["dashboard"]):
        actions.append(_dashboard({**given, "bundle": str(bundle)}, remappings, respawn))
    return actions


def _dashboard(given: dict[str, str], remappings: list[tuple[str, str]], respawn: bool) -> Node:
    """The operator's page, on the same topics as the policy."""
    return Node(
        package="fog_bringup",
        executable="dashboard_node",
        name="dashboard_node",
        namespace=given["namespace"],
        output="screen",
        remappings=remappings,
        parameters=[
            {
                **launch_arguments.node_parameters(given["parameters"], "dashboard_node"),
                "bundle": given["bundle"],
                "use_sim_time": launch_arguments.yes("use_sim_time", given["use_sim_time"]),
            }
        ],
        respawn=respawn,
        respawn_delay=2.0,
        on_exit=None if respawn else _end_with("dashboard_node"),
    )


class _Ends:
    """Remembers whether the node's first process has ended, and keeps the folder of its run.

    Args:
        runs: Removed when this process ends; None: there is none.
    """

    def __init__(self, runs: tempfile.TemporaryDirectory[str] | None) -> None:
        self._runs = runs
        self._ended = False

    def note(self, event: ProcessExited, context: LaunchContext) -> list[Action]:
        """It has ended."""
        self._ended = True
        return []

    def unless(self, action: Action) -> OpaqueFunction:
        """An action for the first process only."""
        return OpaqueFunction(function=lambda context: [] if self._ended else [action])


def _transitions(policy: LifecycleNode, ends: _Ends, activate: bool) -> list[Action]:
    """Configure the node when it starts, and activate it, both once."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(policy), transition_id=transition
            )
        )

    handlers: list[Action] = [
        RegisterEventHandler(
            OnProcessStart(
                target_action=policy,
                on_start=[change(Transition.TRANSITION_CONFIGURE)],
                handle_once=True,  # a respawned node configures itself
            )
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=policy,
                start_state="configuring",
                goal_state="unconfigured",
                entities=[Shutdown(reason="policy_node cannot be configured; its log says why")],
            )
        ),
    ]
    if activate:
        handlers.append(
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=policy,
                    start_state="configuring",
                    goal_state="inactive",
                    entities=[ends.unless(change(Transition.TRANSITION_ACTIVATE))],
                    # Who deactivates it later, or configures it again, wants it to stay so.
                    handle_once=True,
                )
            )
        )
    return handlers


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit
