"""What a robot observes, as the ROS messages that it publishes."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_bringup.robots.robot import Observation, Robot
from fog_world_model.data import messages

CAMERA_FRAME, BASE_FRAME, IMU_FRAME, WORLD_FRAME = (
    "camera_optical_frame",
    "base_link",
    "imu_link",
    "odom",
)

# The small types are made directly, without looking up defaults: every observation has twenty.
_TYPES = messages.TYPESTORE.types
_TIME, _HEADER = _TYPES["builtin_interfaces/msg/Time"], _TYPES["std_msgs/msg/Header"]
_VECTOR, _POINT = _TYPES["geometry_msgs/msg/Vector3"], _TYPES["geometry_msgs/msg/Point"]
_QUATERNION, _POSE = _TYPES["geometry_msgs/msg/Quaternion"], _TYPES["geometry_msgs/msg/Pose"]
_TWIST = _TYPES["geometry_msgs/msg/Twist"]
_POSE_COVARIANCE = _TYPES["geometry_msgs/msg/PoseWithCovariance"]
_TWIST_COVARIANCE = _TYPES["geometry_msgs/msg/TwistWithCovariance"]
_UNKNOWN_COVARIANCE = np.zeros(36)

Encoded = tuple[str, str, bytes]
"""Topic, interface name, CDR bytes."""


def observation_messages(robot: Robot, observation: Observation) -> list[Encoded]:
    """Encode an observation.

    Args:
        robot: Gives the camera's geometry and says whether there are joints and an IMU.
        observation: Its header stamps are ``observation.stamp_ns``; without an image no camera
            topics are given.

    Returns:
        Messages in the order in which they are published; reward, end and episode come before the
        picture that they belong to, so that who waits for the picture has them already.
    """
    return [
        *sensor_messages(robot, observation),
        *scene_messages(observation),
        *camera_messages(robot, observation),
    ]


def sensor_messages(robot: Robot, observation: Observation) -> list[Encoded]:
    """/odom and, on a robot that has them, /joint_states and /imu/data."""
    found = [("/odom", _odometry(observation))]
    if robot.has_inertial:
        found += [("/joint_states", _joint_state(observation)), ("/imu/data", _imu(observation))]
    return _encode(found)


def scene_messages(observation: Observation) -> list[Encoded]:
    """/task/reward, /task/end, /task/episode and one /sim/OBJECT_pose per object."""
    return _encode(
        [
            ("/task/reward", messages.make("std_msgs/msg/Float32", data=float(observation.reward))),
            ("/task/end", messages.make("std_msgs/msg/Bool", data=bool(observation.end))),
            ("/task/episode", messages.make("std_msgs/msg/Int32", data=observation.episode)),
            *(
                (f"/sim/{name}_pose", _object_pose(observation.stamp_ns, pose))
                for name, pose in observation.objects.items()
            ),
        ]
    )


def camera_messages(robot: Robot, observation: Observation) -> list[Encoded]:
    """/camera/camera_info and /camera/image_raw; nothing when there is no picture."""
    if observation.image is None:
        return []
    height, width = observation.image.shape[:2]
    info = pinhole_camera_info(height, width, robot.fovy_deg)
    info.header = _header(observation.stamp_ns, CAMERA_FRAME)
    image = _image(observation.stamp_ns, observation.image)
    return _encode([("/camera/camera_info", info), ("/camera/image_raw", image)])


def _encode(found: list[tuple[str, Any]]) -> list[Encoded]:
    return [(topic, m.__msgtype__, messages.serialise(m)) for topic, m in found]


def _image(stamp_ns: int, image: npt.NDArray[np.uint8]) -> Any:
    height, width = image.shape[:2]
    return messages.make(
        "sensor_msgs/msg/Image",
        header=_header(stamp_ns, CAMERA_FRAME),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),
    )


@functools.lru_cache(maxsize=8)
def pinhole_camera_info(height: int, width: int, fovy_deg: float) -> Any:
    """Pinhole camera with square pixels, without distortion and without a header."""
    focal = height / 2 / math.tan(math.radians(fovy_deg) / 2)
    # pixel centres lie at whole numbers, so the middle of the picture is half a pixel before w / 2
    cx, cy = (width - 1) / 2, (height - 1) / 2
    k = np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1], np.float64)
    p = np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1, 0], np.float64)
    return messages.make(
        "sensor_msgs/msg/CameraInfo",
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k,
        r=np.eye(3).reshape(-1),
        p=p,
    )


def _joint_state(o: Observation) -> Any:
    return messages.make(
        "sensor_msgs/msg/JointState",
        header=_header(o.stamp_ns, BASE_FRAME),
        name=list(o.joint_names),
        position=o.joint_position,
        velocity=o.joint_velocity,
        effort=o.joint_effort,
    )


def _imu(o: Observation) -> Any:
    return messages.make(
        "sensor_msgs/msg/Imu",
        header=_header(o.stamp_ns, IMU_FRAME),
        orientation=_quaternion(o.orientation),
        angular_velocity=_vector(o.angular_velocity),
        linear_acceleration=_vector(o.linear_acceleration),
    )


def _odometry(o: Observation) -> Any:
    pose = _POSE(_point(o.position), _quaternion(o.orientation))
    twist = _TWIST(_vector(o.linear_velocity), _vector(o.angular_velocity))
    return messages.make(
        "nav_msgs/msg/Odometry",
        header=_header(o.stamp_ns, WORLD_FRAME),
        child_frame_id=BASE_FRAME,
        pose=_POSE_COVARIANCE(pose, _UNKNOWN_COVARIANCE),
        twist=_TWIST_COVARIANCE(twist, _UNKNOWN_COVARIANCE),
    )


def _object_pose(stamp_ns: int, pose: tuple[float, float, float]) -> Any:
    x, y, yaw = pose
    return messages.make(
        "geometry_msgs/msg/PoseStamped",
        header=_header(stamp_ns, WORLD_FRAME),
        pose=_POSE(
            _point((x, y, 0.0)),
            _quaternion((0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))),
        ),
    )


def _header(stamp_ns: int, frame: str) -> Any:
    return _HEADER(_TIME(stamp_ns // 10**9, stamp_ns % 10**9), frame)


def _vector(v: npt.ArrayLike) -> Any:
    return _VECTOR(*np.asarray(v, np.float64).tolist())


def _point(v: npt.ArrayLike) -> Any:
    return _POINT(*np.asarray(v, np.float64).tolist())


def _quaternion(xyzw: npt.ArrayLike) -> Any:
    return _QUATERNION(*np.asarray(xyzw, np.float64).tolist())
