"""The quadruped, simulated or real: record it, let a policy drive it, or replay a recording.

    ros2 launch fog_bringup quadruped.launch.py mode:=record bag:=bags
    ros2 launch fog_bringup quadruped.launch.py mode:=deploy bundle:=runs/demo/bundle
    ros2 launch fog_bringup quadruped.launch.py mode:=replay bundle:=... bag:=bags/reach_cube_000
    ros2 launch fog_bringup quadruped.launch.py mode:=sim

``robot:=go2_sim`` starts the simulated robot, and every node follows its /clock. With
``robot:=go2`` the robot's own driver has to run already and offer the task's topics.

A replay moves nothing: the recorded commands go to /recorded/cmd_vel and the policy's to
/policy/cmd_vel, side by side for a plot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
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

from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError
from fog_world_model.ros_environment import prepare
from fog_world_model.task import TaskConfig, task_from_dict

MODES = ("sim", "record", "deploy", "replay")
ROBOTS = ("go2_sim", "go2")

# Ctrl-C, then SIGTERM after one second, then SIGKILL: everything has ended within two.
SIGTERM_AFTER_S = "1.0"
SIGKILL_AFTER_S = "0.8"


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes depend on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "mode",
                default_value="sim",
                choices=MODES,
                description="sim: the robot alone; record: drive and record it; deploy: a policy "
                "drives it; replay: a policy watches a bag",
            ),
            DeclareLaunchArgument(
                "robot",
                default_value="go2_sim",
                choices=ROBOTS,
                description="go2_sim: simulated; go2: a real one, whose driver runs already",
            ),
            DeclareLaunchArgument(
                "task", default_value="reach_cube", description="name of a task, or its file"
            ),
            DeclareLaunchArgument(
                "bundle", default_value="", description="deploy, replay: folder of the policy"
            ),
            DeclareLaunchArgument(
                "bag",
                default_value="",
                description="replay: the bag to play; record: folder for the bags (default: bags)",
            ),
            DeclareLaunchArgument(
                "speed",
                default_value="1.0",
                description="go2_sim, replay: robot seconds per second of wall time",
            ),
            DeclareLaunchArgument(
                "driver",
                default_value="",
                choices=("", "explore", "joy"),
                description="record: who drives (default: explore go2_sim by itself, go2 by /joy)",
            ),
            DeclareLaunchArgument(
                "report",
                default_value="",
                description="deploy, replay: JSON file for rates, latencies and stops",
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
            *_environment(),
            OpaqueFunction(function=_start),
        ]
    )


def _environment() -> list[Action]:
    """What our nodes would set for themselves, for `ros2 bag play` and this process as well."""
    prepared = dict(os.environ)
    prepare(prepared)
    return [
        SetEnvironmentVariable(name, value)
        for name, value in prepared.items()
        if os.environ.get(name) != value
    ]


def _start(context: LaunchContext) -> list[Action]:
    """Check the arguments against each other, and choose the nodes."""
    names = ("mode", "robot", "task", "bundle", "bag", "speed", "driver", "report", "parameters")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    mode, simulated = given["mode"], given["robot"] == "go2_sim"
    task = find_task(given["task"])
    speed = _speed(given["speed"])
    if not simulated and mode == "sim":
        raise FogError("mode:=sim starts the simulated robot; it needs robot:=go2_sim")
    if not simulated and mode != "replay" and speed != 1.0:
        raise FogError(f"speed:={given['speed']}: a real robot has speed:=1.0")
    if mode in ("deploy", "replay"):
        _check_bundle(given["bundle"], task, mode)
    if mode == "replay" and not Path(given["bag"], "metadata.yaml").is_file():
        raise FogError(
            f"mode:=replay needs bag:=FOLDER of a rosbag2 bag; {given['bag'] or 'an empty path'} "
            "has no metadata.yaml"
        )
    given["sim_time"] = simulated or mode == "replay"

    actions: list[Action] = []
    if simulated and mode != "replay":
        actions.append(
            _node(
                given,
                "fog_bringup",
                "robot_node",
                {"task": given["task"], "speed": speed, "auto_reset": mode != "sim"},
            )
        )
    if mode == "record":
        driver = given["driver"] or ("explore" if simulated else "joy")
        recorder = {"task": given["task"], "output": given["bag"] or "bags"}
        actions += [
            _node(given, "fog_bringup", "driver_node", {"task": given["task"], "mode": driver}),
            _node(given, "fog_bringup", "recorder_node", recorder),
        ]
    if mode == "deploy":
        actions += _policy(given, when_active=[], remappings=[])
    if mode == "replay":
        player = _player(given["bag"], speed, task)
        topic = task.action.topic
        actions += _policy(given, when_active=[player], remappings=[(topic, f"/policy{topic}")])
    return actions


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not speed > 0:
        raise FogError(f"speed:={text}: expected a positive number")
    return speed


def _check_bundle(bundle: str, task: TaskConfig, mode: str) -> None:
    """Refuse a policy of another task here: the node itself knows only the bundle's."""
    if not bundle:
        raise FogError(f"mode:={mode} needs bundle:=FOLDER; 'fog train policy' writes one")
    manifest = Path(bundle) / "manifest.json"
    try:
        content = json.loads(manifest.read_text())["task"]
    except (OSError, ValueError, KeyError) as error:
        raise FogError(f"bundle {bundle}: {manifest} cannot be read ({error})") from error
    task.require_same(task_from_dict(content, source=f"bundle {bundle}"), f"bundle {bundle}")


