"""Starts ROS, makes a node and prints the middleware: what ``fog doctor`` tries in a process."""

from __future__ import annotations

import rclpy


def main() -> None:
    """Run it; the middleware may end the process."""
    rclpy.init(args=[])
    node = rclpy.create_node("fog_doctor")
    print(rclpy.get_rmw_implementation_identifier())
    node.destroy_node()
    rclpy.try_shutdown()
