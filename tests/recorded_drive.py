"""A made-up drive, message by message, and the episodes that an import must make of it.

Every value says which step it belongs to, so that one that ends up elsewhere shows. Images come at
10 Hz, joints at 50 Hz and odometry at 20 Hz; the robot is controlled at 5 Hz. Used by the tests of
several packages; nothing in here goes through the code that is tested but the encoding of messages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.data.messages import TYPESTORE, header, make, serialise
from fog_world_model.task import TaskConfig, task_from_dict

MS = 1_000_000
SIZE = 32
"""Side of the recorded images, twice the task's."""
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
JOINTS = ("hip", "knee", "ankle")

Logged = tuple[int, str, str, bytes]
"""Arrival in ns, topic, interface name, CDR bytes."""


def drive_task(**changes: Any) -> TaskConfig:
    """Images, two joints, odometry, velocity commands and a reward; no markers unless given."""
    content: dict[str, Any] = {
        "name": "drive",
        "control_hz": 5.0,
        "image": {
            "topic": "/camera/image_raw",
            "camera_info_topic": "/camera/camera_info",
            "height": SIZE // 2,
            "width": SIZE // 2,
        },
        "proprioception": [
            {
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "fields": ["position.knee", "velocity.hip"],
            },
            {
                "topic": "/odom",
                "type": "nav_msgs/msg/Odometry",
                "fields": ["pose.pose.position.x"],
            },
        ],
        "action": {
            "topic": "/cmd_vel",
            "type": "geometry_msgs/msg/Twist",
            "fields": ["linear.x", "angular.z"],
            "low": [-20.0, -20.0],
            "high": [20.0, 20.0],
        },
        "reward": {
            "topic": "/reward",
            "type": "std_msgs/msg/Float32",
            "fields": ["data"],
            "slack_s": 0.03,
        },
        "episode": {"max_steps": 1000},
        "safety": {"slew_per_s": [8.0, 12.0]},
    }
    return task_from_dict(content | changes)


@dataclass
class Drive:
    """``steps`` control steps from ``start_ms`` on; step k shows k in everything."""

    steps: int
    start_ms: int = 1000
    first: int = 0
    """Number of the first step in what is shown."""
    joints: tuple[str, ...] = JOINTS
    encoding: str = "rgb8"
    compressed: str = ""
    """``jpeg`` or ``png``; empty: raw images."""
    image_topic: str = "/camera/image_raw"
    stamped: bool = False
    """Whether commands are TwistStamped; then they arrive late and out of place."""
    size: int = SIZE
    log_shift_ms: int = 0
    """How much later than their stamps messages arrive."""
    odd: dict[tuple[str, int], float] = field(default_factory=dict)
    """Other values for (topic, step): ``/reward``, ``/odom``, ``/cmd_vel`` or ``/joint_states``."""

    def messages(self) -> list[Logged]:
        """In the order of arrival."""
        found: list[Logged] = []
        for tick in range(20 * self.steps + 1):  # 10 ms each
            step = self.first + tick / 20
            now = (self.start_ms + 10 * tick) * MS
            log = now + self.log_shift_ms * MS
            if tick % 2 == 0:
                found.append(self._log(log, "/joint_states", self._joints(now, step)))
            if tick % 5 == 0:
                found.append(self._log(log, "/odom", self._odometry(now, step)))
            if tick % 10 == 0:
                found.append(self._log(log, self.image_topic, self._image(now, round(2 * step))))
                reward = make("std_msgs/msg/Float32", data=self._value("/reward", step))
                found.append(self._log(log + 2, "/reward", reward))
            if tick % 20 == 0 and tick < 20 * self.steps:
                command = make("geometry_msgs/msg/Twist")
                command.linear.x = self._value("/cmd_vel", step) / 10
                command.angular.z = -step / 20
                if self.stamped:
                    late = make(
                        "geometry_msgs/msg/TwistStamped",
                        header=header(now + MS, "base"),
                        twist=command,
                    )
                    found.append(self._log(log + 30 * MS, "/cmd_vel", late))
                else:
                    found.append(self._log(log + MS, "/cmd_vel", command))
        return sorted(found, key=lambda m: m[0])

    def _log(self, log_ns: int, topic: str, message: Any) -> Logged:
        return log_ns, topic, message.__msgtype__, serialise(message)

    def _value(self, topic: str, step: float) -> float:
        if step == int(step) and (topic, int(step)) in self.odd:
            return self.odd[topic, int(step)]
        return step if step == int(step) or topic != "/reward" else 99.0

    def _joints(self, now: int, step: float) -> Any:
        position = {"hip": 1000.0, "knee": self._value("/joint_states", step), "ankle": 2000.0}
        velocity = {"hip": -step, "knee": 3000.0, "ankle": 4000.0}
        return make(
            "sensor_msgs/msg/JointState",
            header=header(now, ""),
            name=list(self.joints),
            position=np.asarray([position[j] for j in self.joints]),
            velocity=np.asarray([velocity[j] for j in self.joints]),
        )

    def _odometry(self, now: int, step: float) -> Any:
        message = make("nav_msgs/msg/Odometry", header=header(now, "odom"))
        message.pose.pose.position.x = self._value("/odom", step)
        message.pose.pose.orientation.w = 1.0
        return message

    def colour(self, half_steps: int) -> tuple[int, int, int]:
        """Colour of an image: coarse enough to survive JPEG, and another for every half-step."""
        if self.encoding in ("mono8", "16UC1"):
            return (4 * half_steps % 256,) * 3
        return 4 * half_steps % 256, 100, 255 - 4 * half_steps % 256

    def _image(self, now: int, half_steps: int) -> Any:
        red, green, blue = self.colour(half_steps)
        colour = {
            "rgb8": [red, green, blue],
            "bgr8": [blue, green, red],
            "rgba8": [red, green, blue, 7],
            "bgra8": [blue, green, red, 7],
            "mono8": [red],
            "16UC1": [red],
        }[self.encoding]
        pixels = np.full((self.size, self.size, len(colour)), colour, np.uint8)
        if self.encoding == "16UC1":
            pixels = np.rint(pixels * (10_000 / 255)).astype(np.uint16)
        if not self.compressed:
            return make(
                IMAGE,
                header=header(now, "camera"),
                height=self.size,
                width=self.size,
                encoding=self.encoding,
                step=self.size * len(colour) * pixels.itemsize,
                data=pixels.reshape(-1).view(np.uint8),
            )
        shown = pixels[..., ::-1] if self.encoding == "rgb8" else pixels  # OpenCV wants BGR
        _, data = cv2.imencode(f".{self.compressed}", np.ascontiguousarray(shown))
        return make(
            COMPRESSED,
            header=header(now, "camera"),
            format=f"{self.encoding}; {self.compressed} compressed",
            data=data.reshape(-1),
        )


