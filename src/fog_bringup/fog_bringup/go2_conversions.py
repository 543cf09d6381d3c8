"""Unitree's messages of the Go2 as the standard ones, and velocity commands as its requests.

Field names, the order of the motors, topic names and API ids are those of Unitree's published
interface definitions (unitree_ros2: unitree_go, unitree_api and its sport client). What they leave
open, and has to be looked at on the robot, is listed in docs/go2.md. No ROS here.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from fog_bringup.robots.streams import BASE_FRAME, CAMERA_FRAME, IMU_FRAME, WORLD_FRAME
from fog_world_model.data import messages
from fog_world_model.errors import FogError

Array = npt.NDArray[np.float64]

PARTS = ("hip", "thigh", "calf")
MOTORS = tuple(f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in PARTS)
"""Joint of each of the first twelve entries of ``LowState.motor_state``; the other eight are not
used by a Go2."""
JOINTS = tuple(f"{leg}_{part}_joint" for leg in ("FL", "FR", "RL", "RR") for part in PARTS)
"""Joints in the order of the URDF (urdf/go2.urdf), in which they are published."""
_FROM_MOTOR = [MOTORS.index(joint) for joint in JOINTS]

MOVE, STOP_MOVE = 1008, 1003
"""API ids of the sport mode: walk at a velocity; stop walking, and stand."""

STOPS_SENT, STOP_SPACING_S = 3, 0.1
"""How often a stop is sent. Not forever: it would fight a remote control that takes over."""

_JPEG, _START_CODES = b"\xff\xd8", (b"\x00\x00\x00\x01", b"\x00\x00\x01")


def joint_state(low_state: Any, stamp_ns: int) -> Any:
    """``sensor_msgs/msg/JointState`` of a ``unitree_go/msg/LowState``.

    Args:
        low_state: Its ``motor_state`` has ``q`` (rad), ``dq`` (rad/s) and ``tau_est`` (N m).
        stamp_ns: When it arrived, ns: a LowState has no stamp.

    Raises:
        FogError: There are fewer than twelve motors.
    """
    motors = low_state.motor_state
    if len(motors) < len(MOTORS):
        raise FogError(f"LowState has {len(motors)} motors, a Go2 has {len(MOTORS)}")
    chosen = [motors[i] for i in _FROM_MOTOR]
    return messages.make(
        "sensor_msgs/msg/JointState",
        header=messages.header(stamp_ns, BASE_FRAME),
        name=list(JOINTS),
        position=np.array([float(m.q) for m in chosen]),
        velocity=np.array([float(m.dq) for m in chosen]),
        effort=np.array([float(m.tau_est) for m in chosen]),
    )


def imu(imu_state: Any, stamp_ns: int) -> Any:
    """``sensor_msgs/msg/Imu`` of a ``unitree_go/msg/IMUState``.

    Both have x forward, y left and z up (REP-103), and an acceleration that shows +9.81 m/s^2
    along z at rest; Unitree's quaternion begins with w, ROS's ends with it.

    Args:
        imu_state: ``quaternion`` (w, x, y, z), ``gyroscope`` (rad/s), ``accelerometer`` (m/s^2).
        stamp_ns: When it arrived, ns.

    Raises:
        FogError: The quaternion is not of length 1, as before the robot's estimator has started.
    """
    return messages.make(
        "sensor_msgs/msg/Imu",
        header=messages.header(stamp_ns, IMU_FRAME),
        orientation=_quaternion(imu_state.quaternion),
        angular_velocity=_vector("geometry_msgs/msg/Vector3", imu_state.gyroscope),
        linear_acceleration=_vector("geometry_msgs/msg/Vector3", imu_state.accelerometer),
    )


def odometry(sport_state: Any, stamp_ns: int, *, velocity_frame: str) -> Any:
    """``nav_msgs/msg/Odometry`` of a ``unitree_go/msg/SportModeState``.

    Args:
        sport_state: ``position`` (m), ``velocity`` (m/s), ``yaw_speed`` (rad/s), ``imu_state``.
        stamp_ns: When it arrived, ns: its own stamp is the robot's clock.
        velocity_frame: ``odom`` or ``base``: what ``velocity`` refers to. An Odometry has it in
            the child frame, the base.

    Raises:
        FogError: The quaternion is not of length 1, or the frame is unknown.
    """
    if velocity_frame not in ("odom", "base"):
        raise FogError(f"velocity_frame {velocity_frame!r}: expected odom or base")
    orientation = _quaternion(sport_state.imu_state.quaternion)
    velocity = np.array([float(v) for v in sport_state.velocity])
    if velocity_frame == "odom":
        velocity = _rotation(orientation).T @ velocity
    message = messages.make(
        "nav_msgs/msg/Odometry",
        header=messages.header(stamp_ns, WORLD_FRAME),
        child_frame_id=BASE_FRAME,
    )
    message.pose.pose.position = _vector("geometry_msgs/msg/Point", sport_state.position)
    message.pose.pose.orientation = orientation
    message.twist.twist.linear = _vector("geometry_msgs/msg/Vector3", velocity)
    message.twist.twist.angular = _vector(
        "geometry_msgs/msg/Vector3",
        [*(float(w) for w in sport_state.imu_state.gyroscope[:2]), float(sport_state.yaw_speed)],
    )
    return message


def image(pixels: npt.NDArray[np.uint8], stamp_ns: int) -> Any:
    """``sensor_msgs/msg/Image`` of a picture.

    Args:
        pixels: ``[height, width, channel]`` uint8 RGB.
        stamp_ns: When it arrived, ns.
    """
    height, width = pixels.shape[:2]
    return messages.make(
        "sensor_msgs/msg/Image",
        header=messages.header(stamp_ns, CAMERA_FRAME),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def camera_info_from_file(path: str) -> Any:
    """``sensor_msgs/msg/CameraInfo`` of a file that ROS's camera_calibration has written.

    Raises:
        FogError: The file cannot be read or lacks a field.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
        return messages.make(
            "sensor_msgs/msg/CameraInfo",
            height=int(content["image_height"]),
            width=int(content["image_width"]),
            distortion_model=str(content["distortion_model"]),
            d=np.array(content["distortion_coefficients"]["data"], np.float64),
            k=np.array(content["camera_matrix"]["data"], np.float64).reshape(9),
            r=np.array(content["rectification_matrix"]["data"], np.float64).reshape(9),
            p=np.array(content["projection_matrix"]["data"], np.float64).reshape(12),
        )
    except OSError as error:
        raise FogError(f"calibration {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise FogError(
            f"calibration {path}: not a file of camera_calibration ({error!r})"
        ) from error


