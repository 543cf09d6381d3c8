"""What goes on around a robot, out of live topics, for drivers and measurements. No ROS here."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable

import numpy as np

from fog_bringup.robots.robot import Observation
from fog_world_model.data.messages import deserialise

ODOMETRY, POSE = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped"
SIM_PREFIX, SIM_SUFFIX = "/sim/", "_pose"
"""A simulated robot publishes ground truth on ``/sim/<object>_pose``."""

_KEPT = 64
"""Messages remembered per topic: a picture may be processed later than what came after it."""


def stamp_of(data: bytes) -> int:
    """Header stamp, ns, of a serialised message whose first field is a header.

    Reading eight bytes instead of decoding keeps images cheap for those who only want their time.
    """
    little = data[1] & 1
    seconds, nanoseconds = struct.unpack_from("<iI" if little else ">iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


class ControlGrid:
    """Picks those camera stamps that begin a control step.

    Args:
        period_ns: Control period.
    """

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self.restart()

    def restart(self) -> None:
        """Let the next stamp be the first on the grid."""
        self._next_ns: int | None = None
        self._last_ns: int | None = None

    def due(self, stamp_ns: int) -> bool:
        """Whether a step begins at a stamp; the stamp nearest to each point of the grid counts."""
        gap_ns = self._period_ns if self._last_ns is None else stamp_ns - self._last_ns
        if gap_ns < 0 or self._next_ns is None:  # the first stamp, or a clock that started over
            self._next_ns, self._last_ns = stamp_ns + self._period_ns, stamp_ns
            return True
        self._last_ns = stamp_ns
        if stamp_ns + min(gap_ns, self._period_ns) / 2 < self._next_ns:
            return False
        late = abs(stamp_ns - self._next_ns) > self._period_ns / 4  # frames are missing
        self._next_ns = (stamp_ns if late else self._next_ns) + self._period_ns
        return True


class LiveScene:
    """Keeps recent odometry and ground truth, and decodes them when they are asked for."""

    def __init__(self) -> None:
        self._odometry: deque[bytes] = deque(maxlen=_KEPT)
        self._poses: dict[str, deque[bytes]] = {}

    def receive_odometry(self, data: bytes) -> None:
        """Take a serialised nav_msgs/msg/Odometry."""
        self._odometry.append(data)

    def receive_pose(self, name: str, data: bytes) -> None:
        """Take the serialised geometry_msgs/msg/PoseStamped of an object."""
        self._poses.setdefault(name, deque(maxlen=_KEPT)).append(data)

    def observation(self, at_ns: int) -> Observation | None:
        """The state at a stamp: the newest that is not later; None without odometry.

        Only the base and the objects are filled in: no picture, no joints, no reward.
        """
        odometry = _newest(self._odometry, at_ns)
        if odometry is None:
            return None
        poses = {name: _newest(kept, at_ns) for name, kept in self._poses.items()}
        message = deserialise(odometry, ODOMETRY)
        pose, twist = message.pose.pose, message.twist.twist
        return Observation(
            stamp_ns=stamp_of(odometry),
            image=None,
            position=np.array([pose.position.x, pose.position.y, pose.position.z]),
            orientation=np.array(_xyzw(pose.orientation)),
            linear_velocity=np.array([twist.linear.x, twist.linear.y, twist.linear.z]),
            angular_velocity=np.array([twist.angular.x, twist.angular.y, twist.angular.z]),
            linear_acceleration=np.zeros(3),
            reward=math.nan,
            end=False,
            episode=0,
            objects={name: _planar(data) for name, data in poses.items() if data is not None},
        )


def object_name(topic: str, typename: str) -> str | None:
    """Name of the object whose ground truth a topic gives; None for every other topic."""
    if typename == POSE and topic.startswith(SIM_PREFIX) and topic.endswith(SIM_SUFFIX):
        return topic[len(SIM_PREFIX) : -len(SIM_SUFFIX)]
    return None


def yaw_of(x: float, y: float, z: float, w: float) -> float:
    """Heading of a quaternion, rad, in (-pi, pi]."""
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def _newest(kept: Iterable[bytes], at_ns: int) -> bytes | None:
    return max((d for d in kept if stamp_of(d) <= at_ns), key=stamp_of, default=None)


def _planar(data: bytes) -> tuple[float, float, float]:
    pose = deserialise(data, POSE).pose
    return float(pose.position.x), float(pose.position.y), yaw_of(*_xyzw(pose.orientation))


def _xyzw(quaternion: object) -> tuple[float, float, float, float]:
    x, y, z, w = (float(getattr(quaternion, axis)) for axis in "xyzw")
    return x, y, z, w