def drive_of(*drives: Drive) -> list[Logged]:
    """All messages of several drives in the order of arrival."""
    return sorted((m for d in drives for m in d.messages()), key=lambda m: m[0])


def check_drive(store: EpisodeStore, index: int, drive: Drive, first: int, last: int) -> None:
    """Every row of an episode against steps ``first`` to ``last`` (inclusive) of a drive."""
    episode = store.episode(index)
    shown = np.arange(first, last + 1)
    stamps = (drive.start_ms + 200 * (shown - drive.first)) * MS
    np.testing.assert_array_equal(episode.stamp_ns, stamps)
    colours = np.asarray([drive.colour(2 * k) for k in shown])
    error = np.abs(episode.image.astype(int) - colours[:, None, None])
    assert error.max() <= (5 if drive.compressed == "jpeg" else 0), error.max()
    np.testing.assert_allclose(episode.proprioception, np.stack([shown, -shown, shown], 1))
    command = np.stack([shown[:-1] / 10, -shown[:-1] / 20], 1)
    np.testing.assert_allclose(episode.action[:-1], command / 20, atol=1e-6)
    np.testing.assert_array_equal(episode.reward[:-1], shown[1:])
    assert not episode.action[-1].any()
    assert not episode.reward[-1]
    assert not episode.end.any()


def write_with_rosbags(
    path: Path,
    messages: Iterable[Logged],
    *,
    storage: str = "mcap",
    compression: str = "none",
) -> Path:
    """A bag by the rosbags library; compression: none, file, message or storage (zstd)."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    if compression != "none":
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for log_ns, topic, typename, data in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, typename, typestore=TYPESTORE)
            writer.write(connections[topic], log_ns, data)
    return path


def write_sqlite_by_hand(path: Path, messages: Iterable[Logged], *, files: int = 1) -> Path:
    """A bag as ROS 2 Foxy wrote it: SQLite without message definitions, in one or more files."""
    path.mkdir()
    logged = list(messages)
    topics = sorted({(m[1], m[2]) for m in logged})
    bounds = [round(i * len(logged) / files) for i in range(files + 1)]
    names = [f"{path.name}_{i}.db3" for i in range(files)]
    for name, low, high in zip(names, bounds, bounds[1:], strict=False):
        with sqlite3.connect(path / name) as connection:
            connection.executescript(
                "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT "
                "NULL, serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);"
                "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
                "timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
                "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
            )
            for i, (topic, typename) in enumerate(topics, 1):
                connection.execute("INSERT INTO topics VALUES(?, ?, ?, 'cdr', '')",
                                   (i, topic, typename))  # fmt: skip
            numbers = {topic: i for i, (topic, _) in enumerate(topics, 1)}
            connection.executemany(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)",
                [(numbers[topic], log_ns, data) for log_ns, topic, _, data in logged[low:high]],
            )
        connection.close()
    counts = {topic: sum(m[1] == topic for m in logged) for topic, _ in topics}
    information = {
        "version": 4,
        "storage_identifier": "sqlite3",
        "relative_file_paths": names,
        "duration": {"nanoseconds": logged[-1][0] - logged[0][0]},
        "starting_time": {"nanoseconds_since_epoch": logged[0][0]},
        "message_count": len(logged),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": typename,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": "",
                },
                "message_count": counts[topic],
            }
            for topic, typename in topics
        ],
        "compression_format": "",
        "compression_mode": "",
    }
    (path / "metadata.yaml").write_text(
        yaml.safe_dump({"rosbag2_bagfile_information": information})
    )
    return path
