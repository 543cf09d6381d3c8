"""Every rule that stops the robot, provoked through topics; the benchmark that injects faults."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from processes import NodeProcess
from toy_bundle import write_toy_bundle
from watched_robot import WatchedRobot, with_every_rule

from fog_policy.bundle import load_bundle
from fog_policy.safety import Cause
from fog_policy.surprise import SurpriseRange
from fog_world_model.task import TaskConfig

PERIOD_NS = 20_000_000
"""Of the commands."""
STRANGE_RAD, ABSURD_RAD = 1e3, 1e30
"""Joint positions that the local model has never seen, and that make its numbers overflow (those of
PyTorch; ONNX Runtime normalises in another order)."""
WARM_UP = 5


@pytest.fixture(scope="module")
def watched_task(task: TaskConfig) -> TaskConfig:
    return with_every_rule(task)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, watched_task: TaskConfig) -> Path:
    """Drives always the same, and is surprised by joints at :data:`STRANGE_RAD`."""
    path = write_toy_bundle(
        watched_task, tmp_path_factory.mktemp("policy") / "bundle", (0.5, -0.5, 0.25)
    )
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["surprise"] = surprise_between(watched_task, path).to_dict()
    manifest.write_text(json.dumps(content))
    return path


@pytest.fixture
def robot(watched_task: TaskConfig) -> Iterator[WatchedRobot]:
    synthetic = WatchedRobot(watched_task)
    yield synthetic
    synthetic.close()


def surprise_between(task: TaskConfig, bundle: Path) -> SurpriseRange:
    """A range that holds what the untrained model is surprised by ordinary joints, not by strange
    ones."""
    controller = load_bundle(bundle).controller()
    image = np.zeros((task.image.height, task.image.width, 3), np.uint8)
    joints = sum(len(s.fields) for s in task.proprioception if s.topic == "/joint_states")
    ordinary = np.zeros(task.proprioception_size, np.float32)
    strange = ordinary.copy()
    strange[:joints] = STRANGE_RAD
    nats = []
    action = np.zeros(task.action_size, np.float32)
    for _ in range(30):
        action = controller.act(image, ordinary, action)
        nats.append(controller.surprise)
    controller.act(image, strange, action)
    calm, shock = max(n for n in nats[WARM_UP:] if n is not None), controller.surprise
    assert shock is not None and shock > 1.1 * calm, "the fixture's model tells nothing apart"
    limit = math.sqrt(calm * shock)
    return SurpriseRange(
        threshold_nats=limit,
        shock_nats=limit,
        steps=3,
        warm_up=WARM_UP,
        false_alarm=0.0,
        judged=25,
        episodes=1,
        median_nats=calm,
        largest_nats=calm,
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a rule is provoked, and what it says."""

    cause: str
    says: str
    provoke: Callable[[WatchedRobot], Any]
    relieve: Callable[[WatchedRobot], Any]
    latches: bool = False


def setting(name: str, value: Any) -> Callable[[WatchedRobot], None]:
    return lambda robot: setattr(robot, name, value)


def silence(*topics: str) -> Callable[[WatchedRobot], None]:
    return setting("silent", set(topics))


def pressed(service: str) -> Callable[[WatchedRobot], None]:
    return lambda robot: robot.call(f"/policy_node/{service}")


RULES = (
    Rule("image", "/camera/image_raw", silence("/camera/image_raw"), silence()),
    Rule("proprioception", "/joint_states", silence("/joint_states"), silence()),
    Rule("proprioception", "/odom", silence("/odom"), silence()),
    Rule("proprioception", "not finite", setting("knee", math.nan), setting("knee", 0.0)),
    Rule("proprioception", "not finite", setting("knee", math.inf), setting("knee", 0.0)),
    Rule("policy", "not finite", setting("knee", ABSURD_RAD), setting("knee", 0.0)),
    Rule("tilt", "/imu/data", silence("/imu/data"), silence()),
    Rule("tilt", "tilted by 0.70 rad", setting("roll", 0.7), setting("roll", 0.0)),
    Rule("deadman", "/joy", setting("held", False), setting("held", True)),
    Rule("deadman", "nothing came", silence("/joy"), silence()),
    Rule("geofence", "x is 2.50 m", setting("x_m", 2.5), setting("x_m", 0.0), latches=True),
    Rule("fall", "tilted by 1.20 rad", setting("roll", 1.2), setting("roll", 0.0), latches=True),
    Rule("battery", "23.00 V", setting("voltage_v", 23.0), setting("voltage_v", 28.0), True),
    Rule(
        "temperature",
        "95.0 C",
        setting("temperature_c", 95.0),
        setting("temperature_c", 40.0),
        latches=True,
    ),
    Rule(
        "out_of_distribution",
        "surprise",
        setting("knee", STRANGE_RAD),
        setting("knee", 0.0),
        latches=True,
    ),
    Rule(
        "emergency_stop",
        "stopped by service",
        pressed("emergency_stop"),
        lambda robot: None,
        latches=True,
    ),
    *(
        [Rule("frozen_image", "/camera/image_raw", setting("still", True), setting("still", False))]
        if "frozen_image" in get_args(Cause)
        else []
    ),
)


