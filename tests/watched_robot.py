"""The synthetic robot with all that a safety rule can watch, and exact times of what it hears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState, Joy, Temperature
from synthetic_robot import SyntheticRobot

from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

_EXTRA = {"/joy": Joy, "/battery_state": BatteryState, "/motor_temperature": Temperature}


def with_every_rule(task: TaskConfig) -> TaskConfig:
    """The task, with a dead-man's switch, a temperature, a battery and a geofence beside it."""
    content = task.to_dict()
    content["safety"].update(
        deadman_topic="/joy",
        temperature={
            "topic": "/motor_temperature",
            "type": "sensor_msgs/msg/Temperature",
            "fields": ["temperature"],
            "max_c": 80.0,
        },
        battery={"topic": "/battery_state", "min_v": 24.0},
        geofence={"topic": "/odom", "x_m": [-2.0, 2.0], "y_m": [-2.0, 2.0]},
    )
    return task_from_dict(content)


@dataclass(frozen=True)
class Sent:
    """A command, and when it was handed to the middleware."""

    ns: int
    values: tuple[float, ...]


class WatchedRobot(SyntheticRobot):
    """Publishes a joystick, a battery and a temperature too.

    Args:
        task: See :class:`SyntheticRobot`.
        speed: See :class:`SyntheticRobot`.
    """

    def __init__(self, task: TaskConfig, *, speed: float | None = None) -> None:
        self.held = True
        self.voltage_v = 28.0
        self.temperature_c = 40.0
        self.x_m = 0.0
        self.still = False
        """Whether the camera repeats one picture."""
        self.sent: list[Sent] = []
        self.said: list[tuple[int, int, str]] = []
        """Header stamp (ns), level and text of every status of the policy node."""
        self._count, self._shade = 0, 0
        self._ready = False
        super().__init__(task, speed=speed)
        for topic, kind in _EXTRA.items():
            self._publishers[topic] = self.node.create_publisher(
                kind, topic, qos_profile_sensor_data
            )
        self.node.create_subscription(Twist, "/cmd_vel", self._on_sent, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_said, 50)
        self._ready = True

    def _messages(self) -> dict[str, bytes]:
        found = super()._messages()
        image = messages.deserialise(found["/camera/image_raw"], "sensor_msgs/msg/Image")
        # No two pictures of a camera are the same, and no two readings of a joint.
        self._count += 1
        if not self.still:
            self._shade = self._count % 256
        image.data = image.data.copy()
        image.data[0] = self._shade
        joints = messages.deserialise(found["/joint_states"], "sensor_msgs/msg/JointState")
        joints.position = joints.position + 0.002 * (self._count % 2)
        found["/joint_states"] = messages.serialise(joints)
        found["/camera/image_raw"] = messages.serialise(image)
        odometry = messages.deserialise(found["/odom"], "nav_msgs/msg/Odometry")
        odometry.pose.pose.position.x = self.x_m
        found["/odom"] = messages.serialise(odometry)
        if self._ready:
            extra = {
                "/joy": ("sensor_msgs/msg/Joy", {"buttons": np.array([int(self.held)], np.int32)}),
                "/battery_state": ("sensor_msgs/msg/BatteryState", {"voltage": self.voltage_v}),
                "/motor_temperature": (
                    "sensor_msgs/msg/Temperature",
                    {"temperature": self.temperature_c},
                ),
            }
            found.update(
                (topic, messages.serialise(messages.make(kind, header=odometry.header, **fields)))
                for topic, (kind, fields) in extra.items()
            )
        return found

    def _on_sent(self, message: Twist, info: Any) -> None:
        linear, angular = message.linear, message.angular
        values = (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)
        self.sent.append(Sent(info["source_timestamp"], values))

    def _on_said(self, message: DiagnosticArray) -> None:
        stamp = message.header.stamp
        for status in message.status:
            if status.name == "policy_node: control":
                ns = stamp.sec * 10**9 + stamp.nanosec
                self.said.append((ns, status.level[0], status.message))
