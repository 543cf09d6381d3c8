"""Publishes /odom as a transform on /tf, so that RViz and Foxglove can place the robot.

Not for a driver that does so itself, as go2_ros2_sdk's: two would contradict each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, qos_profile_sensor_data

from fog_bringup.base_node import FogNode, message_class, run
from fog_bringup.robot_description import odometry_transform
from fog_world_model.data import messages
from fog_world_model.errors import FogError


class OdometryFrameNode(FogNode):
    """Needs the package tf2_msgs, which every ROS installation has."""

    def __init__(self) -> None:
        super().__init__("odometry_frame_node")
        self.check_parameters()
        transforms = message_class("tf2_msgs/msg/TFMessage")
        self._tf = self.create_publisher(transforms, "/tf", QoSProfile(depth=100))
        self.create_subscription(
            Odometry, "/odom", self._on_odometry, qos_profile_sensor_data, raw=True
        )

    def _on_odometry(self, data: bytes) -> None:
        try:
            odometry = messages.deserialise(data, "nav_msgs/msg/Odometry")
        except FogError as error:
            self.get_logger().error(f"/odom: {error}", throttle_duration_sec=5.0)
            return
        self._tf.publish(messages.serialise(odometry_transform(odometry)))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(OdometryFrameNode, args)


if __name__ == "__main__":
    sys.exit(main())
