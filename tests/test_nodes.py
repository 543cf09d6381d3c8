"""robot_node, recorder_node and driver_node as processes, over real topics."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from processes import NodeProcess, ros_environment
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, Joy
from std_msgs.msg import Int32
from std_srvs.srv import SetBool, Trigger

from fog_bringup import driver_node, recorder_node, robot_node
from fog_bringup.closed_loop import free_domain_id
from fog_bringup.live_scene import stamp_of
from fog_world_model.data.import_bags import import_bags
from fog_world_model.task import TaskConfig

Environment = dict[str, str]


def node(name: str, env: Environment, *, limit_s: float = 90.0, **parameters: Any) -> NodeProcess:
    """Start one of our nodes."""
    command = [sys.executable, "-m", f"fog_bringup.{name}", "--ros-args"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={json.dumps(value)}"]
    return NodeProcess(command, env, limit_s=limit_s)


class Bystander:
    """A node of this process with an executor thread, in a ROS domain of its own choice."""

    def __init__(self, domain: int) -> None:
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = rclpy.create_node("bystander", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def collect(self, kind: Any, topic: str, *, raw: bool = False) -> list[Any]:
        """Subscribe; the list grows with every message."""
        found: list[Any] = []
        self.node.create_subscription(kind, topic, found.append, qos_profile_sensor_data, raw=raw)
        return found

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service and return its answer."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(timeout_sec=20.0), f"{service} is not offered"
        future = client.call_async(request)
        wait_until(future.done, f"an answer from {service}")
        return future.result()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.02)


def crowding() -> float:
    """By how much other work slows this machine down, at least 1: wall-clock bounds give way."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def robot(env: Environment) -> Iterator[NodeProcess]:
    """A robot in real time that all tests share; each resets it."""
    with node("robot_node", env, seed=7, limit_s=150) as process:
        process.wait_for("runs task reach_cube", 40)
        yield process


@pytest.fixture
def bystander(domain: int) -> Iterator[Bystander]:
    made = Bystander(domain)
    yield made
    made.close()


def read_bag(path: Path) -> dict[str, list[tuple[int, bytes, Any]]]:
    """Topic -> (log time, bytes, message), read by rosbags alone."""
    found: dict[str, list[tuple[int, bytes, Any]]] = {}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
        for connection, log_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((log_ns, bytes(data), message))
    return found


