"""The launch files: what they declare and start, and, where launch_ros is installed, launches.

launch_ros has no wheel, so that a machine with nothing but the Python wheels checks the files'
text against the packages, and their parameters against the nodes.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import REPOSITORY, NodeProcess
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle

from fog_world_model.data.bag_reader import BagReader
from fog_world_model.task import TaskConfig

PACKAGE = REPOSITORY / "src" / "fog_bringup"
LAUNCH_FILES = {path.name.split(".")[0]: path for path in (PACKAGE / "launch").glob("*.launch.py")}
PARAMETERS = PACKAGE / "config" / "quadruped.yaml"
NODES = ("robot_node", "driver_node", "recorder_node", "policy_node", "dashboard_node")
OTHER_NODES = ("replay_node", "go2_bridge_node")
"""Those that end at once without a bag, or without Unitree's interfaces."""

SOURCES = {name: ast.parse(path.read_text(), str(path)) for name, path in LAUNCH_FILES.items()}


def calls(file: str, *names: str) -> list[ast.Call]:
    """Calls of some functions or classes in a launch file."""
    return [
        node
        for node in ast.walk(SOURCES[file])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def constants(file: str) -> dict[str, Any]:
    """A file's constants at module level."""
    found = {}
    for node in SOURCES[file].body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {k.arg: k.value for k in call.keywords if k.arg is not None}


def declared(file: str) -> dict[str, tuple[str, ...] | None]:
    """Arguments of a launch file and their choices; every one is described and has a default."""
    found: dict[str, tuple[str, ...] | None] = {}
    for call in calls(file, "DeclareLaunchArgument"):
        name, given = ast.literal_eval(call.args[0]), keywords(call)
        assert {"description", "default_value"} <= set(given), (file, name)
        choices = given.get("choices")
        if isinstance(choices, ast.Name):
            found[name] = constants(file)[choices.id]
        else:
            found[name] = None if choices is None else ast.literal_eval(choices)
    return found


BOOL = ("true", "false")


def test_arguments_and_their_choices() -> None:
    assert declared("quadruped") == {
        "mode": ("sim", "record", "deploy", "replay"),
        "robot": ("go2_sim", "go2"),
        "bridge": BOOL,
        "task": None,
        "bundle": None,
        "bag": None,
        "speed": None,
        "driver": ("", "explore", "joy", "none"),
        "activate": BOOL,
        "shadow": BOOL,
        "speed_scale": None,
        "dashboard": BOOL,
        "report": None,
        "comparison": None,
        "namespace": None,
        "remappings": None,
        "respawn": BOOL,
        "parameters": None,
    }


def test_included_files_share_the_arguments_or_are_given_them() -> None:
    """What a part declares, the whole day has under the same name, or decides itself."""
    assert set(LAUNCH_FILES) == {*("quadruped", "sim", "record", "deploy", "replay", "go2", "view")}
    day = set(declared("quadruped"))
    for call in calls("quadruped", "_include"):
        part, given = ast.literal_eval(call.args[0]), set(keywords(call))
        if any(k.arg is None for k in call.keywords):  # **sim_time
            given.add("use_sim_time")
        assert given <= set(declared(part)), part
        assert set(declared(part)) <= day | given | {"command_topic"}, part


def test_every_executable_is_installed_by_its_package() -> None:
    started = set()
    for file in LAUNCH_FILES:
        for call in calls(file, "Node", "LifecycleNode"):
            given = keywords(call)
            executable = given["executable"]
            if isinstance(executable, ast.Constant):
                started.add((ast.literal_eval(given["package"]), executable.value))
        started |= {("fog_bringup", ast.literal_eval(c.args[0])) for c in calls(file, "node")}
    started -= {("robot_state_publisher", "robot_state_publisher"), ("rviz2", "rviz2")}
    assert {name for _, name in started} == {*NODES, *OTHER_NODES, "odometry_frame_node"}
    for package, name in started:
        # The lines of entry_points in setup.py.
        setup = (REPOSITORY / "src" / package / "setup.py").read_text()
        assert f'"{name} = {package}.{name}:main"' in setup
        assert f'"fog_{name} = {package}.{name}:main"' in setup


@pytest.mark.parametrize("file", ["sim", "record", "deploy", "go2"])
def test_what_is_started_ends_within_two_seconds(file: str) -> None:
    found = constants(file)
    assert float(found["SIGTERM_AFTER_S"]) + float(found["SIGKILL_AFTER_S"]) < 2.0
    set_to = {
        ast.literal_eval(call.args[0]): ast.unparse(call.args[1])
        for call in calls(file, "SetLaunchConfiguration")
    }
    # The names that launch reads its defaults for every process from.
    assert set_to == {"sigterm_timeout": "SIGTERM_AFTER_S", "sigkill_timeout": "SIGKILL_AFTER_S"}


def test_a_respawned_policy_can_know_that_it_is_one() -> None:
    """The launch gives it a file of its run, and asks only its first process to be configured."""
    from fog_policy import policy_parameters_node

    source = ast.parse(Path(policy_parameters_node.__file__).read_text())
    declared_by_the_node = {
        ast.literal_eval(node.args[0])
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.declare"
    }
    given = {
        ast.literal_eval(node.targets[0].slice)
        for node in ast.walk(SOURCES["deploy"])
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Subscript)
        and ast.unparse(node.targets[0].value) == "values"
    }
    assert "run_file" in given
    assert given <= declared_by_the_node
    (start,) = calls("deploy", "OnProcessStart")
    assert ast.literal_eval(keywords(start)["handle_once"]) is True


