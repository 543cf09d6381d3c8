"""The policy's node when its camera freezes, its own code fails, or it is killed and started again.

Real processes and topics; what fails in the node fails in a genuine one, see spoilt_policy_node.py.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import NodeProcess
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle

from fog_world_model.task import TaskConfig

SPOILT = Path(__file__).with_name("spoilt_policy_node.py")
ERROR = 2
LONG_S = 240.0
"""How long a busy machine may take to load PyTorch, or to find a new process."""
FAST = {"check_s": 0.1, "backend": "torch", "diagnostics_period_s": 0.2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, task: TaskConfig) -> Path:
    """A policy that always answers the same."""
    return write_toy_bundle(task, tmp_path_factory.mktemp("policy") / "bundle", (0.5, -0.5, 0.25))


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    """Sensors on topics, in real time."""
    synthetic = SyntheticRobot(task)
    yield synthetic
    synthetic.close()


def parameters(**values: Any) -> list[str]:
    """What comes after the executable."""
    given = {**FAST, **values}
    arguments = [a for k, v in given.items() for a in ("-p", f"{k}:={json.dumps(v)}")]
    return ["--ros-args", *arguments]


def node(environment: dict[str, str], **values: Any) -> NodeProcess:
    """The genuine node."""
    command = ["policy_node", *parameters(**values)]
    return NodeProcess(command, environment, limit_s=4 * LONG_S)


def wait_for_driving(process: NodeProcess, robot: SyntheticRobot) -> None:
    """Wait until a node that has been started drives, and the robot hears it."""
    process.wait_for("driving", LONG_S)
    robot.wait_until_driving()


def told(robot: SyntheticRobot, text: str, level: int, *, after: int = 0) -> str:
    """Wait for a status whose message contains a text, at a level.

    Returns:
        The whole message.
    """

    def found() -> list[str]:
        return [m for grade, m, _ in robot.diagnostics[after:] if grade == level and text in m]

    robot.wait(found, f"diagnostics never said {text!r}", LONG_S)
    return found()[0]


def wait_for_state(robot: SyntheticRobot, state: str) -> None:
    """Wait until the newest state is this one."""
    robot.wait(lambda: robot.state() == state, f"the node is not {state}", LONG_S)


def test_a_frozen_camera_stops_a_robot_that_moves(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    with node(node_environment, bundle=str(bundle), autostart=True) as process:
        wait_for_driving(process, robot)
        # The picture has always been the same, but so have the joints: this robot is blocked.
        time.sleep(2.5)
        assert not any("frozen_image" in text for _, text, _ in robot.diagnostics)
        before, stopped = len(robot.diagnostics), []
        deadline = time.monotonic() + LONG_S
        while not stopped and time.monotonic() < deadline:
            robot.knee = 0.5 - robot.knee
            time.sleep(0.1)
            stopped = [t for _, t, _ in robot.diagnostics[before:] if "frozen_image: " in t]
        assert stopped, "a camera that shows the same while the joints move was not noticed"
        assert "/camera/image_raw shows the same picture to the bit" in stopped[0]
        robot.wait_for_stop("frozen_image")
        robot.brightness = 1
        # One new picture is enough; in the time up to the next stop the robot drives.
        robot.wait_until_driving()
        assert process.stop() == 0


def test_messages_that_do_not_decode_are_no_sign_of_life_and_no_error(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    with node(node_environment, bundle=str(bundle), autostart=True) as process:
        wait_for_driving(process, robot)
        for topic, cause in (("/camera/image_raw", "image"), ("/odom", "proprioception")):
            robot.wait_until_driving()
            robot.damaged = {topic}
            assert topic in robot.wait_for_stop(cause)
            assert robot.state() == "active"
            robot.damaged = set()
        robot.wait_until_driving()
        assert process.stop() == 0


PLACES = {
    "image": "a message on /camera/image_raw failed",
    "joints": "a message on /",
    "tick": "control timer failed",
    "hold": "timer of the command hold failed",
    "policy's thread": "failed",  # its answer, or the tick that finds it
    "answer": "failed",
    "service": "service write_report failed",
    "diagnostics": "timer of the diagnostics failed",
}


def test_an_exception_anywhere_ends_in_zero_and_can_be_configured_again(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "place"
    command = [sys.executable, str(SPOILT), str(file), *parameters(bundle=str(bundle))]
    with NodeProcess(command, node_environment, limit_s=8 * LONG_S) as process:
        for place, where in PLACES.items():
            assert robot.change_state("configure", LONG_S), place
            assert robot.change_state("activate", LONG_S), place
            robot.wait_until_driving()
            before, reports = len(robot.commands), len(robot.diagnostics)
            part = file.with_suffix(".part")
            part.write_text(place)
            part.rename(file)
            if place == "service":
                success, message = robot.call("/policy_node/write_report")
                assert not success and message == "failed: spoilt service"
            text = told(robot, f"ValueError: spoilt {place}", ERROR, after=reports)
            assert where in text, text
            assert text.endswith("; configure and activate to go on"), text
            assert robot.state() == "unconfigured"
            assert robot.commands[-1][1] == 0.0, place
            assert len(robot.commands) > before, place
            # And nothing more: the middleware itself may take a moment.
            time.sleep(0.3)
            count = len(robot.commands)
            time.sleep(0.4)
            assert len(robot.commands) == count, place
            assert f"ValueError: spoilt {place}" in process.output()
            assert "Traceback" in process.output(), "where it happened is in the log"
            file.unlink()
        assert process.running()
        # An inactive node has callbacks too.
        assert robot.change_state("configure", LONG_S)
        reports = len(robot.diagnostics)
        file.write_text("service")
        assert robot.call("/policy_node/write_report") == (False, "failed: spoilt service")
        told(robot, "spoilt service; configure and activate to go on", ERROR, after=reports)
        assert robot.state() == "unconfigured"
        file.unlink()
        assert robot.change_state("configure", LONG_S) and robot.change_state("activate", LONG_S)
        robot.wait_until_driving()
        assert process.stop() == 0


def kill(process: NodeProcess) -> None:
    process.send(signal.SIGKILL)
    process.wait(10)
    time.sleep(0.5)  # what it has sent may be on its way


def test_a_node_that_was_killed_comes_back_and_waits(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    values = {"bundle": str(bundle), "autostart": True, "run_file": str(tmp_path / "run")}
    with node(node_environment, **values) as process:
        wait_for_driving(process, robot)
        kill(process)
    before, reports = len(robot.commands), len(robot.diagnostics)
    assert robot.commands[-1][1] > 0.0, "the robot's last command was to move"
    with node(node_environment, **values) as process:
        told(robot, "restarted; activate to go on", 1, after=reports)
        robot.wait(lambda: len(robot.commands) >= before + 3, "no zero commands in its place")
        wait_for_state(robot, "inactive")
        time.sleep(1.0)
        assert {x for _, x in robot.commands[before:]} == {0.0}, "it drove off by itself"
        assert robot.change_state("activate", LONG_S)
        robot.wait_until_driving()
        robot.wait(lambda: robot.diagnostics[-1][:2] == (0, "driving"), "it does not say driving")
        kill(process)
    # Somebody has said that it is to go on by itself.
    values["restart"] = "active"
    with node(node_environment, **values) as process:
        wait_for_driving(process, robot)
        # An emergency stop is the robot's, not the process's.
        assert robot.call("/policy_node/emergency_stop")[0]
        robot.wait_for_stop("emergency_stop")
        kill(process)
    reports, before = len(robot.diagnostics), len(robot.commands)
    with node(node_environment, **values) as process:
        told(robot, "emergency_stop: ", ERROR, after=reports)
        assert {x for _, x in robot.commands[before:]} <= {0.0}
        assert robot.call("/policy_node/reset_emergency_stop") == (True, "released")
        robot.wait_until_driving()
        assert process.stop() == 0
    # It was ended, and thereby deactivated: what starts it again finds nothing to go on with.
    reports, before = len(robot.diagnostics), len(robot.commands)
    with node(node_environment, **values) as process:
        told(robot, "restarted; activate to go on", 1, after=reports)
        time.sleep(1.0)
        assert {x for _, x in robot.commands[before:]} <= {0.0}
        assert process.stop() == 0


def test_a_run_file_that_cannot_be_written_ends_with_status_2(
    bundle: Path, node_environment: dict[str, str]
) -> None:
    with node(node_environment, bundle=str(bundle), run_file="/no/such/folder/run") as process:
        assert process.wait(LONG_S) == 2
        expected = "parameter run_file /no/such/folder/run: cannot be written (No such folder)"
        assert expected in process.output()