def recorded_so_far(reports: list[Any], topic: str) -> int:
    """Messages of a topic in the bag, as the recorder's newest diagnostics tell."""
    for report in reversed(reports):
        for status in report.status:
            for entry in status.values:
                if status.name == "recorder_node: bag" and entry.key == topic:
                    return int(entry.value.split()[0])
    return 0


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def test_recording_holds_every_message_as_it_was_sent(
    robot: NodeProcess, bystander: Bystander, env: Environment, task: TaskConfig, tmp_path: Path
) -> None:
    pictures = bystander.collect(Image, "/camera/image_raw", raw=True)
    wait_until(lambda: len(pictures) > 0, "a picture")
    with (
        node(
            "recorder_node", env, output=str(tmp_path), extra_topics=["/clock"], use_sim_time=True
        ) as recorder,
        node("driver_node", env, use_sim_time=True) as driver,
    ):
        started = bystander.call(Trigger, "/recorder_node/start", Trigger.Request())
        assert started.success
        again = bystander.call(Trigger, "/recorder_node/start", Trigger.Request())
        assert not again.success
        reports = bystander.collect(DiagnosticArray, "/diagnostics")
        wait_until(
            lambda: all(
                recorded_so_far(reports, topic) >= 20 for topic in ("/cmd_vel", "/camera/image_raw")
            ),
            "20 pictures and 20 commands in the bag",
            30,
        )
        stopped = bystander.call(Trigger, "/recorder_node/stop", Trigger.Request())
        assert stopped.success
        assert stopped.message == started.message
        assert recorder.stop() == 0
        assert driver.stop() == 0
    bag = Path(stopped.message)
    assert bag == tmp_path / "reach_cube_000"
    assert not list(tmp_path.glob("*.part"))
    recorded = read_bag(bag)
    assert set(recorded) == {*task.topics(), "/clock"}

    images = recorded["/camera/image_raw"]
    stamps = [stamp_ns(m) for _, _, m in images]
    assert len(stamps) >= 20
    seen = {stamp_of(data): hashlib.sha256(data).digest() for data in map(bytes, pictures)}
    both = {stamp_ns(m): hashlib.sha256(data).digest() for _, data, m in images}
    both = {stamp: digest for stamp, digest in both.items() if stamp in seen}
    assert len(both) > 0.8 * len(stamps), "both subscribers heard nearly everything"
    assert all(seen[stamp] == digest for stamp, digest in both.items())
    assert set(np.diff(stamps)) == {100_000_000}, "10 Hz without a gap"
    assert {(m.height, m.width, m.encoding, len(m.data)) for _, _, m in images} == {
        (96, 96, "rgb8", 96 * 96 * 3)
    }
    for topic in ("/joint_states", "/imu/data", "/odom"):
        gaps = np.diff([stamp_ns(m) for _, _, m in recorded[topic]])
        assert set(gaps) == {20_000_000}, f"{topic} at 50 Hz without a gap"

    clock = [m.clock.sec * 10**9 + m.clock.nanosec for _, _, m in recorded["/clock"]]
    assert all(before < after for before, after in itertools.pairwise(clock))
    log = [log_ns for messages in recorded.values() for log_ns, *_ in messages]
    assert clock[0] - 10**9 < min(log) <= max(log) < clock[-1] + 10**9, "logged in robot time"

    # Every command answers a picture on the control grid: five a second, soon after it.
    arrivals = np.array([log_ns for log_ns, *_ in images])
    answers = [log_ns for log_ns, *_ in recorded["/cmd_vel"]][1:-1]
    assert abs(np.median(np.diff(answers)) - task.period_ns) <= 20_000_000
    delays = [log_ns - arrivals[arrivals <= log_ns].max() for log_ns in answers]
    assert np.median(delays) <= 40_000_000
    for field, low, high in zip(task.action.fields, task.action.low, task.action.high, strict=True):
        values = [_at(m, field) for _, _, m in recorded["/cmd_vel"]]
        assert low - 1e-6 <= min(values) <= max(values) <= high + 1e-6

    store = import_bags([bag], task, tmp_path / "episodes")
    assert store.transitions >= 0.7 * len(answers), "nothing is lost between the first commands"


def _at(message: Any, path: str) -> float:
    for part in path.split("."):
        message = getattr(message, part)
    return float(message)


def test_commands_move_the_robot_until_they_time_out(
    robot: NodeProcess, bystander: Bystander
) -> None:
    odometry = bystander.collect(Odometry, "/odom")
    publisher = bystander.node.create_publisher(Twist, "/cmd_vel", 1)
    bystander.call(Trigger, "/robot_node/reset", Trigger.Request())
    wait_until(lambda: publisher.get_subscription_count() > 0, "the robot's subscription")
    odometry.clear()
    command = Twist()
    command.angular.z = 1.0
    for _ in range(20):
        publisher.publish(command)
        time.sleep(0.1)
    turning = [o.twist.twist.angular.z for o in odometry[-25:]]
    assert np.mean(turning) > 0.5, "about 1 rad/s to the left"
    command.angular.z = math.nan  # ignored, so that the old one times out
    publisher.publish(command)
    robot.wait_for("not finite is ignored")
    wait_until(
        lambda: abs(np.mean([o.twist.twist.angular.z for o in odometry[-50:]])) < 0.1,
        "the robot to stop turning",
    )


