"""The URDF of the robot, with the camera tilted as a task says, and its odometry as a transform.

No ROS here.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from typing import Any

from fog_world_model.data import messages
from fog_world_model.errors import FogError
from fog_world_model.shipped_folders import shipped_folders


def robot_description(camera_pitch_deg: float) -> str:
    """XML of the Go2 for /robot_description.

    Args:
        camera_pitch_deg: How far the camera looks down, degrees: ``options.camera_pitch_deg`` of
            the task for the simulated robot, what was measured for a real one.

    Raises:
        FogError: The URDF is not installed, or the angle is beyond 90 degrees.
    """
    if not abs(camera_pitch_deg) <= 90:
        raise FogError(f"camera_pitch_deg {camera_pitch_deg:g}: expected -90 to 90 degrees")
    path = next((f / "go2.urdf" for f in shipped_folders("fog_bringup", "urdf")), None)
    if path is None:
        raise FogError("urdf/go2.urdf is missing: is fog_bringup installed?")
    robot = ElementTree.parse(path).getroot()
    place = robot.find("joint[@name='camera_joint']/origin")
    if place is None:
        raise FogError(f"{path}: has no camera_joint with an origin")
    # A turn about y, which points left, is down (REP-103).
    place.set("rpy", f"0 {math.radians(camera_pitch_deg)!r} 0")
    return ElementTree.tostring(robot, encoding="unicode")


def odometry_transform(odometry: Any) -> Any:
    """``tf2_msgs/msg/TFMessage`` with the pose of a ``nav_msgs/msg/Odometry``.

    Args:
        odometry: A decoded message; its frames become those of the transform (REP-105: odom to
            base_link).
    """
    pose = odometry.pose.pose
    translation = messages.make(
        "geometry_msgs/msg/Vector3", x=pose.position.x, y=pose.position.y, z=pose.position.z
    )
    transform = messages.make(
        "geometry_msgs/msg/TransformStamped",
        header=odometry.header,
        child_frame_id=odometry.child_frame_id,
        transform=messages.make(
            "geometry_msgs/msg/Transform", translation=translation, rotation=pose.orientation
        ),
    )
    return messages.make("tf2_msgs/msg/TFMessage", transforms=[transform])
