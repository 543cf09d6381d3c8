"""The bridge's node with messages of Unitree's shape: real topics on our side, stand-ins on theirs.

unitree_go and unitree_api have no wheel. The node is started with modules of these names whose
types are standard ones, so that it can subscribe; LowState and the others are then handed to its
callbacks, and what it would send to the robot is written to its output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import Twist
from processes import NodeProcess
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, Imu, JointState

from fog_bringup.go2_conversions import JOINTS

NODE = """
import sys, types
from types import SimpleNamespace as Space
import cv2, numpy as np
from fog_world_model.ros_environment import prepare
prepare()
from std_msgs.msg import String
go, api = types.ModuleType("unitree_go.msg"), types.ModuleType("unitree_api.msg")
go.LowState = go.SportModeState = go.Go2FrontVideoData = api.Request = String
for name, module in (("unitree_go", go), ("unitree_api", api)):
    package = types.ModuleType(name)
    package.msg = module
    sys.modules[name], sys.modules[name + ".msg"] = package, module
from fog_bringup import go2_bridge_node

imu = Space(quaternion=[1.0, 0, 0, 0], gyroscope=[0.0, 0, 0.5], accelerometer=[0.0, 0, 9.8])
low = Space(
    motor_state=[Space(q=i, dq=0.0, tau_est=0.0, temperature=40) for i in range(20)],
    imu_state=imu, power_v=29.5, bms_state=Space(soc=80),
)
sport = Space(position=[1, 2, 3], velocity=[0.1, 0, 0], yaw_speed=0.0, imu_state=imu)
picture = cv2.imencode(".jpg", np.full((360, 640, 3), 90, np.uint8))[1].tobytes()
video = Space(video360p=picture)

class Requests:
    def publish(self, message):
        print("SENT", message.header.identity.api_id, message.parameter, flush=True)

class Node(go2_bridge_node.Go2BridgeNode):
    def __init__(self):
        super().__init__()
        self._requests = Requests()
        self._request_class = lambda: Space(header=Space(identity=Space()))
        self.every(0.05, self.feed)

    def feed(self):
        self._on_low_state(low)
        self._on_sport_state(sport)
        self._on_video(video)

sys.exit(go2_bridge_node.run(Node, sys.argv))
"""


class Operator:
    """Commands the robot and remembers the newest message of every sensor."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("operator", context=self._context)
        self._commands = self._node.create_publisher(Twist, "/cmd_vel", 1)
        types = {
            "/joint_states": JointState,
            "/imu/data": Imu,
            "/camera/image_raw": Image,
            "/camera/camera_info": CameraInfo,
        }
        for topic, kind in types.items():
            self._node.create_subscription(
                kind,
                topic,
                lambda message, topic=topic: self.seen.update({topic: message}),
                qos_profile_sensor_data,
            )
        self.topics = set(types)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def walk(self, vx: float, *, until: str, node: NodeProcess) -> None:
        """Publish at 20 Hz until the node's output has a text."""
        deadline = time.monotonic() + 30.0
        while until not in node.output():
            assert time.monotonic() < deadline, node.output()
            self.walk_once(vx)
            time.sleep(0.05)

    def walk_once(self, vx: float) -> None:
        message = Twist()
        message.linear.x = vx
        self._commands.publish(message)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def operator() -> Iterator[Operator]:
    found = Operator()
    yield found
    found.close()


def test_a_robot_behind_the_bridge(operator: Operator, node_environment: dict[str, str]) -> None:
    with NodeProcess([sys.executable, "-c", NODE, "--ros-args"], node_environment) as node:
        node.wait_for("waiting for the robot")
        operator.walk(0.3, until="SENT 1008", node=node)
        deadline = time.monotonic() + 30.0
        while set(operator.seen) != operator.topics:
            assert time.monotonic() < deadline, set(operator.seen)
            time.sleep(0.05)
        # The operator has stopped talking meanwhile.
        node.wait_for("/cmd_vel is silent: the robot is stopped")
        node.wait_for("(SENT 1003 \\n(.*\\n)*){3}")
        sent = [line.split(" ", 2) for line in node.output().splitlines() if "SENT" in line]
        assert json.loads(sent[0][2]) == {"x": 0.3, "y": 0.0, "z": 0.0}
        # A robot that walks when the bridge is ended is stopped by it.
        before = node.output().count("SENT 1003")
        deadline = time.monotonic() + 20.0
        walking = node.output().count("SENT 1008")
        while node.output().count("SENT 1008") == walking:
            assert time.monotonic() < deadline
            operator.walk_once(0.3)
            time.sleep(0.02)
        assert node.stop() == 0
        assert node.output().count("SENT 1003") > before
    joints = dict(zip(operator.seen["/joint_states"].name, range(12), strict=True))
    assert tuple(joints) == JOINTS
    assert operator.seen["/joint_states"].position[joints["FR_calf_joint"]] == 2.0
    assert operator.seen["/imu/data"].linear_acceleration.z == pytest.approx(9.8)
    image, info = operator.seen["/camera/image_raw"], operator.seen["/camera/camera_info"]
    assert (image.height, image.width, image.encoding) == (360, 640, "rgb8")
    assert (info.height, info.width) == (360, 640)
    assert info.header.frame_id == image.header.frame_id == "camera_optical_frame"