def test_reset_begins_an_episode_from_the_next_seed(
    robot: NodeProcess, bystander: Bystander
) -> None:
    markers = bystander.collect(Int32, "/task/episode")
    odometry = bystander.collect(Odometry, "/odom")
    wait_until(lambda: len(markers) > 0, "an episode marker")

    def reset() -> tuple[dict[str, int], tuple[float, float]]:
        answer = bystander.call(Trigger, "/robot_node/reset", Trigger.Request())
        assert answer.success
        episode = json.loads(answer.message)
        wait_until(lambda: markers[-1].data == episode["episode"], "the new marker")
        wait_until(lambda: stamp_ns(odometry[-1]) >= episode["stamp_ns"], "the first odometry")
        first = next(o for o in odometry if stamp_ns(o) >= episode["stamp_ns"])
        return episode, (first.pose.pose.position.x, first.pose.pose.position.y)

    first, somewhere = reset()
    second, elsewhere = reset()
    assert second["seed"] == first["seed"] + 1
    assert second["episode"] == first["episode"] + 1
    assert math.dist(somewhere, elsewhere) > 0.1
    set_seed(bystander, first["seed"])
    third, back = reset()
    assert third["seed"] == first["seed"]
    assert math.dist(somewhere, back) < 0.02
    stamps = [stamp_ns(o) for o in odometry]
    assert stamps == sorted(stamps), "time does not run back over a reset"


def set_seed(bystander: Bystander, seed: int) -> None:
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import SetParameters

    value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
    request = SetParameters.Request(parameters=[Parameter(name="seed", value=value)])
    answer = bystander.call(SetParameters, "/robot_node/set_parameters", request)
    assert answer.results[0].successful


def test_pause_stops_the_robot_s_time(robot: NodeProcess, bystander: Bystander) -> None:
    clock = bystander.collect(Clock, "/clock")
    wait_until(lambda: len(clock) > 0, "/clock")
    bystander.call(SetBool, "/robot_node/pause", SetBool.Request(data=True))
    time.sleep(0.1)
    count = len(clock)
    time.sleep(0.4)
    assert len(clock) == count
    bystander.call(SetBool, "/robot_node/pause", SetBool.Request(data=False))
    wait_until(lambda: len(clock) > count + 5, "/clock to go on")
    seconds = [c.clock.sec + c.clock.nanosec * 1e-9 for c in clock[count - 1 : count + 2]]
    assert max(np.diff(seconds)) < 0.1, "time does not jump over the pause"


def test_a_joystick_drives_while_its_button_is_held(
    robot: NodeProcess, bystander: Bystander, env: Environment
) -> None:
    joystick = bystander.node.create_publisher(Joy, "/joy", 1)
    commands = bystander.collect(Twist, "/cmd_vel")
    held = [0, 0, 0, 0, 1]

    def hold(axes: list[float], buttons: list[int], seconds: float) -> None:
        for _ in range(int(seconds / 0.05)):
            joystick.publish(Joy(axes=axes, buttons=buttons))
            time.sleep(0.05)

    with node("driver_node", env, mode="joy", use_sim_time=True):
        wait_until(lambda: len(commands) > 0, "a command")
        hold([0.5, 1.0, 0.0, -1.0], held, 1.0)
        newest = commands[-1]
        assert (newest.linear.x, newest.linear.y, newest.angular.z) == pytest.approx(
            (0.8, 0.2, -1.2)
        )
        hold([0.5, 1.0, 0.0, -1.0], [0] * 5, 0.6)
        assert commands[-1] == Twist(), "the button was let go"
        hold([0.5, 1.0, 0.0, -1.0], held, 0.6)
        assert commands[-1] != Twist()
        time.sleep(1.2)
        assert commands[-1] == Twist(), "the joystick has fallen silent"


