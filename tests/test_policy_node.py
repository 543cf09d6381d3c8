"""The policy node as a process, with a genuine bundle, between made-up sensors and a listener."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geometry_msgs.msg import Twist
from processes import NodeProcess, ros_environment
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle

from fog_bringup.closed_loop import free_domain_id
from fog_world_model.task import TaskConfig, task_from_dict

ACTION = (0.5, -0.5, 0.25)
LINEAR_X = 0.4
"""What the first of them is within the task's bounds of +-0.8 m/s."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, task: TaskConfig) -> Path:
    """A policy that always answers :data:`ACTION`."""
    return write_toy_bundle(task, tmp_path_factory.mktemp("policy") / "bundle", ACTION)


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    """Sensors on topics, in real time."""
    synthetic = SyntheticRobot(task)
    yield synthetic
    synthetic.close()


@pytest.fixture
def fast_robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    """Sensors on topics, three times as fast, with a /clock."""
    synthetic = SyntheticRobot(task, speed=3.0)
    yield synthetic
    synthetic.close()


def parameters(**values: Any) -> list[str]:
    """The node's command line."""
    arguments = [a for k, v in values.items() for a in ("-p", f"{k}:={json.dumps(v)}")]
    return ["policy_node", "--ros-args", *arguments]


def end(node: NodeProcess, number: signal.Signals, robot: SyntheticRobot) -> None:
    """Send a signal, twice: the last command is zero within 2 s, and the exit status 0."""
    begin = time.monotonic()
    node.send(number)
    time.sleep(0.15)
    # As under a launcher, which passes on the Ctrl-C that the terminal has sent to all.
    with contextlib.suppress(ProcessLookupError, RuntimeError):
        node.send(number)
    assert node.wait(20) == 0
    robot.wait(lambda: robot.commands[-1][1] == 0.0, "the last command is not zero")
    assert robot.commands[-1][0] - begin < 2.0


def test_it_gives_its_shared_memory_back(bundle: Path) -> None:
    """Images pass through segments of tens of MB, which would fill /dev/shm, restart by restart."""
    env = ros_environment(ROS_DOMAIN_ID=str(free_domain_id()))  # alone, so that all are its own
    with NodeProcess(parameters(bundle=str(bundle), autostart=True), env) as node:
        node.wait_for("command hold")
        own = node.shared_memory()
        assert own and all(segment.exists() for segment in own)
        assert node.stop() == 0
        assert not [segment for segment in own if segment.exists()]