def test_the_parameter_file_has_sections_of_our_nodes_only() -> None:
    assert set(yaml.safe_load(PARAMETERS.read_text())) == {*NODES, *OTHER_NODES}


@pytest.mark.parametrize("name", NODES)
def test_nodes_accept_the_parameter_file(
    name: str, task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
) -> None:
    # Our nodes end with status 2 when they are given a parameter that they do not have.
    more = {
        "recorder_node": ["-p", f"output:={tmp_path}/bags"],
        "dashboard_node": ["-p", "task:=reach_cube", "-p", "port:=0"],
    }.get(name, [])
    package = "fog_policy" if name == "policy_node" else "fog_bringup"
    command = [sys.executable, "-m", f"{package}.{name}", "--ros-args"]
    command += ["--params-file", str(PARAMETERS), *more]
    listener = SyntheticRobot(task)
    listener.silent = set(listener.topics)
    try:
        with NodeProcess(command, node_environment) as node:
            listener.wait(
                lambda: name in listener.diagnosed or not node.running(), f"{name} is silent"
            )
            assert node.running(), node.output()
            assert node.stop() == 0
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("replay_node", "parameter bag is empty; give -p bag:=FOLDER"),
        ("go2_bridge_node", "the ROS package unitree_go is not installed.*\n.*git clone"),
    ],
)
def test_nodes_that_lack_something_accept_the_parameter_file(
    name: str, expected: str, node_environment: dict[str, str]
) -> None:
    # Parameters are checked first.
    if name == "go2_bridge_node" and importlib.util.find_spec("unitree_go"):
        pytest.skip("Unitree's interfaces are installed")
    command = [sys.executable, "-m", f"fog_bringup.{name}", "--ros-args"]
    with NodeProcess([*command, "--params-file", str(PARAMETERS)], node_environment) as node:
        node.wait_for(expected)
        assert node.wait() == 2


