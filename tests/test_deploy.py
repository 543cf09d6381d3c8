"""``fog deploy`` as a process, with a genuine bundle and made-up sensors on topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import NodeProcess, executable
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle

from fog_bringup.cli import main
from fog_world_model.task import TaskConfig

LINEAR_X = 0.4
"""Half of the task's bound of 0.8 m/s."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, task: TaskConfig) -> Path:
    return write_toy_bundle(task, tmp_path_factory.mktemp("deploy") / "policy bündle", (0.5, 0, 0))


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    synthetic = SyntheticRobot(task)
    yield synthetic
    synthetic.close()


def wait_until_driving(robot: SyntheticRobot) -> None:
    """Both processes import PyTorch first, which takes its time on a busy machine."""
    robot.wait(lambda: robot.commands, "no command has come", timeout_s=90.0)
    robot.wait_until_driving()


def node_below(pid: int) -> int:
    """Process id of the policy node that ``fog deploy`` with this id has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, f"{len(children)} processes below {pid}"
    return int(children[0])


def wait_until_gone(pid: int, begin: float, limit_s: float) -> None:
    """Wait until a process has ended, at most ``limit_s`` after ``begin`` (monotonic)."""
    while True:
        try:
            # A zombie has ended too; who adopts it may take a while to notice.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        assert time.monotonic() - begin < limit_s, f"process {pid} is still there"
        time.sleep(0.02)


def wait_for_zero(robot: SyntheticRobot) -> None:
    robot.wait(lambda: robot.commands[-1][1] == 0.0, "the last command is not zero")


def test_drives_until_ctrl_c(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    report = tmp_path / "made" / "report.json"
    command = ["fog", "deploy", str(bundle), "--report", str(report)]
    with NodeProcess(command, node_environment) as fog:
        wait_until_driving(robot)
        # The first commands may still be on their way there: their rate of change is limited.
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline and abs(robot.commands[-1][1] - LINEAR_X) > 1e-6:
            time.sleep(0.05)
        assert robot.commands[-1][1] == pytest.approx(LINEAR_X, abs=1e-6)
        # What the node logs is what one sees.
        fog.wait_for("task 'reach_cube' at 5 Hz on cpu")
        fog.wait_for("driving")
        time.sleep(1.0)
        node = node_below(fog.pid)
        begin = time.monotonic()
        fog.send(signal.SIGINT)
        assert fog.wait(10) == 0
        assert time.monotonic() - begin < 3.0
        wait_until_gone(node, begin, 3.0)
        wait_for_zero(robot)
        assert "Traceback" not in fog.output()
    content = json.loads(report.read_text())
    assert content["bundle"] == str(bundle)
    assert content["declared_hz"] == 5.0
    assert content["commands"] >= 4


def test_ctrl_c_of_a_terminal_reaches_both(
    bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str], tmp_path: Path
) -> None:
    """A terminal signals the whole group, so that the node gets SIGINT twice."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        fog = subprocess.Popen(
            [*executable("fog"), "deploy", str(bundle)],
            env=node_environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_driving(robot)
        node = node_below(fog.pid)
        begin = time.monotonic()
        os.killpg(fog.pid, signal.SIGINT)
        assert fog.wait(10) == 0, log.read_text()
        wait_until_gone(node, begin, 3.0)
        wait_for_zero(robot)
        assert "Traceback" not in log.read_text()
    finally:
        if fog.poll() is None:
            os.killpg(fog.pid, signal.SIGKILL)
            fog.wait()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_robot_stops_when_the_terminal_or_the_command_dies(
    number: signal.Signals, bundle: Path, robot: SyntheticRobot, node_environment: dict[str, str]
) -> None:
    with NodeProcess(["fog", "deploy", str(bundle)], node_environment) as fog:
        wait_until_driving(robot)
        node = node_below(fog.pid)
        begin = time.monotonic()
        fog.send(number)
        assert fog.wait(10) == (0 if number == signal.SIGHUP else -number)
        wait_until_gone(node, begin, 3.0)
        wait_for_zero(robot)


def test_node_that_ends_by_itself_gives_its_status(
    bundle: Path, node_environment: dict[str, str], robot: SyntheticRobot
) -> None:
    with NodeProcess(["fog", "deploy", str(bundle)], node_environment) as fog:
        wait_until_driving(robot)
        os.kill(node_below(fog.pid), signal.SIGKILL)
        assert fog.wait(10) == -signal.SIGKILL  # 137, as a shell has it


def damaged(bundle: Path, folder: Path) -> Path:
    """A bundle whose weights have changed after its export."""
    copy = folder / "damaged"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    return copy


def test_missing_bundle_ends_with_status_2(
    tmp_path: Path, node_environment: dict[str, str]
) -> None:
    with NodeProcess(["fog", "deploy", str(tmp_path / "nowhere")], node_environment) as fog:
        assert fog.wait(60) == 2
        assert "nowhere: no such folder, and no shipped policy of that name" in fog.output()
        assert "Traceback" not in fog.output()


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (lambda b, t: t, [], "has no manifest.json"),
        (damaged, [], "not the file that was exported"),
        (lambda b, t: b, ["--device", "warp"], "--device warp: expected cpu, cuda or cuda:NUMBER"),
        (lambda b, t: b, ["--report", "."], "--report .: is a folder"),
    ],
    ids=["empty", "damaged", "device", "report"],
)
def test_bad_input_is_found_before_anything_starts(
    make: Callable[[Path, Path], Path],
    options: list[str],
    expected: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    assert main(["deploy", str(make(bundle, tmp_path)), *options]) == 2
    assert expected in capsys.readouterr().err