def test_speed_4_runs_at_least_twice_as_fast_as_the_wall_clock() -> None:
    domain = free_domain_id()
    env = ros_environment(ROS_DOMAIN_ID=str(domain))
    bystander = Bystander(domain)
    try:
        with node("robot_node", env, speed=4) as process:
            clock = bystander.collect(Clock, "/clock")
            wait_until(lambda: len(clock) > 0, "/clock", 40)
            time.sleep(1.0)
            before, begin = clock[-1].clock, time.monotonic()
            time.sleep(3.0)
            after, elapsed = clock[-1].clock, time.monotonic() - begin
            passed = after.sec - before.sec + (after.nanosec - before.nanosec) * 1e-9
            assert 2 / crowding() < passed / elapsed < 4.4
            assert process.stop() == 0
    finally:
        bystander.close()


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_every_node_within_two_seconds(which: signal.Signals, tmp_path: Path) -> None:
    env = ros_environment(ROS_DOMAIN_ID=str(free_domain_id()))
    with (
        node("robot_node", env, speed=2) as robot,
        node("recorder_node", env, output=str(tmp_path), start=True) as recorder,
        node("driver_node", env) as driver,
    ):
        robot.wait_for("runs task", 40)
        recorder.wait_for("recording")
        driver.wait_for("drives task reach_cube")
        time.sleep(1.0)
        for process in (recorder, driver, robot):
            begin = time.monotonic()
            # Under a launcher Ctrl-C comes from the terminal and from it, the second at any moment.
            while process.running() and time.monotonic() - begin < 20.0:
                with contextlib.suppress(ProcessLookupError):
                    process.send(which)
                time.sleep(0.03)
            assert process.wait(1.0) == 0, process.output()
            assert time.monotonic() - begin < 2.0 * crowding()
            assert "Traceback" not in process.output()
    assert read_bag(tmp_path / "reach_cube_000")["/camera/image_raw"], "the bag was closed"


def test_a_full_disk_ends_the_recorder_with_a_clear_error(tmp_path: Path) -> None:
    env = ros_environment(ROS_DOMAIN_ID=str(free_domain_id()))
    command = f"""ulimit -f 300 && exec {sys.executable} -m fog_bringup.recorder_node --ros-args \
        -p start:=true -p output:={tmp_path}"""
    with (
        NodeProcess(["/bin/bash", "-c", command], env, limit_s=60) as recorder,
        node("robot_node", env, speed=8),
    ):
        assert recorder.wait(50.0) == 2
        assert "reach_cube_000: cannot be written (File too large)" in recorder.output()
        assert "Traceback" not in recorder.output()
    assert not (tmp_path / "reach_cube_000").exists(), "no half bag under its final name"
    assert (tmp_path / "reach_cube_000.part").exists(), "but what came through is kept"


def test_a_missing_task_gives_status_2(env: Environment) -> None:
    with node("robot_node", env, limit_s=40, task="/nowhere/task.yaml") as process:
        assert process.wait(30.0) == 2
        assert "/nowhere/task.yaml" in process.output()
        assert "Traceback" not in process.output()


@pytest.mark.parametrize(
    ("main", "parameters", "expected"),
    [
        (recorder_node.main, ["task:=/nowhere/task.yaml"], "/nowhere/task.yaml"),
        (driver_node.main, ["task:=/nowhere/task.yaml"], "/nowhere/task.yaml"),
        (robot_node.main, ["speeed:=2.0"], "unknown parameter speeed; known are"),
        (robot_node.main, ["speed:=-1.0"], "parameter speed"),
        (robot_node.main, ["publish_clock:=false", "speed:=2"], "speed must be"),
        (robot_node.main, ["publish_clock"], "ROS does not start"),
        (recorder_node.main, ["start:=maybe"], "parameter start must be of type bool"),
        (
            driver_node.main,
            ["mode:=autopilot"],
            "mode must be one of explore, reference, joy, keyboard",
        ),
        (driver_node.main, ["axes:=[0, 1]"], "axes needs 3 entries"),
        (driver_node.main, ["mode:=keyboard"], "needs a terminal"),
    ],
)
def test_bad_input_gives_status_2_and_names_it(
    main: Callable[[list[str]], int],
    parameters: list[str],
    expected: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags = [item for parameter in parameters for item in ("-p", parameter)]
    assert main(["--ros-args", *flags]) == 2
    assert expected in capfd.readouterr().err
