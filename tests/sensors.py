"""For tests of the recorder: sensors that publish when told to, and what lies in the bags."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from processes import NodeProcess
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from fog_bringup.base_node import message_class
from fog_bringup.live_scene import stamp_of
from fog_world_model.data import messages
from fog_world_model.data.bag_reader import BagReader

CAMERA, JOINTS, INFO = "/camera/image_raw", "/joint_states", "/camera/camera_info"
IMAGE, JOINT_STATE = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"

RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def picture(stamp_ns: int, width: int = 64, height: int = 48, level: int = 100) -> bytes:
    """A serialised rgb8 image, a gradient."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, level)], axis=2)
    return messages.serialise(
        messages.make(
            IMAGE,
            header=messages.header(stamp_ns, "camera"),
            height=height,
            width=width,
            encoding="rgb8",
            step=3 * width,
            data=pixels.astype(np.uint8).reshape(-1),
        )
    )


def joints(stamp_ns: int) -> bytes:
    """A serialised state of one joint."""
    return messages.serialise(
        messages.make(
            JOINT_STATE,
            header=messages.header(stamp_ns, "base"),
            name=["knee"],
            position=np.zeros(1),
            velocity=np.zeros(1),
            effort=np.zeros(1),
        )
    )


class Sensors:
    """A node of this process with publishers, service calls and the recorder's diagnostics."""

    def __init__(self, domain: int) -> None:
        self.sent: dict[str, list[int]] = {}
        """Topic -> stamps of what was published."""
        self.diagnostics: dict[str, tuple[int, str, dict[str, str]]] = {}
        """Part of the recorder -> level, message and values, as of the newest report."""
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = rclpy.create_node("sensors", context=self._context)
        self.publishers: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._closing.set()
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()

    def offer(
        self, topic: str, typename: str, qos: QoSProfile = RELIABLE, *, match: bool = True
    ) -> None:
        """Publish a topic, in place of the publisher that it had, and wait for the recorder."""
        if topic in self.publishers:
            self.node.destroy_publisher(self.publishers.pop(topic))
        publisher = self.node.create_publisher(message_class(typename), topic, qos)
        self.publishers[topic] = publisher
        if match:
            wait_until(lambda: publisher.get_subscription_count() > 0, f"the recorder's {topic}")

    def send(self, topic: str, data: bytes, stamp_ns: int = 0) -> None:
        """Publish a message."""
        self.sent.setdefault(topic, []).append(stamp_ns)
        self.publishers[topic].publish(data)

    def stream(
        self,
        count: int,
        *,
        hz: float = 50.0,
        shift_ns: int = 0,
        skip: set[int] | frozenset[int] = frozenset(),
        **image: int,
    ) -> None:
        """Send pictures, and twice as many joint states, at an exact rate.

        Args:
            count: Pictures.
            hz: Pictures per second.
            shift_ns: Added to the stamps.
            skip: Pictures that are not sent.
            **image: Arguments of :func:`picture`.
        """
        begin, begin_ns = time.monotonic(), time.time_ns() + shift_ns
        for k in range(2 * count):
            time.sleep(max(0.0, begin + k / (2 * hz) - time.monotonic()))
            stamp_ns = begin_ns + round(k / (2 * hz) * 1e9)
            if CAMERA in self.publishers and k % 2 == 0 and k // 2 not in skip:
                self.send(CAMERA, picture(stamp_ns, **image), stamp_ns)
            if JOINTS in self.publishers:
                self.send(JOINTS, joints(stamp_ns), stamp_ns)
        time.sleep(0.2)  # on their way

    def call(self, name: str, recorder: str = "recorder_node") -> tuple[bool, str]:
        """Call a service of the recorder."""
        answer = self._call(Trigger, f"/{recorder}/{name}", Trigger.Request())
        return bool(answer.success), str(answer.message)

    def set(self, name: str, value: str | int) -> None:
        """Change a parameter of the recorder."""
        kind, field = (
            (ParameterType.PARAMETER_STRING, "string_value")
            if isinstance(value, str)
            else (ParameterType.PARAMETER_INTEGER, "integer_value")
        )
        parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
        request = SetParameters.Request(parameters=[parameter])
        answer = self._call(SetParameters, "/recorder_node/set_parameters", request)
        assert answer.results[0].successful, answer.results[0].reason

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(timeout_sec=20.0), f"{service} is not offered"
        future = client.call_async(request)
        wait_until(future.done, f"an answer from {service}")
        self.node.destroy_client(client)
        return future.result()

    def _on_diagnostics(self, report: DiagnosticArray) -> None:
        for status in report.status:
            name, _, part = status.name.partition(": ")
            if name == "recorder_node":
                values = {entry.key: entry.value for entry in status.values}
                self.diagnostics[part] = (status.level[0], status.message, values)

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.05)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: It does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.02)


def recorder(
    env: Mapping[str, str], output: Path, *remappings: str, **parameters: Any
) -> NodeProcess:
    """Start a recorder of the task reach_cube, with remappings ``FROM:=TO``."""
    command = [sys.executable, "-m", "fog_bringup.recorder_node", "--ros-args"]
    command += [part for rule in remappings for part in ("-r", rule)]
    given = {"min_free_mb": 1, **parameters, "output": str(output)}
    for key, value in given.items():
        command += ["-p", f"{key}:={json.dumps(value)}"]
    return NodeProcess(command, env, limit_s=120)


class Bag:
    """What lies in a closed bag."""

    def __init__(self, path: str | Path) -> None:
        self.messages: dict[str, list[tuple[int, bytes]]] = {}
        with BagReader(path) as reader:
            self.types = reader.topics
            custom = reader.custom
            for message in reader.messages():
                found = self.messages.setdefault(message.topic, [])
                found.append((message.log_ns, message.data))
        self.account = json.loads(custom.get("fog_account", "{}"))
        self.warnings = " | ".join(json.loads(custom.get("fog_warnings", "[]")))
        self.episode = json.loads(custom.get("fog_episode", "{}"))

    def stamps(self, topic: str) -> list[int]:
        """Header stamps in the order of the bag."""
        return [stamp_of(data) for _, data in self.messages.get(topic, [])]