def test_drives_and_stops(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    report_path = tmp_path / "report.json"
    command = parameters(bundle=str(bundle), report_path=str(report_path), diagnostics_period_s=0.2)
    with NodeProcess(command, node_environment) as node:
        assert robot.change_state("configure")
        commands_before = len(robot.commands)
        time.sleep(0.5)
        assert len(robot.commands) == commands_before, "an inactive node published a command"
        assert robot.change_state("activate")
        robot.wait_until_driving()
        wait_for_speed(robot, LINEAR_X)
        approach = {round(x, 3) for _, x in robot.commands if 0 < x < LINEAR_X - 1e-3}
        assert approach, "the first command was not approached in steps"
        robot.wait(
            lambda: robot.diagnostics[-1][:2] == (0, "driving"), "diagnostics do not say driving"
        )
        assert robot.diagnostics[-1][2]["task"] == "reach_cube"
        assert robot.diagnostics[-1][2]["hold"] == "at 50 Hz, jerk bounded"

        # Every way to stop, and that driving goes on when its cause is gone.
        robot.silent = {"/camera/image_raw"}
        assert "/camera/image_raw" in robot.wait_for_stop("image")
        robot.silent = set()
        robot.wait_until_driving()

        robot.knee = math.nan
        assert "position.FR_hip_joint" in robot.wait_for_stop("proprioception")
        robot.knee = 0.0
        robot.wait_until_driving()

        robot.silent = {"/joint_states"}
        assert "/joint_states" in robot.wait_for_stop("proprioception")
        robot.silent = set()
        robot.wait_until_driving()

        robot.roll = 0.7
        assert "tilted by 0.70 rad" in robot.wait_for_stop("tilt")
        robot.roll = 0.0
        robot.wait_until_driving()

        assert robot.call("/policy_node/emergency_stop")[0]
        robot.wait_for_stop("emergency_stop")
        # It holds by itself, and over everything but its own reset.
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert robot.change_state(transition)
        robot.wait_for_stop("emergency_stop")
        assert robot.call("/policy_node/reset_emergency_stop") == (True, "released")
        robot.wait_until_driving()

        set_speed_scale(robot, 0.5)
        wait_for_speed(robot, 0.5 * LINEAR_X)
        assert not set_speed_scale(robot, 1.5), "beyond its range"
        assert set_speed_scale(robot, 1.0)

        robot.episode += 1
        begin = time.monotonic()
        sent = len(robot.commands)
        time.sleep(3.0)
        robot.wait_until_driving()
        # 50 a second, with a wide margin for a busy machine; without the hold it would be 5.
        assert len(robot.commands) - sent > 60
        written, message = robot.call("/policy_node/write_report")
        assert written and "achieved rate" in message and "report.png" in message
        assert json.loads(report_path.read_text())["backend"] in ("onnx", "torch")
        picture = report_path.with_suffix(".png")
        robot.wait(picture.exists, "no picture was drawn", 30.0)
        assert robot.change_state("deactivate")
        measured_s = time.monotonic() - begin
        assert robot.commands[-1][1] == 0.0
        commands = len(robot.commands)
        time.sleep(0.5)
        assert len(robot.commands) == commands, "an inactive node published a command"

        report = json.loads(report_path.read_text())
        assert report["task"] == "reach_cube"
        assert report["declared_hz"] == 5.0
        assert report["achieved_hz"] == pytest.approx(5.0, rel=0.1)
        assert report["commands"] >= 0.8 * 5.0 * measured_s
        assert report["episodes"] == 2
        assert report["stops"]["emergency_stop"]["events"] == 1
        latency, inference = report["latency_ms"], report["inference_ms"]
        # A tick comes 20 ms after an image; before that the image has travelled. On a machine that
        # is busy with something else both wait for a processor.
        assert 10.0 < latency["p50"] < 400.0
        assert 0.0 < inference["p50"] <= inference["p99"] <= inference["max"] <= latency["max"]
        assert 0.0 < report["jitter_ms"]["p50"] < 20.0
        assert report["published"] > 5 * report["commands"]
        assert report["resets"] >= 2, "on activation, and with the new episode"
        assert report_path.with_suffix(".txt").read_text().startswith("declared rate     5 Hz")

        assert robot.change_state("activate")
        robot.wait_until_driving()
        end(node, signal.SIGTERM, robot)


SLOW_DRAWING = """#!/bin/sh
trap '' INT TERM
while [ ! -e {go_on} ]; do sleep 0.05; done
PATH={path} exec nice "$@"
"""


def test_the_end_does_not_wait_for_the_picture_which_follows(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    go_on, report, slow = tmp_path / "go_on", tmp_path / "report.json", tmp_path / "bin" / "nice"
    path = node_environment["PATH"]
    slow.parent.mkdir()
    slow.write_text(SLOW_DRAWING.format(go_on=go_on, path=path))
    slow.chmod(0o755)
    env = {**node_environment, "PATH": f"{slow.parent}:{path}"}
    command = parameters(bundle=str(bundle), report_path=str(report), autostart=True)
    picture = report.with_suffix(".png")
    try:
        with NodeProcess(command, env) as node:
            robot.wait_until_driving()
            end(node, signal.SIGINT, robot)
            assert json.loads(report.read_text())["task"] == "reach_cube"
            assert not picture.exists()
    finally:
        go_on.touch()
    robot.wait(picture.exists, "no picture was drawn", 30.0)


def wait_for_speed(robot: SyntheticRobot, speed: float) -> None:
    robot.wait(
        lambda: robot.commands and abs(robot.commands[-1][1] - speed) < 1e-6,
        f"linear.x does not become {speed}",
    )


def set_speed_scale(robot: SyntheticRobot, value: float) -> bool:
    """As ``ros2 param set /policy_node speed_scale VALUE`` does; whether it was accepted."""
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request = SetParameters.Request(parameters=[Parameter(name="speed_scale", value=number)])
    response = robot.request(SetParameters, "/policy_node/set_parameters", request, 30.0)
    return bool(response.results[0].successful)


def test_in_shadow_it_computes_and_publishes_nothing(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    report_path = tmp_path / "report.json"
    command = parameters(
        bundle=str(bundle), report_path=str(report_path), autostart=True, shadow=True
    )
    driver = robot.node.create_publisher(Twist, "/cmd_vel", 10)
    twist = Twist()
    twist.linear.x = 0.1  # what somebody else tells the robot
    proposed: list[float] = []
    robot.node.create_subscription(
        Twist, "/policy_node/proposed_command", lambda m: proposed.append(m.linear.x), 10
    )
    with NodeProcess(command, node_environment) as node:
        node.wait_for("driving, in shadow", 60.0)
        for _ in range(30):
            driver.publish(twist)
            time.sleep(0.1)
        assert node.stop() == 0
    assert robot.commands
    assert {x for _, x in robot.commands} == {0.1}, "a command of the node's own"
    assert len(proposed) > 5
    # What it wants is on a topic of its own.
    assert proposed == pytest.approx([0.4] * len(proposed), abs=1e-6)
    report = json.loads(report_path.read_text())
    assert report["published"] == 0
    assert report["commands"] > 5
    assert report["shadow"]["commands"] > 5
    # The policy wants 0.4 m/s, and the slew rate of 8 m/s^2 lets it get there from 0.1.
    assert report["shadow"]["mean_absolute_difference"][0] == pytest.approx(0.3, abs=0.01)


def test_a_bundle_that_does_not_fit_the_robot_is_refused(
    tmp_path: Path, task: TaskConfig, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    content = task.to_dict()
    content["proprioception"][0]["fields"][0] = "position.no_such_joint"
    content["proprioception"][1]["type"] = "sensor_msgs/msg/MagneticField"
    content["proprioception"][1]["fields"] = ["magnetic_field.x"]
    content["safety"]["tilt_topic"] = ""
    other = task_from_dict(content)
    bundle = write_toy_bundle(other, tmp_path / "other", ACTION)
    with NodeProcess(parameters(bundle=str(bundle), autostart=True), node_environment) as node:
        assert node.wait(60) == 2
        # Types come first: messages of another type cannot be looked at.
        assert (
            "/imu/data is published by /synthetic_robot as sensor_msgs/msg/Imu, but the bundle has "
            "it as sensor_msgs/msg/MagneticField"
        ) in node.output()
    task.save(tmp_path / "task.yaml")
    values = {"bundle": str(bundle), "task": str(tmp_path / "task.yaml"), "autostart": True}
    with NodeProcess(parameters(**values), node_environment) as node:
        assert node.wait(60) == 2
        assert "They differ in" in node.output()


def test_what_came_after_configure_and_does_not_fit_is_refused_at_activation(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    with NodeProcess(parameters(bundle=str(bundle)), node_environment) as node:
        assert robot.change_state("configure")
        wants_old_commands = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        late = robot.node.create_subscription(Twist, "/cmd_vel", print, wants_old_commands)
        time.sleep(1.0)  # until the node has heard of it
        assert not robot.change_state("activate")
        node.wait_for("/cmd_vel expected by /synthetic_robot: its QoS does not fit")
        assert not robot.commands
        robot.node.destroy_subscription(late)
        robot.wait(lambda: robot.change_state("activate"), "it stays refused")
        robot.wait_until_driving()


def test_follows_simulated_time_and_stops_with_it(
    bundle: Path,
    fast_robot: SyntheticRobot,
    node_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    robot, report_path = fast_robot, tmp_path / "report.json"
    command = parameters(
        bundle=str(bundle), report_path=str(report_path), autostart=True, use_sim_time=True
    )
    with NodeProcess(command, node_environment) as node:
        node.wait_for("driving", 60.0)  # PyTorch takes its time to load on a busy machine
        node.wait_for("command hold: off: commands change in steps")
        robot.wait_until_driving()
        before = len(robot.commands)
        time.sleep(3.0)
        # 3 s at three times real time and 5 Hz are 45 commands.
        assert 30 <= len(robot.commands) - before <= 50
        robot.silent = {"/clock"}
        assert "time has stood still" in robot.wait_for_stop("clock")
        robot.silent = set()
        robot.wait_until_driving()
        end(node, signal.SIGINT, robot)
    report = json.loads(report_path.read_text())
    # Of robot time: up to 20 ms after an image, and three times what the computation took.
    assert 2.5 * report["inference_ms"]["p50"] < report["latency_ms"]["p50"] < 150.0
    assert report["stops"]["clock"]["events"] == 1


def test_a_signal_ends_it_while_it_loads(
    bundle: Path, node_environment: dict[str, str], robot: SyntheticRobot
) -> None:
    with NodeProcess(parameters(bundle=str(bundle), autostart=True), node_environment) as node:
        # The diagnostics publisher is there before PyTorch is.
        robot.wait(
            lambda: robot.node.count_publishers("/policy_node/transition_event") > 0, "no node"
        )
        begin = time.monotonic()
        node.send(signal.SIGTERM)
        assert node.wait(10) == 0
        assert time.monotonic() - begin < 2.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"bundle": "/no/such/bundle", "autostart": True}, "/no/such/bundle: no such folder"),
        ({"autostart": True}, "parameter bundle is empty"),
        ({"bundel": "x"}, "unknown parameter bundel; known are bundle, device"),
        ({"diagnostics_period_s": 99.0}, "diagnostics_period_s out of range Min: 0.05, Max: 10"),
        ({"bundle": 7}, "parameter bundle must be of type str, not 7"),
    ],
)
def test_bad_parameters_end_with_status_2(
    values: dict[str, Any], expected: str, node_environment: dict[str, str]
) -> None:
    with NodeProcess(parameters(**values), node_environment) as node:
        assert node.wait(30) == 2
        assert expected in node.output()
        assert "Traceback" not in node.output()


def test_a_device_that_does_not_exist_ends_with_status_2(
    bundle: Path, node_environment: dict[str, str]
) -> None:
    command = parameters(bundle=str(bundle), device="nonsense", autostart=True)
    with NodeProcess(command, node_environment) as node:
        assert node.wait(30) == 2
        assert "device 'nonsense' does not work" in node.output()


def test_without_autostart_a_bad_bundle_leaves_the_node_unconfigured(
    tmp_path: Path, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    with NodeProcess(parameters(bundle=str(tmp_path)), node_environment) as node:
        assert not robot.change_state("configure")
        node.wait_for(str(tmp_path))
        assert not robot.change_state("activate")
        assert node.stop() == 0