def test_every_cause_is_provoked() -> None:
    assert {rule.cause for rule in RULES} | {"clock"} == set(get_args(Cause))


def test_every_rule_stops_the_robot_and_says_why(
    bundle: Path, robot: WatchedRobot, node_environment: dict[str, str]
) -> None:
    command = ["policy_node", "--ros-args", "-p", f"bundle:={json.dumps(str(bundle))}"]
    command += ["-p", "autostart:=true", "-p", "check_s:=0.0", "-p", "backend:=torch"]
    with NodeProcess(command, node_environment) as node:
        robot.wait(lambda: any(any(s.values) for s in robot.sent), "the robot is not driven", 60.0)
        for rule in RULES:
            if rule.cause == "out_of_distribution":
                time.sleep((WARM_UP + 3) / 5.0)  # the first steps after a reset are not judged
            stop(rule, robot)
        assert node.stop() == 0


def stop(rule: Rule, robot: WatchedRobot) -> None:
    """Provoke a rule while the robot is driven: a zero command, the reason, and the way back."""
    what, begin_ns = f"{rule.cause} ({rule.says})", time.time_ns()
    rule.provoke(robot)

    def said() -> list[int]:
        return [
            ns
            for ns, level, text in robot.said
            if ns >= begin_ns and level == 2 and f"{rule.cause}: " in text and rule.says in text
        ]

    robot.wait(said, f"{what} is not said on /diagnostics")
    detected_ns = said()[0]
    time.sleep(0.3)
    sent = [s for s in robot.sent if s.ns >= begin_ns]
    first = next((k for k, s in enumerate(sent) if not any(s.values)), None)
    assert first is not None, f"{what}: no zero command"
    # The node says so in the same breath; a tenth of a second later would be another tick.
    assert sent[first].ns - detected_ns <= PERIOD_NS, f"{what}: the zero command came late"
    after = [s.values for s in sent[first:]]
    assert len(after) > 1 and not np.any(after), f"{what}: driven again while it lasts"
    for values in (s.values for s in sent[:first]):
        assert abs(values[0]) <= 0.8 and abs(values[1]) <= 0.4 and abs(values[5]) <= 1.2
    rule.relieve(robot)
    if rule.latches:
        time.sleep(0.5)
        assert not np.any([s.values for s in robot.sent[-3:]]), f"{what}: does not latch"
        assert robot.call("/policy_node/reset_emergency_stop")[0]
    count = len(robot.sent)
    robot.wait(lambda: any(any(s.values) for s in robot.sent[count:]), f"{what}: not driven again")


def test_a_clock_that_stands_still_stops_the_robot(
    bundle: Path, watched_task: TaskConfig, node_environment: dict[str, str]
) -> None:
    fast = WatchedRobot(watched_task, speed=2.0)
    try:
        command = ["policy_node", "--ros-args", "-p", f"bundle:={json.dumps(str(bundle))}"]
        command += ["-p", "autostart:=true", "-p", "check_s:=0.0", "-p", "use_sim_time:=true"]
        with NodeProcess(command, node_environment):
            fast.wait(lambda: any(any(s.values) for s in fast.sent), "it is not driven", 60.0)
            fast.silent = set(fast.topics) | {"/joy", "/battery_state", "/motor_temperature"}
            fast.wait(
                lambda: any(level == 2 and "clock: " in text for _, level, text in fast.said),
                "diagnostics never said clock",
            )
            fast.wait(lambda: not any(fast.sent[-1].values), "the last command is not zero")
            fast.silent = set()
            count = len(fast.sent)
            fast.wait(lambda: any(any(s.values) for s in fast.sent[count:]), "not driven again")
    finally:
        fast.close()


@pytest.mark.slow
def test_the_benchmark_injects_and_counts(tmp_path: Path) -> None:
    picture = tmp_path / "faults.png"
    command = [sys.executable, "-m", "fog_bringup.cli", "benchmark", "faults", "--json"]
    command += ["--faults", "2", "--kinds", "nan_joints", "killed_policy", "--robot", "synthetic"]
    result = subprocess.run(
        ["timeout", "-k", "10", "300", *command, "--picture", str(picture)],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found = json.loads(result.stdout)
    faults = found["faults"]
    assert faults["injected"] == 2
    assert faults["commands"] > 0
    wrong = "; ".join(text for one in faults["wrong_commands"] for text in one)
    found_wrong = (faults["out_of_bounds"], faults["wrong_commands"])
    assert found_wrong == (0, []), f"on a busy machine too: {wrong}"
    assert faults["commands_unseen"] < 0.2 * faults["commands"], "too little was judged"
    assert faults["left_behind"] == 0
    assert faults["recovered"] == 2, faults["findings"]
    # Whether it was in time depends on what else this machine does.
    assert faults["safe_stops"] + faults["late"] == 2, faults["findings"]
    assert set(faults["kinds"]) == {"nan_joints", "killed_policy"}
    assert faults["kinds"]["killed_policy"]["recovered_by"] == {"start": 1}
    reasons = {one["kind"]: one["reason"] for one in found["each"]}
    assert reasons["nan_joints"].startswith("proprioception: not finite: /joint_states")
    assert reasons["killed_policy"] == "standing: no command for 0.5 s on /cmd_vel"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not found["interrupted"]
