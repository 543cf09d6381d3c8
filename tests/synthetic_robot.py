"""A robot for tests: publishes made-up sensors, and remembers commands and diagnostics.

Each stream can be switched off or spoilt while it runs. Messages are encoded by the stack's own
module, as those of a simulated robot are.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, Imu, JointState
from std_msgs.msg import Int32
from std_srvs.srv import Trigger

from fog_world_model.data import messages
from fog_world_model.task import TaskConfig

_TYPES = {
    "/joint_states": JointState,
    "/imu/data": Imu,
    "/odom": Odometry,
    "/task/episode": Int32,
    "/camera/image_raw": Image,
    "/clock": Clock,
}


class SyntheticRobot:
    """Publishes every stream of ``reach_cube`` at 20 Hz from a thread of its own.

    Args:
        task: Its joints are published.
        speed: Robot seconds per wall second on /clock; None: no /clock, stamps are wall time.
    """

    def __init__(self, task: TaskConfig, *, speed: float | None = None) -> None:
        self.silent: set[str] = set()
        """Topics that are not published."""
        self.damaged: set[str] = set()
        """Topics of which only the first half of each message is published."""
        self.knee = 0.0
        """Position of every joint, rad."""
        self.roll = 0.0
        """Of the IMU's orientation, rad."""
        self.brightness = 0
        """Of every pixel of the picture."""
        self.episode = 0
        self.ahead_s = 0.0
        """Added to simulated time; to change it is a jump of the clock and of all stamps."""
        self.commands: list[tuple[float, float]] = []
        """Wall time and linear.x of every command that arrived."""
        self.diagnostics: list[tuple[int, str, dict[str, str]]] = []
        """Level, message and values of every status of the policy node."""
        self.diagnosed: set[str] = set()
        """Names of all nodes that published diagnostics."""
        self.topics = tuple(_TYPES)
        self._joints = [
            f.partition(".")[2]
            for stream in task.proprioception
            if stream.topic == "/joint_states"
            for f in stream.fields
        ]
        self._speed, self._begin = speed, time.monotonic()
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("synthetic_robot", context=self._context)
        self._publishers = {
            topic: self.node.create_publisher(kind, topic, qos_profile_sensor_data)
            for topic, kind in _TYPES.items()
        }
        self.node.create_subscription(Twist, "/cmd_vel", self._on_command, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._spin),
            threading.Thread(target=self._publish_forever),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        self._closing.set()
        for thread in self._threads:
            thread.join(10)
        self.node.destroy_node()
        self._context.try_shutdown()

    def call(self, service: str, timeout_s: float = 30.0) -> tuple[bool, str]:
        """Call a Trigger service."""
        response = self.request(Trigger, service, Trigger.Request(), timeout_s)
        return bool(response.success), str(response.message)

    def change_state(self, transition: str, timeout_s: float = 60.0) -> bool:
        """Ask the policy node for a lifecycle transition, by its label."""
        request = ChangeState.Request()
        request.transition.label = transition
        response = self.request(ChangeState, "/policy_node/change_state", request, timeout_s)
        return bool(response.success)

    def state(self, timeout_s: float = 30.0) -> str:
        """Label of the policy node's lifecycle state."""
        request = GetState.Request()
        response = self.request(GetState, "/policy_node/get_state", request, timeout_s)
        return str(response.current_state.label)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: It does not in time; the message shows the newest diagnostics.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            newest = self.diagnostics[-1][1] if self.diagnostics else "none"
            assert time.monotonic() < deadline, f"{what}; newest diagnostics: {newest}"
            time.sleep(0.02)

    def wait_until_driving(self) -> None:
        """Wait for a command that is not zero."""
        before = len(self.commands)
        self.wait(lambda: any(x != 0 for _, x in self.commands[before:]), "the robot is not driven")

    def wait_for_stop(self, cause: str) -> str:
        """Wait for zero commands and the cause on /diagnostics.

        Returns:
            The message of the diagnostics.
        """
        before = len(self.diagnostics)
        self.wait(
            lambda: any(
                level == 2 and f"{cause}: " in text for level, text, _ in self.diagnostics[before:]
            ),
            f"diagnostics never said {cause}",
        )
        first = len(self.commands)
        self.wait(lambda: len(self.commands) > first + 1, "no more commands")
        assert [x for _, x in self.commands[first:]] == [0.0] * len(self.commands[first:])
        return next(t for level, t, _ in self.diagnostics[before:] if f"{cause}: " in t)

    def request(self, kind: Any, service: str, request: Any, timeout_s: float) -> Any:
        """Call any service and wait for its answer."""
        client = self.node.create_client(kind, service)
        try:
            assert client.wait_for_service(timeout_s), f"{service} is not there"
            future = client.call_async(request)
            self.wait(future.done, f"{service} does not answer", timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def _publish_forever(self) -> None:
        period_s = 0.05 if self._speed is None else 0.05 / self._speed
        while not self._closing.wait(period_s):
            for topic, data in self._messages().items():
                if topic not in self.silent:
                    half = len(data) // 2 if topic in self.damaged else len(data)
                    self._publishers[topic].publish(data[:half])

    def _messages(self) -> dict[str, bytes]:
        if self._speed is None:
            now_ns = time.time_ns()
        else:
            passed_s = (time.monotonic() - self._begin) * self._speed + self.ahead_s
            now_ns = 10**9 + round(passed_s * 1e9)
        header = messages.header(now_ns, "base")
        count = len(self._joints)
        found = [
            ("/clock", "rosgraph_msgs/msg/Clock", {"clock": messages.stamp(now_ns)}),
            (
                "/joint_states",
                "sensor_msgs/msg/JointState",
                {
                    "header": header,
                    "name": self._joints,
                    "position": np.full(count, self.knee),
                    "velocity": np.zeros(count),
                    "effort": np.zeros(count),
                },
            ),
            (
                "/imu/data",
                "sensor_msgs/msg/Imu",
                {
                    "header": header,
                    "orientation": messages.make(
                        "geometry_msgs/msg/Quaternion",
                        x=math.sin(self.roll / 2),
                        w=math.cos(self.roll / 2),
                    ),
                },
            ),
            ("/odom", "nav_msgs/msg/Odometry", {"header": header}),
            ("/task/episode", "std_msgs/msg/Int32", {"data": self.episode}),
            (
                "/camera/image_raw",
                "sensor_msgs/msg/Image",
                {
                    "header": header,
                    "height": 48,
                    "width": 64,
                    "encoding": "bgr8",
                    "step": 192,
                    "data": np.full(48 * 192, self.brightness, np.uint8),
                },
            ),
        ]
        if self._speed is None:
            found = found[1:]
        return {
            topic: messages.serialise(messages.make(typename, **fields))
            for topic, typename, fields in found
        }

    def _on_command(self, message: Twist) -> None:
        self.commands.append((time.monotonic(), message.linear.x))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnosed.add(status.hardware_id)
            if status.name == "policy_node: control":
                values = {entry.key: entry.value for entry in status.values}
                self.diagnostics.append((status.level[0], status.message, values))
