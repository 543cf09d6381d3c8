"""A control loop on hand-made messages, and a policy that remembers what it was shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fog_policy.control_loop import ControlLoop
from fog_policy.surprise import SurpriseGuard
from fog_world_model.data import messages
from fog_world_model.task import TaskConfig, task_from_dict

MS = 1_000_000
IMAGE, JOINTS, ODOM, IMU = "/camera/image_raw", "/joint_states", "/speed", "/imu/data"
MARKER, JOY = "/task/episode", "/joy"


def make_task(**safety: Any) -> TaskConfig:
    """5 Hz; joints may be 100 ms older than the image; /speed has no header and 20 ms of slack."""
    return task_from_dict(
        {
            "name": "test",
            "control_hz": 5.0,
            "image": {
                "topic": IMAGE,
                "camera_info_topic": "/camera/camera_info",
                "height": 16,
                "width": 16,
            },
            "proprioception": [
                {
                    "topic": JOINTS,
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position.knee", "velocity.hip"],
                    "max_age_s": 0.1,
                },
                {
                    "topic": ODOM,
                    "type": "std_msgs/msg/Float32",
                    "fields": ["data"],
                    "max_age_s": 0.1,
                    "slack_s": 0.02,
                },
            ],
            "action": {
                "topic": "/cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "low": [-1.0, -2.0],
                "high": [1.0, 2.0],
            },
            "marker": {"topic": MARKER, "type": "std_msgs/msg/Int32", "fields": ["data"]},
            "episode": {"max_steps": 60},
            "safety": {
                "slew_per_s": [100.0, 100.0],
                "tilt_topic": IMU,
                "deadman_topic": "",
                **safety,
            },
        }
    )


def image(stamp_ms: int, brightness: int = 0) -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Image",
            header=messages.header(stamp_ms * MS, "camera"),
            height=32,
            width=32,
            encoding="rgb8",
            step=96,
            data=np.full(32 * 96, brightness, np.uint8),
        )
    )


def joints(stamp_ms: int, knee: float = 0.0) -> bytes:
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/JointState",
            header=messages.header(stamp_ms * MS, "base"),
            name=["hip", "knee"],
            position=np.array([7.0, knee]),
            velocity=np.array([0.5, 8.0]),
            effort=np.zeros(2),
        )
    )


def imu(stamp_ms: int, roll: float = 0.0) -> bytes:
    orientation = messages.make(
        "geometry_msgs/msg/Quaternion", x=math.sin(roll / 2), w=math.cos(roll / 2)
    )
    return messages.serialise(
        messages.make(
            "sensor_msgs/msg/Imu",
            header=messages.header(stamp_ms * MS, "imu"),
            orientation=orientation,
        )
    )


def number(value: float) -> bytes:
    return messages.serialise(messages.make("std_msgs/msg/Float32", data=value))


def marker(value: int) -> bytes:
    return messages.serialise(messages.make("std_msgs/msg/Int32", data=value))


def joy(*buttons: int) -> bytes:
    return messages.serialise(
        messages.make("sensor_msgs/msg/Joy", buttons=np.asarray(buttons, np.int32))
    )


class Recorder:
    """A controller that remembers its calls and always answers the same."""

    def __init__(self, action: tuple[float, ...] = (0.5, -0.5)) -> None:
        self.action = action
        self.resets = 0
        self.seen: list[tuple[int, list[float], list[float]]] = []
        self.error: Exception | None = None
        self.surprise: float | None = None

    def reset(self) -> None:
        self.resets += 1

    def act(
        self,
        image: npt.NDArray[np.uint8],
        proprioception: npt.NDArray[np.float32],
        previous_action: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        assert image.shape == (16, 16, 3)
        self.seen.append((int(image[0, 0, 0]), proprioception.tolist(), previous_action.tolist()))
        if self.error is not None:
            raise self.error
        return np.asarray(self.action, np.float32)


class Bench:
    """A loop with streams that can be stopped one by one."""

    def __init__(
        self, *, shadow: bool = False, guard: SurpriseGuard | None = None, **safety: Any
    ) -> None:
        self.controller = Recorder()
        self.steady_s = 0.0
        self.loop = ControlLoop(
            make_task(**safety),
            self.controller,
            steady_s=lambda: self.steady_s,
            shadow=shadow,
            guard=guard,
        )

    def feed(self, now_ms: int, *, but: str = "") -> None:
        """All streams at one instant; the image last, as a robot sends it."""
        everything = {
            JOINTS: joints(now_ms, 0.25),
            ODOM: number(1.5),
            IMU: imu(now_ms),
            IMAGE: image(now_ms, now_ms // 10 % 250),
        }
        for topic, data in everything.items():
            if topic != but:
                self.loop.receive(topic, data, now_ms * MS)

    def tick(self, now_ms: int) -> tuple[list[float], list[str]]:
        decision = self.loop.tick(now_ms * MS)
        return decision.command.tolist(), [str(r.cause) for r in decision.verdict.stops]
