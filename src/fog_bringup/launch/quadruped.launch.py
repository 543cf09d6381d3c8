"""The quadruped's whole day, simulated or real: look, record, replay, let a policy drive.

    ros2 launch fog_bringup quadruped.launch.py mode:=sim
    ros2 launch fog_bringup quadruped.launch.py mode:=record bag:=bags
    ros2 launch fog_bringup quadruped.launch.py mode:=replay bundle:=... bag:=bags/reach_cube_000
    ros2 launch fog_bringup quadruped.launch.py mode:=deploy bundle:=runs/demo/bundle

``robot:=go2_sim`` starts the simulated robot, and every node follows its /clock. With
``robot:=go2`` the robot's own driver has to run already and offer the task's topics, unless
``bridge:=true`` starts the one for Unitree's own interface.

What is started is in sim.launch.py, go2.launch.py, record.launch.py, replay.launch.py and
deploy.launch.py, which also work alone.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.substitutions import FindPackageShare

from fog_bringup import launch_arguments
from fog_bringup.tasks import find_task
from fog_world_model.errors import FogError

MODES = ("sim", "record", "deploy", "replay")
ROBOTS = ("go2_sim", "go2")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what is included depends on their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "mode",
                default_value="sim",
                choices=MODES,
                description="sim: the robot alone; record: drive and record it; deploy: a policy "
                "drives it; replay: a policy watches a bag and is compared with it",
            ),
            DeclareLaunchArgument(
                "robot",
                default_value="go2_sim",
                choices=ROBOTS,
                description="go2_sim: simulated; go2: a real one",
            ),
            DeclareLaunchArgument(
                "bridge",
                default_value="false",
                choices=("true", "false"),
                description="go2: start the driver for Unitree's own interface; false: another "
                "driver runs already",
            ),
            DeclareLaunchArgument(
                "task", default_value="reach_cube", description="name of a task, or its file"
            ),
            DeclareLaunchArgument(
                "bundle",
                default_value="",
                description="deploy, replay: folder of the policy, or the name of one that ships",
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
                choices=("", "explore", "joy", "none"),
                description="record: who drives (default: explore go2_sim by itself, go2 by /joy)",
            ),
            DeclareLaunchArgument(
                "activate",
                default_value="true",
                choices=("true", "false"),
                description="deploy: false only configures the policy; `ros2 lifecycle set "
                "/policy_node activate` starts the robot",
            ),
            DeclareLaunchArgument(
                "shadow",
                default_value="false",
                choices=("true", "false"),
                description="deploy: true computes and reports, and publishes no command",
            ),
            DeclareLaunchArgument(
                "speed_scale",
                default_value="",
                description="deploy: factor on the policy's commands; empty: the node's",
            ),
            DeclareLaunchArgument(
                "dashboard",
                default_value="false",
                choices=("true", "false"),
                description="deploy: true starts the operator's page as well, on "
                "http://127.0.0.1:8720/",
            ),
            DeclareLaunchArgument(
                "report",
                default_value="",
                description="deploy, replay: JSON file for rates, latencies and stops",
            ),
            DeclareLaunchArgument(
                "comparison",
                default_value="",
                description="replay: JSON file that compares the policy with the recording",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of the nodes and their topics"
            ),
            DeclareLaunchArgument(
                "remappings",
                default_value="",
                description="YAML file with lines TOPIC: OTHER_TOPIC for a driver with other names",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                choices=("true", "false"),
                description="start a node that has ended again, instead of ending the launch; a "
                "policy then stays inactive",
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
    """Check the arguments against each other, and choose what is included."""
    names = ("mode", "robot", "bridge", "task", "bundle", "bag", "speed", "driver")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    mode, simulated = given["mode"], given["robot"] == "go2_sim"
    bridge = launch_arguments.yes("bridge", given["bridge"])
    find_task(given["task"])
    speed = launch_arguments.positive("speed", given["speed"])
    if not simulated and mode == "sim":
        raise FogError("mode:=sim starts the simulated robot; it needs robot:=go2_sim")
    if not simulated and mode != "replay" and speed != 1.0:
        raise FogError(f"speed:={given['speed']}: a real robot has speed:=1.0")
    if simulated and bridge:
        raise FogError("bridge:=true is the driver of a real robot; it needs robot:=go2")
    if mode in ("deploy", "replay"):
        if not given["bundle"]:
            raise FogError(f"mode:={mode} needs bundle:=FOLDER; 'fog train policy' writes one")
        # Before the robot starts, not after.
        launch_arguments.check_bundle(given["bundle"], given["task"])

    sim_time = {"use_sim_time": str(simulated).lower()}
    actions: list[Action] = []
    if mode == "replay":
        return [_include("replay")]
    if simulated:
        actions.append(_include("sim", auto_reset=str(mode != "sim").lower()))
    elif bridge:
        actions.append(_include("go2"))
    if mode == "record":
        driver = given["driver"] or ("explore" if simulated else "joy")
        actions.append(_include("record", bag=given["bag"] or "bags", driver=driver, **sim_time))
    if mode == "deploy":
        actions.append(_include("deploy", **sim_time))
    return actions


def _include(name: str, **values: str) -> IncludeLaunchDescription:
    """Include a launch file; arguments of the same name are taken over."""
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource([ThisLaunchFileDir(), f"/{name}.launch.py"]),
        launch_arguments=values.items(),
    )