def _common(given: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Arguments that all our nodes share."""
    return {
        "namespace": "",
        "output": "screen",
        "parameters": [given["parameters"], {"use_sim_time": given["sim_time"], **values}],
    }


def _node(given: dict[str, Any], package: str, name: str, values: dict[str, Any]) -> Node:
    return Node(
        package=package,
        executable=name,
        name=name,
        on_exit=_end_with(name),
        **_common(given, values),
    )


def _end_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Action]]:
    """Without one of its processes a launch does not do what was asked for: end the others."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        # Shutting down twice is an error of launch_ros.
        return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    return on_exit


def _policy(
    given: dict[str, Any], *, when_active: list[Action], remappings: list[tuple[str, str]]
) -> list[Action]:
    """The lifecycle node, configured at its start and activated when it is configured."""
    # Absolute: the node need not have this process's working directory.
    report = str(Path(given["report"]).resolve()) if given["report"] else ""
    values = {"bundle": str(Path(given["bundle"]).resolve()), "report_path": report}
    policy = LifecycleNode(
        package="fog_policy",
        executable="policy_node",
        name="policy_node",
        remappings=remappings,
        on_exit=_end_with("policy_node"),
        **_common(given, values),
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(policy), transition_id=transition
            )
        )

    return [
        RegisterEventHandler(
            OnProcessStart(target_action=policy, on_start=[change(Transition.TRANSITION_CONFIGURE)])
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=policy,
                start_state="configuring",
                goal_state="inactive",
                entities=[change(Transition.TRANSITION_ACTIVATE)],
                # Who deactivates the policy later, or configures it again, wants it to stay so.
                handle_once=True,
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
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=policy,
                start_state="activating",
                goal_state="active",
                entities=when_active,
                handle_once=True,
            )
        ),
        policy,
    ]


def _player(bag: str, speed: float, task: TaskConfig) -> ExecuteProcess:
    """Plays a bag with its own clock; its commands do not reach a robot."""
    remap = f"{task.action.topic}:=/recorded{task.action.topic}"
    play = ["ros2", "bag", "play", bag, "--disable-keyboard-controls"]
    return ExecuteProcess(
        cmd=[*play, "--clock", "100", "--rate", str(speed), "--remap", remap],
        output="screen",
        on_exit=_end_with("the bag's player"),
    )
