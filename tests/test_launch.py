"""The launch file: what it declares and starts, and, where launch_ros is installed, a launch.

launch_ros has no wheel, so that a machine with nothing but the Python wheels checks the file's
text against the packages, and its parameters against the nodes.
"""

from __future__ import annotations

import ast
import importlib.util
import json
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

from fog_world_model.task import TaskConfig

PACKAGE = REPOSITORY / "src" / "fog_bringup"
LAUNCH_FILE = PACKAGE / "launch" / "quadruped.launch.py"
PARAMETERS = PACKAGE / "config" / "quadruped.yaml"
NODES = ("robot_node", "driver_node", "recorder_node", "policy_node")

SOURCE = ast.parse(LAUNCH_FILE.read_text(), str(LAUNCH_FILE))


def calls(name: str) -> list[ast.Call]:
    """Calls of a function or class in the launch file."""
    return [
        node
        for node in ast.walk(SOURCE)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def constants() -> dict[str, Any]:
    """The file's constants at module level."""
    found = {}
    for node in SOURCE.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {k.arg: k.value for k in call.keywords if k.arg is not None}


def test_arguments_and_their_choices() -> None:
    declared: dict[str, tuple[str, ...] | None] = {}
    for call in calls("DeclareLaunchArgument"):
        name = ast.literal_eval(call.args[0])
        given = keywords(call)
        assert "description" in given, name
        assert "default_value" in given, name
        choices = given.get("choices")
        if isinstance(choices, ast.Name):
            declared[name] = constants()[choices.id]
        else:
            declared[name] = None if choices is None else ast.literal_eval(choices)
    assert declared == {
        "mode": ("sim", "record", "deploy", "replay"),
        "robot": ("go2_sim", "go2"),
        "task": None,
        "bundle": None,
        "bag": None,
        "speed": None,
        "driver": ("", "explore", "joy"),
        "report": None,
        "parameters": None,
    }


def test_every_executable_is_installed_by_its_package() -> None:
    started = {
        (ast.literal_eval(call.args[1]), ast.literal_eval(call.args[2])) for call in calls("_node")
    }
    for call in calls("LifecycleNode"):
        given = keywords(call)
        started.add((ast.literal_eval(given["package"]), ast.literal_eval(given["executable"])))
    assert {name for _, name in started} == set(NODES)
    for package, name in started:
        # The lines of entry_points in setup.py.
        setup = (REPOSITORY / "src" / package / "setup.py").read_text()
        assert f'"{name} = {package}.{name}:main"' in setup


def test_what_is_started_ends_within_two_seconds() -> None:
    found = constants()
    assert float(found["SIGTERM_AFTER_S"]) + float(found["SIGKILL_AFTER_S"]) < 2.0
    set_to = {
        ast.literal_eval(call.args[0]): ast.unparse(call.args[1])
        for call in calls("SetLaunchConfiguration")
    }
    # The names that launch reads its defaults for every process from.
    assert set_to == {"sigterm_timeout": "SIGTERM_AFTER_S", "sigkill_timeout": "SIGKILL_AFTER_S"}


def test_the_parameter_file_has_sections_of_our_nodes_only() -> None:
    assert set(yaml.safe_load(PARAMETERS.read_text())) == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_nodes_accept_the_parameter_file(
    name: str, task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
) -> None:
    # Our nodes end with status 2 when they are given a parameter that they do not have.
    more = ["-p", f"output:={tmp_path}/bags"] if name == "recorder_node" else []
    command = [name, "--ros-args", "--params-file", str(PARAMETERS), *more]
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

    def launch(environment: dict[str, str], **arguments: str) -> NodeProcess:
        given = {"parameters": str(PARAMETERS), **arguments}
        return NodeProcess(
            [sys.executable, "-c", LAUNCH, str(LAUNCH_FILE)]
            + [f"{key}:={value}" for key, value in given.items()],
            environment,
        )

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({"mode": "fly"}, "fly"),
            ({"mode": "deploy"}, "mode:=deploy needs bundle:=FOLDER"),
            ({"mode": "deploy", "bundle": "/no/bundle"}, "bundle /no/bundle: .* cannot be read"),
            ({"mode": "sim", "robot": "go2"}, "it needs robot:=go2_sim"),
            ({"mode": "record", "robot": "go2", "speed": "4"}, "a real robot has speed:=1.0"),
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
            process.wait_for("mode:=replay needs bag:=FOLDER of a rosbag2 bag; /no/bag")
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
                # The processes get 1.8 s before they are killed; launch then ends itself.
                assert time.monotonic() - begin < 3.0
                assert listener.commands[-1][1] == 0.0
                assert process.output().count("process has finished cleanly") == 2
        finally:
            listener.close()
        assert json.loads(report.read_text())["latency_ms"]["p50"] > 0.0