class VideoDecoder:
    """Pictures of the front video, which is H.264 or JPEG, depending on the robot's firmware.

    A decoder of H.264 has to see every message from a key frame on: do not skip any.
    """

    def __init__(self) -> None:
        self._context: Any = None

    def __call__(self, data: bytes) -> list[npt.NDArray[np.uint8]]:
        """Pictures that have become whole with this message, the oldest first.

        Args:
            data: ``video720p``, ``video360p`` or ``video180p`` of a Go2FrontVideoData.

        Returns:
            ``[height, width, channel]`` uint8 RGB each; none while a key frame is waited for.

        Raises:
            FogError: The data are neither JPEG nor H.264, are damaged, or the decoder of H.264
                (the package ``av``) is not installed.
        """
        if data.startswith(_JPEG):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                raise FogError(f"front video: a JPEG of {len(data)} bytes is damaged")
            return [np.asarray(pixels[..., ::-1], np.uint8)]
        if data.startswith(_START_CODES):
            return self._h264(data)
        raise FogError(
            f"front video: {len(data)} bytes that begin with {data[:4].hex() or 'nothing'} are "
            "neither JPEG nor H.264; choose another video_rows"
        )

    def _h264(self, data: bytes) -> list[npt.NDArray[np.uint8]]:
        try:
            av = importlib.import_module("av")  # not everybody's robot sends H.264
        except ImportError as error:
            raise FogError(
                "front video: it is H.264, and its decoder is not installed: pip install av"
            ) from error
        if self._context is None:
            self._context = av.CodecContext.create("h264", "r")
        try:
            frames = [f for p in self._context.parse(data) for f in self._context.decode(p)]
        except av.error.FFmpegError:
            return []  # before the first key frame, or after a lost message
        return [np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in frames]