# Defined only where launch_ros is: nothing can be launched elsewhere.
if importlib.util.find_spec("launch_ros") is not None:
    LAUNCH = """
import runpy, sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = dict(a.split(":=", 1) for a in sys.argv[2:])
service = LaunchService(noninteractive=True)
service.include_launch_description(
    LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments.items()
            )
        ]
    )
)
sys.exit(service.run())
"""

    def launch(
        environment: dict[str, str], file: str = "quadruped", **arguments: str
    ) -> NodeProcess:
        given = {"parameters": str(PARAMETERS), **arguments}
        return NodeProcess(
            [sys.executable, "-c", LAUNCH, str(LAUNCH_FILES[file])]
            + [f"{key}:={value}" for key, value in given.items()],
            environment,
        )

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"mode": "fly"}, "fly"),
            ({"mode": "deploy"}, "mode:=deploy needs bundle:=FOLDER"),
            ({"mode": "deploy", "bundle": "/no/bundle"}, "bundle /no/bundle: no such folder"),
            ({"mode": "sim", "robot": "go2"}, "it needs robot:=go2_sim"),
            ({"mode": "record", "robot": "go2", "speed": "4"}, "a real robot has speed:=1.0"),
            ({"mode": "sim", "bridge": "true"}, "it needs robot:=go2"),
            ({"mode": "sim", "parameters": "/no.yaml"}, "parameters:=/no.yaml: cannot be read"),
            ({"mode": "sim", "speed": "fast"}, "speed:=fast: expected a positive number"),
            ({"mode": "sim", "task": "no_task"}, "known names are .*reach_cube"),
        ],
    )
    def test_arguments_that_do_not_fit_start_nothing(
        arguments: dict[str, str], expected: str, node_environment: dict[str, str]
    ) -> None:
        with launch(node_environment, **arguments) as process:
            process.wait_for(expected)
            assert process.wait() == 1
            assert "process started" not in process.output()

    def test_replay_needs_a_bag(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bundle = str(write_toy_bundle(task, tmp_path / "bundle", (0.0, 0.0, 0.0)))
        with launch(node_environment, mode="replay", bundle=bundle, bag="/no/bag") as process:
            process.wait_for("a replay needs bag:=FOLDER of a rosbag2 bag; /no/bag is not there")
            assert process.wait() == 1

    def test_a_bundle_of_another_task_is_refused(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bundle = write_toy_bundle(task, tmp_path / "bundle", (0.0, 0.0, 0.0))
        content = json.loads((bundle / "manifest.json").read_text())
        content["task"]["control_hz"] = 10.0
        (bundle / "manifest.json").write_text(json.dumps(content))
        with launch(node_environment, mode="deploy", bundle=str(bundle)) as process:
            process.wait_for("They differ in control_hz: 10.0 there, 5.0 here")
            assert process.wait() == 1

    def test_deploy_drives_the_simulated_robot_and_ends(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bundle = write_toy_bundle(task, tmp_path / "bundle", (0.5, 0.0, 0.25))
        report = tmp_path / "report.json"
        listener = SyntheticRobot(task)
        listener.silent = set(listener.topics)
        try:
            with launch(
                node_environment, mode="deploy", bundle=str(bundle), report=str(report)
            ) as process:
                process.wait_for("driving", timeout_s=80.0)
                listener.wait_until_driving()
                # Who deactivates the policy wants it to stay so, and may activate it again.
                assert listener.change_state("deactivate")
                commands = len(listener.commands)
                time.sleep(1.0)
                assert len(listener.commands) == commands
                assert listener.change_state("activate")
                listener.wait_until_driving()
                begin = time.monotonic()
                process.send(signal.SIGINT)
                assert process.wait() == 0
                # The processes get 1.8 s before they are killed; launch then ends itself. A busy
                # machine takes longer over it.
                assert time.monotonic() - begin < 6.0
                assert listener.commands[-1][1] == 0.0
                assert process.output().count("process has finished cleanly") == 2
        finally:
            listener.close()
        assert json.loads(report.read_text())["latency_ms"]["p50"] > 0.0

    def test_a_policy_that_was_killed_is_respawned_and_waits(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bundle = write_toy_bundle(task, tmp_path / "bundle", (0.5, 0.0, 0.25))
        robot = SyntheticRobot(task)
        try:
            with launch(node_environment, "deploy", bundle=str(bundle), respawn="true") as process:
                process.wait_for("driving", timeout_s=80.0)
                robot.wait_until_driving()
                os.kill(pid_of("policy_node", process.pid), signal.SIGKILL)
                robot.wait(
                    lambda: robot.diagnostics[-1][1] == "restarted; activate to go on",
                    "the respawned node does not say what it waits for",
                    80.0,
                )
                robot.wait(lambda: robot.state() == "inactive", "it is not inactive")
                stood = len(robot.commands)
                assert robot.commands[-1][1] == 0.0, "zero in the place of the one that died"
                time.sleep(2.0)
                assert {x for _, x in robot.commands[stood - 1 :]} == {0.0}
                assert robot.change_state("activate")
                robot.wait_until_driving()
                process.send(signal.SIGINT)
                assert process.wait() == 0
                assert robot.commands[-1][1] == 0.0
        finally:
            robot.close()

    def pid_of(name: str, parent: int) -> int:
        """The process that a launch has started for an executable."""
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if name in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
        raise AssertionError(f"no child of {parent} runs {name}")

    def test_record_alone_drives_a_namespaced_robot_that_runs_already(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        """Both files alone, in one namespace; the bag has the task's own topic names."""
        with (
            launch(node_environment, "sim", namespace="dog", auto_reset="true") as robot,
            launch(
                node_environment,
                "record",
                namespace="dog",
                bag=str(tmp_path / "bags"),
                driver="explore",
                use_sim_time="true",
            ) as recorder,
        ):
            recorder.wait_for("recording", timeout_s=40.0)
            time.sleep(6.0)
            recorder.send(signal.SIGINT)
            assert recorder.wait() == 0, recorder.output()
            assert robot.running(), robot.output()
            robot.send(signal.SIGINT)
            assert robot.wait() == 0
        (bag,) = (tmp_path / "bags").glob("*/metadata.yaml")
        with BagReader(bag.parent) as reader:
            assert reader.counts[task.action.topic] > 5
            assert not any(topic.startswith("/dog") for topic in reader.topics)

    def test_replay_compares_and_ends_by_itself(
        task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
    ) -> None:
        bundle = write_toy_bundle(task, tmp_path / "bundle", (0.5, 0.0, 0.25))
        comparison = tmp_path / "comparison.json"
        with launch(
            node_environment,
            mode="replay",
            bundle=str(bundle),
            bag=str(REPOSITORY / "datasets" / "reach_cube"),
            speed="4",
            comparison=str(comparison),
        ) as process:
            assert process.wait(80.0) == 0
        found = json.loads(comparison.read_text())
        assert found["recorded_commands"] > 100
        assert found["pairs"] > 50
