"""A simulated clock that jumps, as with a bag that starts over: real processes, real topics."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from nav_msgs.msg import Odometry
from processes import NodeProcess
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from synthetic_robot import SyntheticRobot
from toy_bundle import write_toy_bundle

from fog_world_model.task import TaskConfig

LONG_S = 240.0
"""How long a busy machine may take to load PyTorch, or to find a new process."""
SENSORS = {"/camera/image_raw", "/joint_states", "/imu/data", "/odom"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, task: TaskConfig) -> Path:
    """A policy that always answers the same."""
    return write_toy_bundle(task, tmp_path_factory.mktemp("policy") / "bundle", (0.5, -0.5, 0.25))


@pytest.fixture
def robot(task: TaskConfig) -> Iterator[SyntheticRobot]:
    """Sensors on topics with a /clock, which begins at 1000 s."""
    synthetic = SyntheticRobot(task, speed=1.0)
    synthetic.ahead_s = 1000.0
    yield synthetic
    synthetic.close()


def command(**values: object) -> list[str]:
    """Of a policy node in simulated time."""
    given = {
        "check_s": 0.1, "backend": "torch", "diagnostics_period_s": 0.2, "autostart": True,
        "use_sim_time": True, **values,
    }  # fmt: skip
    arguments = [a for k, v in given.items() for a in ("-p", f"{k}:={json.dumps(v)}")]
    return ["policy_node", "--ros-args", *arguments]


@pytest.mark.parametrize("hold", ["off", "on"])
def test_the_policy_node_stops_and_goes_on_by_itself(
    hold: str,
    bundle: Path,
    robot: SyntheticRobot,
    node_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    start = command(bundle=str(bundle), hold=hold, report_path=str(report))
    with NodeProcess(start, node_environment, limit_s=4 * LONG_S) as node:
        node.wait_for("driving", LONG_S)
        robot.wait_until_driving()

        # Back by less than the 10 s from which on a message from the future is refused anyway; what
        # was sent before the jump and comes after it must not pass for the newest.
        relics = {t: d for t, d in robot._messages().items() if t in SENSORS}
        said, sent = len(robot.diagnostics), len(robot.commands)
        robot.ahead_s -= 9.0

        def jumped() -> list[str]:
            return [t for _, t, _ in robot.diagnostics[said:] if "jumped back" in t]

        robot.wait(jumped, "diagnostics never said that the clock jumped back", LONG_S)
        for topic, data in relics.items():
            robot._publishers[topic].publish(data)
        assert "clock: the node's time has jumped back by 8.9" in jumped()[0] or (
            "clock: the node's time has jumped back by 9.0" in jumped()[0]
        )
        robot.wait(lambda: any(x == 0.0 for _, x in robot.commands[sent:]), "no zero command")
        robot.wait_until_driving()

        # Ahead, with all sensors.
        robot.ahead_s += 100.0
        time.sleep(1.0)
        robot.wait_until_driving()

        # Ahead, and the sensors do not follow: what is known is old by then.
        robot.silent = set(SENSORS)
        robot.ahead_s += 100.0
        assert "/camera/image_raw is 1" in robot.wait_for_stop("image")
        robot.silent = set()
        robot.wait_until_driving()
        assert robot.state() == "active"
        assert node.stop(grace_s=60.0) == 0
    content = json.loads(report.read_text())
    assert content["stops"]["clock"]["events"] == 1
    assert content["resets"] >= 4, "on activation, and after every jump"


class Timekeeper:
    """Publishes /clock, and remembers the stamps of what a robot publishes."""

    def __init__(self) -> None:
        self.now_ns = 50 * 10**9
        self.stamps_ns: list[int] = []
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("timekeeper", context=self._context)
        self._clock = self._node.create_publisher(Clock, "/clock", 10)
        self._node.create_subscription(
            Odometry, "/odom", self._on_odometry, qos_profile_sensor_data
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10)
        self._node.destroy_node()
        self._context.try_shutdown()

    def agrees(self, within_s: float) -> bool:
        """Whether the newest stamp is close to the time."""
        return bool(self.stamps_ns) and abs(self.stamps_ns[-1] - self.now_ns) < within_s * 1e9

    def _run(self) -> None:
        before = time.monotonic()
        while not self._closing.is_set():
            now = time.monotonic()
            self.now_ns += round((now - before) * 1e9)
            before = now
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(self.now_ns, 10**9)
            self._clock.publish(message)
            self._executor.spin_once(timeout_sec=0.02)

    def _on_odometry(self, message: Odometry) -> None:
        stamp = message.header.stamp
        self.stamps_ns.append(stamp.sec * 10**9 + stamp.nanosec)


def test_the_robot_node_stamps_by_a_clock_that_jumps(
    task: TaskConfig, node_environment: dict[str, str], tmp_path: Path
) -> None:
    """It steps at its own pace; a /clock of somebody else's says what its stamps are."""
    path = tmp_path / "task.yaml"
    dataclasses.replace(task, robot="synthetic").save(path)
    values = {"task": str(path), "publish_clock": False, "use_sim_time": True}
    arguments = [a for k, v in values.items() for a in ("-p", f"{k}:={json.dumps(v)}")]
    keeper = Timekeeper()
    try:
        with NodeProcess(["robot_node", "--ros-args", *arguments], node_environment) as node:
            node.wait_for("commands on", LONG_S)
            for jump_s in (0, -40, 300):
                keeper.now_ns += jump_s * 10**9
                keeper.stamps_ns.clear()
                deadline = time.monotonic() + LONG_S
                while not keeper.agrees(5.0):
                    assert time.monotonic() < deadline, (jump_s, keeper.stamps_ns[-3:])
                    time.sleep(0.05)
            assert node.stop() == 0
    finally:
        keeper.close()