@dataclass(frozen=True)
class SportRequest:
    """What goes into a ``unitree_api/msg/Request`` for the sport mode."""

    api_id: int
    """``header.identity.api_id``."""
    parameter: str
    """JSON; empty for requests without parameters."""


STOP = SportRequest(STOP_MOVE, "")


def move(velocity: Sequence[float], limit: Sequence[float]) -> SportRequest:
    """Request that makes the robot walk; it stops by itself when none follows for about a second.

    Args:
        velocity: ``(vx, vy, wz)``, m/s and rad/s, base frame (REP-103).
        limit: Largest absolute value of each; what is beyond is cut off.

    Raises:
        FogError: A value is not finite.
    """
    values = [float(v) for v in velocity]
    if not all(math.isfinite(v) for v in values):
        raise FogError(f"velocity command {values} is not finite")
    vx, vy, wz = (min(max(v, -m), m) for v, m in zip(values, limit, strict=True))
    return SportRequest(MOVE, json.dumps({"x": vx, "y": vy, "z": wz}))


class MotionGate:
    """Decides what is sent: every command at once, a stop for zero, for nonsense and for silence.

    Args:
        limit: Largest ``(vx, vy, wz)``, m/s and rad/s.
        timeout_s: Silence after which the robot is stopped, s.
    """

    def __init__(self, limit: Sequence[float], timeout_s: float) -> None:
        self._limit, self._timeout_s = tuple(limit), timeout_s
        self._commanded_s = -math.inf
        self._stopped_s = -math.inf
        self._stops_left = 0
        self.moving = False
        """Whether the last request makes the robot walk."""
        self.silences = 0
        """How often a stop was due because no command came."""

    def command(self, velocity: Sequence[float], now_s: float) -> SportRequest | None:
        """What a command asks to be sent; None: nothing (it stands already).

        Args:
            velocity: ``(vx, vy, wz)``, m/s and rad/s, base frame.
            now_s: Monotonic time, s.

        Raises:
            FogError: A value is not finite; then :meth:`tick` sends a stop.
        """
        try:
            request = move(velocity, self._limit)
        except FogError:
            self._stop()
            raise
        self._commanded_s = now_s
        if any(velocity):
            self.moving, self._stops_left = True, 0
            return request
        if self.moving:
            self._stop()
        return self.tick(now_s)

    def tick(self, now_s: float) -> SportRequest | None:
        """What is due now; call it every few hundredths of a second."""
        if self.moving and now_s - self._commanded_s > self._timeout_s:
            self.silences += 1
            self._stop()
        if self._stops_left and now_s - self._stopped_s >= STOP_SPACING_S:
            self._stops_left -= 1
            self._stopped_s = now_s
            return STOP
        return None

    def _stop(self) -> None:
        self.moving = False
        self._stops_left, self._stopped_s = STOPS_SENT, -math.inf


def _vector(typename: str, values: Sequence[float] | Array) -> Any:
    x, y, z = (float(v) for v in values)
    return messages.make(typename, x=x, y=y, z=z)


def _quaternion(wxyz: Sequence[float]) -> Any:
    w, x, y, z = (float(v) for v in wxyz)
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if not 0.9 < length < 1.1:  # also where it is not a number
        raise FogError(f"the robot's quaternion {[w, x, y, z]} has length {length:g}, not 1")
    return messages.make(
        "geometry_msgs/msg/Quaternion", x=x / length, y=y / length, z=z / length, w=w / length
    )


def _rotation(q: Any) -> Array:
    """Rotation matrix ``[3, 3]`` of a unit quaternion, from base to world."""
    x, y, z, w = q.x, q.y, q.z, q.w
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
